"""Where each context (prompt) of a class fires, as a picture.

Shapes: n contexts; h, w size of a panel in pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mtaclip.alignment.explain import Alignment
from mtaclip.visualization.font import sans_font

_PANEL_EDGE = 400  # longer edge of a panel in pixels
_MARGIN = 16
_GAP = 12  # between panels
_CAPTION = 26  # height of the line above a panel
_BAR = (160, 12)  # width and height of the colour bar
_OPACITY = 0.75  # of the colours over the image
_FONT_SIZE = 15
_PAPER, _INK = (255, 255, 255), (27, 31, 36)
COLOURS = (255 * np.array(colormaps["viridis"].colors)).round().astype(np.uint8)  # (256, 3), readable without hues


def draw_context_maps(alignment: Alignment, texts: Sequence[int]) -> NDArray[np.uint8]:
    """Draw `Alignment.context_maps` over the image: a row for each class text, a column for each context.

    All panels have the same scale, from 0 to the largest value of any of them.

    Args:
        alignment: of an image.
        texts: numbers of the class texts, at least one.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    maps = np.stack([alignment.context_maps(number) for number in texts])
    largest = max(float(maps.max()), np.finfo(np.float32).tiny)
    height, width = _panel_size(alignment.image.shape)
    rows, columns = maps.shape[:2]
    font = sans_font(_FONT_SIZE)
    captions = [
        [f"prompt {z + 1} of '{alignment.texts[number]}', max {maps[row, z].max():.2f}" for z in range(columns)]
        for row, number in enumerate(texts)
    ]
    pitch = max(width, *(round(font.getlength(caption)) for line in captions for caption in line)) + _GAP
    size = (
        max(columns * pitch - _GAP, 2 * _BAR[0]) + 2 * _MARGIN,
        rows * (height + _CAPTION + _GAP) + _CAPTION + 2 * _MARGIN,
    )
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    grey = cv2.cvtColor(cv2.resize(alignment.image, (width, height)), cv2.COLOR_RGB2GRAY)
    for row in range(rows):
        for column in range(columns):
            left, top = _MARGIN + column * pitch, _MARGIN + row * (height + _CAPTION + _GAP)
            draw.text((left, top + _CAPTION // 2), captions[row][column], fill=_INK, font=font, anchor="lm")
            picture.paste(Image.fromarray(_panel(maps[row, column] / largest, grey)), (left, top + _CAPTION))
    _draw_bar(picture, draw, font, size[1] - _MARGIN - _BAR[1], largest)
    return np.asarray(picture)


def _panel_size(shape: tuple[int, ...]) -> tuple[int, int]:
    scale = _PANEL_EDGE / max(shape[:2])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _panel(values: NDArray[np.float32], grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Values (.., ..) in 0 .. 1 as colours over a grey image (h, w)."""
    height, width = grey.shape
    enlarged = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = COLOURS[np.rint(255.0 * enlarged.clip(0.0, 1.0)).astype(np.uint8)]
    return np.rint(_OPACITY * colours + (1.0 - _OPACITY) * grey[..., None]).astype(np.uint8)


def _draw_bar(
    picture: Image.Image, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, top: int, largest: float
) -> None:
    """The scale of the colours, with its ends."""
    width, height = _BAR
    shades = COLOURS[np.linspace(0, 255, width).round().astype(np.uint8)]
    left = _MARGIN + round(font.getlength("0")) + _GAP
    picture.paste(Image.fromarray(np.repeat(shades[None], height, axis=0)), (left, top))
    middle = top + height // 2
    draw.text((_MARGIN, middle), "0", fill=_INK, font=font, anchor="lm")
    draw.text((left + width + _GAP, middle), f"{largest:.2f}", fill=_INK, font=font, anchor="lm")
