"""Which training sample comes when, as a function of a seed and of nothing else.

Samples are numbered from 0 on, over all processes and passes through the data. Number n shows an image and draws
augmentations that depend on the seed and on n alone: not on the number of processes or workers, and not on whether
the run was interrupted before it.
"""

import random
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from torch.utils.data import Dataset, Sampler

from mtaclip.data.image_files import MissingFileError, UnusableFileError

BROKEN = "broken_files"  # key of a sample that another one's broken files are listed under


class TrainingSamples(Dataset):
    """The endless, shuffled sequence of samples; every pass shows every record once.

    Args:
        records: of a dataset, in Detectron2's format.
        mapper: makes a sample of a record; its randomness is seeded before every call (NumPy, `random` and PyTorch).
        seed: of the run, the same in all processes.
        tolerate: a sample may come from another record, drawn by seed and number, after up to this many broken files;
            0 raises the first one's error. Such a sample lists them under `BROKEN`, as (path, reason).
    """

    def __init__(
        self, records: list[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any], seed: int, tolerate: int = 0
    ) -> None:
        self._records = DatasetFromList(records)
        self._mapper = mapper
        self._seed = seed
        self._tolerate = tolerate
        self._order: tuple[int, np.ndarray] | None = None  # pass and its order of records

    def __getitem__(self, number: int) -> Any:
        """Sample `number`, counted from 0 over all passes.

        Raises:
            UnusableFileError, MissingFileError: more files are broken than tolerated, or those of all records.
        """
        epoch, place = divmod(number, len(self._records))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._records))
        first = int(self._order[1][place])
        broken: dict[str, str] = {}
        for index in chain([first], self._others(first, number)):
            _seed_generators(np.random.SeedSequence((self._seed, number)))
            try:
                sample = self._mapper(self._records[index])
            except (UnusableFileError, MissingFileError) as error:
                broken[error.path] = str(error)
                if len(broken) > self._tolerate or len(self._records) == 1:
                    raise
                last = error
                continue
            return sample | {BROKEN: list(broken.items())} if broken else sample
        raise last

    def _others(self, first: int, number: int) -> Iterator[int]:
        """All records but one, in an order of this number's own."""
        for index in np.random.default_rng((self._seed, number, 1)).permutation(len(self._records)):
            if index != first:
                yield int(index)


def _seed_generators(sequence: np.random.SeedSequence) -> None:
    words = sequence.generate_state(4)
    np.random.seed(words)
    random.seed(int(words[0]))
    torch.manual_seed(int(words[1]))


class BatchNumbers(Sampler[list[int]]):
    """Endless batches of sample numbers for one process.

    Every iteration takes the next `total` numbers; process r takes the r-th of `world_size` equal runs of them, in
    `parts` equal batches.

    Args:
        total: samples per iteration, over all processes.
        rank: of this process.
        world_size: number of processes.
        parts: batches that an iteration is split into.
        start: first iteration.
    """

    def __init__(self, total: int, rank: int, world_size: int, parts: int = 1, start: int = 0) -> None:
        self._total, self._rank, self._parts, self._start = total, rank, parts, start
        self._size = total // (world_size * parts)

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self._start
        while True:
            first = iteration * self._total + self._rank * self._parts * self._size
            for part in range(self._parts):
                yield list(range(first + part * self._size, first + (part + 1) * self._size))
            iteration += 1
