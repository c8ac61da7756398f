"""Which training sample comes when, as a function of a seed and of nothing else.

Samples are numbered from 0 on, over all processes and passes through the data. Number n shows an image and draws
augmentations that depend on the seed and on n alone: not on the number of processes or workers, and not on whether
the run was interrupted before it.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from torch.utils.data import Dataset, Sampler


class TrainingSamples(Dataset):
    """The endless, shuffled sequence of samples; every pass shows every record once.

    Args:
        records: of a dataset, in Detectron2's format.
        mapper: makes a sample of a record; its randomness is seeded before every call (NumPy, `random` and PyTorch).
        seed: of the run, the same in all processes.
    """

    def __init__(self, records: list[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any], seed: int) -> None:
        self._records = DatasetFromList(records)
        self._mapper = mapper
        self._seed = seed
        self._order: tuple[int, np.ndarray] | None = None  # pass and its order of records

    def __getitem__(self, number: int) -> Any:
        """Sample `number`, counted from 0 over all passes."""
        epoch, place = divmod(number, len(self._records))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._records))
        _seed_generators(np.random.SeedSequence((self._seed, number)))
        return self._mapper(self._records[int(self._order[1][place])])


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
