"""Confusion matrix of semantic segmentation, counted image by image."""

import numpy as np
from numpy.typing import NDArray

# Labels are uint8, so there are at most 256 values and 65536 pairs of them.
_VALUES = 256


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
        pairs = truth.astype(np.uint16) * _VALUES + prediction
        table = np.bincount(pairs.ravel(), minlength=_VALUES**2).reshape(_VALUES, _VALUES)
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
