"""What is known of every image, and its sum over all images, each counted once.

Shapes: `C` classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray


@dataclass
class Tables:
    """Counts of one image or of many.

    Attributes:
        counts: (C, C) int64 confusion matrix, rows = ground truth.
        weighted: (C, C) float64, the same of counted objects, weighted (`mtaclip.evaluation.instances`).
        boundary: (2, C) int64, intersection and union (`mtaclip.evaluation.boundary`).
        num_images: number of images.
        num_instance_maps: number of images whose objects are in `weighted`.
    """

    counts: NDArray[np.int64]
    weighted: NDArray[np.float64]
    boundary: NDArray[np.int64]
    num_images: int = 0
    num_instance_maps: int = 0

    @classmethod
    def empty(cls, num_classes: int) -> "Tables":
        """Tables without any image."""
        square = (num_classes, num_classes)
        return cls(np.zeros(square, np.int64), np.zeros(square), np.zeros((2, num_classes), np.int64))

    def add(self, other: "Tables") -> None:
        """Add the counts of other images."""
        self.counts += other.counts
        self.weighted += other.weighted
        self.boundary += other.boundary
        self.num_images += other.num_images
        self.num_instance_maps += other.num_instance_maps


_ARRAYS = ("counts", "weighted", "boundary")
_NUMBERS = ("num_images", "num_instance_maps")


class ImageTables:
    """The tables of each image of this process, without their zeros: a few kB per image, which never travel."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._images: dict[int, tuple[list[tuple[NDArray[np.int32], NDArray]], list[int]]] = {}

    def set(self, name: str, tables: Tables) -> None:
        """Store the tables of the image `name`; an image that comes again takes its own place."""
        arrays = []
        for key in _ARRAYS:
            flat = getattr(tables, key).ravel()
            places = np.flatnonzero(flat)
            arrays.append((places.astype(np.int32), flat[places]))
        self._images[_digest(name)] = (arrays, [getattr(tables, key) for key in _NUMBERS])

    def sum(self, distributed: bool) -> Tables | None:
        """Sum over the images, each of them once, however often samplers hand it out and to whom.

        Args:
            distributed: over the images of all processes. 8 bytes per image and the tables of each process travel.

        Returns:
            the sum; None in all processes but the main one if `distributed`.
        """
        if not distributed:
            return self._sum_of(self._images)
        keys = comm.all_gather(np.fromiter(self._images, np.uint64, len(self._images)))
        before = {int(key) for part in keys[: comm.get_rank()] for key in part}
        parts: list[Tables] = comm.gather(self._sum_of(key for key in self._images if key not in before), dst=0)
        if not comm.is_main_process():
            return None
        total = Tables.empty(self._num_classes)
        for part in parts:
            total.add(part)
        return total

    def _sum_of(self, keys: Iterable[int]) -> Tables:
        total = Tables.empty(self._num_classes)
        for key in keys:
            arrays, numbers = self._images[key]
            for name, (places, values) in zip(_ARRAYS, arrays, strict=True):
                getattr(total, name).reshape(-1)[places] += values
            for name, number in zip(_NUMBERS, numbers, strict=True):
                setattr(total, name, getattr(total, name) + number)
        return total


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
