"""The loaders: errors of data workers arrive as they were raised; files that could not be used are counted."""

import logging
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from mtaclip.data.sampling import BROKEN
from mtaclip.data.workers import StopSignals, without_interrupts
from mtaclip.problems import is_ours

_logger = logging.getLogger(__name__)


class _ErrorsAsSamples(Dataset):
    """Another dataset, which returns what this package raises: PyTorch would turn it into the text of a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Any:
        try:
            return self._dataset[number]
        except (ValueError, OSError) as error:
            if is_ours(error):
                return error
            raise


class SampleLoader(DataLoader[list[Any]]):
    """A `DataLoader` of lists of samples. An error that this package raises in a data worker is raised here as it is.

    Args:
        dataset: the samples.
        **options: of `DataLoader`.
    """

    def __init__(self, dataset: Dataset, **options: Any) -> None:
        super().__init__(_ErrorsAsSamples(dataset), collate_fn=list, **options)

    def __iter__(self) -> Iterator[list[Any]]:
        """Start the workers; raises the first error of a batch in its place."""
        with without_interrupts():
            batches = super().__iter__()
        return _raise_errors(batches)


def _raise_errors(batches: Iterator[list[Any]]) -> Iterator[list[Any]]:
    for batch in batches:
        for sample in batch:
            if isinstance(sample, Exception):
                raise sample
        yield batch


class TrainingLoader:
    """Batches of a `SampleLoader` of `TrainingSamples`, in whose process broken files are counted.

    Attributes:
        broken: why each broken file met so far could not be used, by path.
    """

    def __init__(self, loader: SampleLoader, tolerate: int, signals: StopSignals) -> None:
        """Wrap a loader whose workers `signals` prepares; `tolerate` different files may be broken."""
        self.broken: dict[str, str] = {}
        self._loader, self._tolerate, self._signals = loader, tolerate, signals

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Start the workers; the batches have no end, and raise ValueError at more broken files than tolerated."""
        return self._batches(iter(self._loader))

    def log_broken(self) -> None:
        """Log, as one warning, the files that were broken; nothing if there were none."""
        if self.broken:
            _logger.warning("%d broken file(s) were replaced by other samples:%s", len(self.broken), self._list())

    def _batches(self, batches: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
        try:
            for batch in batches:
                for sample in batch:
                    self._count(sample.pop(BROKEN, []))
                yield batch
        except Exception:  # the workers will be ended by force
            self._signals.release()
            raise

    def _count(self, files: list[tuple[str, str]]) -> None:
        for path, reason in files:
            if path in self.broken:
                continue
            self.broken[path] = reason
            if len(self.broken) > self._tolerate:
                raise ValueError(
                    f"{len(self.broken)} training files are broken, but DATALOADER.TOLERATE_BROKEN is "
                    f"{self._tolerate}: repair them or raise the key.{self._list()}"
                )
            _logger.warning(
                "another sample replaces a broken one (file %d of DATALOADER.TOLERATE_BROKEN %d): %s",
                len(self.broken),
                self._tolerate,
                reason,
            )

    def _list(self) -> str:
        return "".join(f"\n  {reason}" for reason in self.broken.values())
