"""Confusion matrix of semantic segmentation, counted image by image."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Labels are uint8, so there are at most 256 values and 65536 pairs of them.
_VALUES = 256
# OpenCV hands its counts over in float32, which holds whole numbers up to here.
_MAX_PIXELS = 2**24


def count_pairs(rows: NDArray[np.uint8], columns: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each pair of values lies at the same place of two maps of one size.

    OpenCV's histogram of 16-bit values, on maps laid together byte by byte, takes half the time of `np.bincount`.

    Args:
        rows: uint8, of any shape.
        columns: uint8, of the same shape.

    Returns:
        (256, 256) int64; entry [r, c] counts the places with r in `rows` and c in `columns`.
    """
    table = np.zeros(_VALUES**2, dtype=np.int64)
    low, high = (columns, rows) if np.little_endian else (rows, columns)
    low, high = low.reshape(1, -1), high.reshape(1, -1)
    for start in range(0, low.size, _MAX_PIXELS):
        part = slice(start, start + _MAX_PIXELS)
        pairs = cv2.merge((low[:, part], high[:, part])).view(np.uint16)
        table += cv2.calcHist([pairs], [0], None, [_VALUES**2], [0, _VALUES**2]).ravel().astype(np.int64)
    return table.reshape(_VALUES, _VALUES)


class ConfusionMatrix:
    """Counts how many pixels of every true class were predicted as every class.

    Memory does not grow with the number of images. Pixels whose true label is the ignore label are not counted,
    whatever was predicted there.

    Attributes:
        counts: (C, C) int64, rows = ground truth, columns = prediction. Matrices of disjoint image sets add up.
        num_classes: number C of classes.
        ignore_label: the true label of pixels that do not count.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255) -> None:
        """Start with no pixel counted.

        Args:
            num_classes: number C of classes, 1 to 255.
            ignore_label: the true label of pixels that do not count; outside 0 .. C-1 and at most 255.

        Raises:
            ValueError: the class count or the ignore label does not fit into uint8 labels.
        """
        if not 0 < num_classes < _VALUES:
            raise ValueError(f"the number of classes must be between 1 and {_VALUES - 1}, not {num_classes}.")
        if not num_classes <= ignore_label < _VALUES:
            raise ValueError(
                f"the ignore label must lie between the number of classes ({num_classes}) and {_VALUES - 1}, "
                f"not {ignore_label}."
            )
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8], source: str) -> None:
        """Add the pixels of one image.

        Args:
            prediction: (H, W) uint8, classes 0 .. C-1 everywhere, also where `truth` is the ignore label.
            truth: (H, W) uint8, classes 0 .. C-1 or the ignore label.
            source: name of the label file, for error messages.

        Raises:
            TypeError: a map is not uint8.
            ValueError: the sizes differ, or a map holds a value that is no class. Nothing was counted then.
        """
        if prediction.dtype != np.uint8 or truth.dtype != np.uint8:
            raise TypeError(f"label maps must be uint8, not {prediction.dtype} (predicted) and {truth.dtype} (true).")
        if prediction.shape != truth.shape:
            raise ValueError(
                f"{source}: the label map is {_size(truth)} pixels (height x width) and the prediction "
                f"{_size(prediction)}; predictions must have the size of the labels."
            )
        table = count_pairs(truth, prediction)
        self._check_values(table, source)
        self.counts += table[: self.num_classes, : self.num_classes]

    def _check_values(self, table: NDArray[np.int64], source: str) -> None:
        """Raise if `table`, (256, 256) counts of (true, predicted) values, has a pixel outside the classes."""
        known = np.zeros(_VALUES, dtype=bool)
        known[: self.num_classes] = True
        if table[:, ~known].any():
            value = int(np.flatnonzero(table.any(axis=0) & ~known)[0])
            raise ValueError(f"{source}: the prediction holds the label {value}, outside 0 .. {self.num_classes - 1}.")
        known[self.ignore_label] = True
        if table[~known].any():
            value = int(np.flatnonzero(table.any(axis=1) & ~known)[0])
            raise ValueError(
                f"{source}: the label map holds the label {value}, which is neither a class "
                f"(0 .. {self.num_classes - 1}) nor the ignore label {self.ignore_label}; "
                "check the dataset's label format."
            )


def _size(label_map: NDArray[np.uint8]) -> str:
    return " x ".join(str(side) for side in label_map.shape)
