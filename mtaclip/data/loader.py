"""The training loader, and its account of files that could not be used."""

import logging
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from mtaclip.data.sampling import BROKEN

_logger = logging.getLogger(__name__)


class TrainingLoader:
    """Batches of a `DataLoader` of `TrainingSamples`, in whose process broken files are counted.

    Attributes:
        broken: why each broken file met so far could not be used, by path.
    """

    def __init__(self, loader: DataLoader[list[dict[str, Any]]], tolerate: int) -> None:
        """Wrap a loader; `tolerate` is the number of different files that may be broken."""
        self.broken: dict[str, str] = {}
        self._loader, self._tolerate = loader, tolerate

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Start the workers; the batches have no end, and raise ValueError at more broken files than tolerated."""
        return map(self._counted, iter(self._loader))

    def log_broken(self) -> None:
        """Log, as one warning, the files that were broken; nothing if there were none."""
        if self.broken:
            _logger.warning("%d broken file(s) were replaced by other samples:%s", len(self.broken), self._list())

    def _counted(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for sample in batch:
            self._count(sample.pop(BROKEN, []))
        return batch

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
