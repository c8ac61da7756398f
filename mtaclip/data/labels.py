"""Label maps: every one becomes train ids here.

Shapes: `H, W` the size of a file, `C` classes. Train ids are 0 .. C-1, and 255 where a pixel is ignored.
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as CITYSCAPES_LABELS
from numpy.typing import NDArray

from mtaclip.data.image_files import UnusableFileError, read_label_values, unusable

IGNORE_LABEL = 255
LABEL_FORMATS = ("cityscapes_label_ids", "train_ids", "ade20k")

_ILLEGAL = 254  # marks, in a look-up table, the values that a file must not hold; never a train id
_MAX_CLASSES = 254
_CITYSCAPES_CLASSES = 19
_ADE20K_CLASSES = 150


def read_label_map(
    path: str | Path, label_format: str = "train_ids", num_classes: int | None = None
) -> NDArray[np.uint8]:
    """Read a label map and translate it to train ids.

    Args:
        path: an image with one channel (grey or palette indices) of at most 8 bits.
        label_format: one of `LABEL_FORMATS`. "cityscapes_label_ids": the raw ids of `*_gtFine_labelIds.png`, those
            that Cityscapes does not evaluate become 255. "train_ids": already 0 .. C-1, and 255. "ade20k": 0 becomes
            255, k becomes k - 1.
        num_classes: number C of classes; None takes 19 for Cityscapes, 150 for ADE20K, and for "train_ids" allows
            every id up to 253.

    Returns:
        uint8 (H, W): train ids 0 .. C-1, and 255 where a pixel is ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown format, impossible class count, a damaged file, more than 8 bits or one channel, or values
            that the format does not have.
    """
    table = _table(label_format, num_classes)
    raw = read_label_values(path)
    labels: NDArray[np.uint8] = cv2.LUT(raw, table)
    if (labels == _ILLEGAL).any():
        raise _illegal_values(path, raw, table, label_format)
    return labels


def label_table(label_format: str, num_classes: int | None = None) -> NDArray[np.int64]:
    """Return the train id of every raw value of a format.

    Args:
        label_format: one of `LABEL_FORMATS`.
        num_classes: as in `read_label_map`.

    Returns:
        int64 (256,): 0 .. C-1, 255 = ignored, -1 = the format has no such value.

    Raises:
        ValueError: unknown format or impossible class count.
    """
    table = _table(label_format, num_classes).astype(np.int64)
    table[table == _ILLEGAL] = -1
    return table


@lru_cache(maxsize=32)
def _table(label_format: str, num_classes: int | None) -> NDArray[np.uint8]:
    if label_format not in LABEL_FORMATS:
        raise ValueError(f"unknown label format '{label_format}': use one of {', '.join(LABEL_FORMATS)}.")
    if num_classes is not None and not 1 <= num_classes <= _MAX_CLASSES:
        raise ValueError(f"8-bit label maps hold 1 to {_MAX_CLASSES} classes, not {num_classes}.")
    table = np.full(256, _ILLEGAL, dtype=np.uint8)
    table[255] = IGNORE_LABEL
    if label_format == "cityscapes_label_ids":
        if num_classes not in (None, _CITYSCAPES_CLASSES):
            raise ValueError(
                f"label format 'cityscapes_label_ids' has {_CITYSCAPES_CLASSES} classes, not {num_classes}: "
                "use 'train_ids' for labels of your own."
            )
        for label in CITYSCAPES_LABELS:  # the id -1 of licence plates is stored as 255
            table[label.id % 256] = IGNORE_LABEL if label.ignoreInEval else label.trainId
    elif label_format == "ade20k":
        classes = _ADE20K_CLASSES if num_classes is None else num_classes
        table[255] = _ILLEGAL
        table[0] = IGNORE_LABEL
        table[1 : classes + 1] = np.arange(classes)
    else:
        classes = _MAX_CLASSES if num_classes is None else num_classes
        table[:classes] = np.arange(classes)
    table.setflags(write=False)
    return table


def _illegal_values(
    path: str | Path, raw: NDArray[np.uint8], table: NDArray[np.uint8], label_format: str
) -> UnusableFileError:
    illegal = [int(value) for value in np.unique(raw) if table[value] == _ILLEGAL]
    shown = ", ".join(map(str, illegal[:8])) + (", ..." if len(illegal) > 8 else "")
    allowed = _ranges(np.flatnonzero(table != _ILLEGAL))
    return unusable(
        path,
        f"label map {path} holds the value(s) {shown}, which label format '{label_format}' does not have "
        f"(allowed: {allowed}): check the label format, the class count or the file.",
    )


def _ranges(values: NDArray[np.int64]) -> str:
    # [0, 1, 2, 255] -> "0..2, 255"
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
