"""The classes of a label map as a picture: colour, name and share of the pixels."""

from dataclasses import dataclass

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mtaclip.visualization.palette import Palette, check_labels

_FONT_SIZE = 18
_ROW = 30  # height of a row in pixels
_SWATCH = 20
_GAP = 12  # between swatch, name and share
_MARGIN = 16  # round the picture
_COLUMN_GAP = 40
_MAX_ROWS = 24  # longer lists continue in a further column
_BACKGROUND = (255, 255, 255)
_INK = (24, 24, 24)
_FRAME = (128, 128, 128)
_IGNORED_NAME = "(no label)"


@dataclass(frozen=True)
class LegendEntry:
    """One row of a legend.

    Attributes:
        name: class name.
        colour: (red, green, blue), 0 .. 255.
        share: share of the pixels, 0 .. 1.
    """

    name: str
    colour: tuple[int, int, int]
    share: float


def legend_entries(labels: NDArray[np.uint8], palette: Palette, ignore_label: int = 255) -> list[LegendEntry]:
    """Classes present in a label map, the largest first.

    Args:
        labels: (H, W) uint8 train ids; ignored pixels become a black entry of their own.
        palette: names and colours of the classes.
        ignore_label: label of ignored pixels.

    Raises:
        ValueError: `labels` is not (H, W) uint8, or holds a value that is neither a class nor the ignore label.
    """
    check_labels(labels, len(palette.names), ignore_label)
    values, pixels = np.unique(labels, return_counts=True)
    entries = []
    for index in np.argsort(-pixels, kind="stable").tolist():
        label = int(values[index])
        ignored = label == ignore_label
        red, green, blue = (0, 0, 0) if ignored else palette.colours[label].tolist()
        name = _IGNORED_NAME if ignored else palette.names[label]
        entries.append(LegendEntry(name, (red, green, blue), float(pixels[index] / labels.size)))
    return entries


def draw_legend(labels: NDArray[np.uint8], palette: Palette) -> NDArray[np.uint8]:
    """Draw the legend of a label map; its size follows the number and the length of the names.

    Args:
        labels: (H, W) uint8 train ids, 255 = ignore.
        palette: names and colours of the classes.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: `labels` is not (H, W) uint8, or holds a value that is neither a class nor the ignore label.
    """
    entries = legend_entries(labels, palette)
    font = ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans")), _FONT_SIZE)
    num_columns = -(-len(entries) // _MAX_ROWS)
    num_rows = -(-len(entries) // num_columns)
    name_width = round(max(font.getlength(entry.name) for entry in entries))
    share_width = round(max(font.getlength(_percent(entry.share)) for entry in entries))
    column_width = _SWATCH + name_width + share_width + 2 * _GAP
    width = num_columns * (column_width + _COLUMN_GAP) - _COLUMN_GAP
    size = (width + 2 * _MARGIN, num_rows * _ROW + 2 * _MARGIN)
    picture = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for index, entry in enumerate(entries):
        column, row = divmod(index, num_rows)
        left = _MARGIN + column * (column_width + _COLUMN_GAP)
        middle = _MARGIN + row * _ROW + _ROW // 2
        top = middle - _SWATCH // 2
        draw.rectangle((left, top, left + _SWATCH - 1, top + _SWATCH - 1), fill=entry.colour, outline=_FRAME)
        draw.text((left + _SWATCH + _GAP, middle), entry.name, fill=_INK, font=font, anchor="lm")
        draw.text((left + column_width, middle), _percent(entry.share), fill=_INK, font=font, anchor="rm")
    return np.asarray(picture)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
