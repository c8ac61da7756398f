"""Labelled images of a dataset side by side on one picture, with the legend of all.

Shapes: `H, W` image size; they may differ from image to image.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mtaclip.visualization.legend import count_pixels, draw_legend, legend_entries
from mtaclip.visualization.overlay import draw_overlay, draw_side_by_side
from mtaclip.visualization.painter import Segmented
from mtaclip.visualization.palette import Palette

_EDGE = 320  # longer edge of an image on the sheet
_COLUMNS = 2
_GAP = 16
_PAPER = 255


def draw_contact_sheet(samples: Sequence[Segmented], palette: Palette) -> NDArray[np.uint8]:
    """Draw images beside the same images under their labels, two to a row, and below them the legend.

    Args:
        samples: one or more images with labels.
        palette: names and colours of the classes.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: an image and its labels do not fit each other or the palette.
    """
    tiles = [_draw_tile(sample, palette) for sample in samples]
    pixels = sum(count_pixels(sample.labels, palette) for sample in samples)
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    tiles = [_pad(tile, height + _GAP, width + _GAP) for tile in tiles]
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    parts = [*rows, draw_legend(legend_entries(pixels, palette))]
    widest = max(part.shape[1] for part in parts)
    sheet = np.vstack([_pad(part, part.shape[0], widest) for part in parts])
    return np.pad(sheet, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=_PAPER)


def _draw_tile(sample: Segmented, palette: Palette) -> NDArray[np.uint8]:
    scale = _EDGE / max(sample.image.shape[:2])
    size = [max(1, round(length * scale)) for length in sample.image.shape[1::-1]]  # width, height
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(sample.image, size, interpolation=method)
    labels = cv2.resize(sample.labels, size, interpolation=cv2.INTER_NEAREST)
    return draw_side_by_side(image, draw_overlay(image, labels, palette, min_edge=0))


def _pad(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Fill up with paper at the bottom and the right."""
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=_PAPER)
