"""Class names inside the segments of a picture.

Shapes: `H, W` size of the picture. A box is (left, top, right, bottom) in pixels.
"""

from functools import lru_cache

import cv2
import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mtaclip.visualization.palette import Palette

Box = tuple[int, int, int, int]

_SMALLEST_FONT = 14  # pixels
_FONT_SHARE = 1 / 65  # of the square root of the picture's area
_INK = (255, 255, 255)
_GROUND_OPACITY = 0.75  # of the black box behind a name
_PADDING = 3  # pixels of the box round a name
_GAP = 2  # pixels kept free round a box
_TRIES = 8  # places tried for one name


@lru_cache(maxsize=8)
def sans_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures, DejaVu Sans, which comes with matplotlib.

    Args:
        size: in pixels.
    """
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans")), size)


def draw_captions(picture: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Palette) -> NDArray[np.uint8]:
    """Write the name of every class deep inside its largest segment; names keep clear of each other.

    Args:
        picture: (H, W, 3) uint8 RGB; not changed.
        labels: (H, W) uint8 train ids; other values get no name.
        palette: names of the classes.

    Returns:
        (H, W, 3) uint8 RGB. A class whose name finds no room stays without one.
    """
    height, width = labels.shape
    font = sans_font(max(_SMALLEST_FONT, round((height * width) ** 0.5 * _FONT_SHARE)))
    ascent, descent = font.getmetrics()
    pixels = np.bincount(labels.ravel(), minlength=256)[: len(palette.names)]
    boxes: list[tuple[str, Box]] = []
    for label in np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)].tolist():
        size = (round(font.getlength(palette.names[label])) + 2 * _PADDING, ascent + descent + 2 * _PADDING)
        box = _find_room(labels == label, size, [other for _, other in boxes])
        if box is not None:
            boxes.append((palette.names[label], box))
    return _write(picture, boxes, font)


def _find_room(segment: NDArray[np.bool_], size: tuple[int, int], taken: list[Box]) -> Box | None:
    """Place a box of a size deep inside a segment where it covers no other, or nowhere."""
    width, height = size
    # Distance of every pixel to the nearest one outside the segment; beyond the image is outside, too.
    depth = cv2.distanceTransform(np.pad(segment, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    for _ in range(_TRIES):
        deepest = depth.max()
        if deepest < height / 2:
            return None
        ridge = np.argwhere(depth > 0.95 * deepest)
        y, x = ridge[np.square(ridge - ridge.mean(axis=0)).sum(axis=1).argmin()].tolist()
        box = _box_inside(x, y, size, segment.shape)
        if box is not None and not any(_overlap(box, other) for other in taken):
            return box
        top, left = max(y - height, 0), max(x - width // 2, 0)
        depth[top : y + height + 1, left : x + width // 2 + 1] = 0.0  # look elsewhere next time
    return None


def _box_inside(x: int, y: int, size: tuple[int, int], shape: tuple[int, ...]) -> Box | None:
    """Box round a point, moved into the picture; None if it is larger than the picture."""
    width, height = size
    if width + 2 * _GAP > shape[1] or height + 2 * _GAP > shape[0]:
        return None
    left = min(max(x - width // 2, _GAP), shape[1] - _GAP - width)
    top = min(max(y - height // 2, _GAP), shape[0] - _GAP - height)
    return left, top, left + width, top + height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] - _GAP < b[2] and b[0] - _GAP < a[2] and a[1] - _GAP < b[3] and b[1] - _GAP < a[3]


def _write(picture: NDArray[np.uint8], boxes: list[tuple[str, Box]], font: ImageFont.FreeTypeFont) -> NDArray[np.uint8]:
    darkened = picture.copy()
    for _, (left, top, right, bottom) in boxes:
        behind = darkened[top:bottom, left:right]
        behind[:] = np.rint((1.0 - _GROUND_OPACITY) * behind)
    written = Image.fromarray(darkened)
    draw = ImageDraw.Draw(written)
    for name, (left, top, _, _) in boxes:
        draw.text((left + _PADDING, top + _PADDING), name, fill=_INK, font=font)
    return np.array(written)
