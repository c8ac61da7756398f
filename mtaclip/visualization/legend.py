"""The classes of label maps as a picture: colour, name and share of the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mtaclip.visualization.font import sans_font
from mtaclip.visualization.palette import Palette, check_labels

_FONT_SIZE = 18
_ROW = 30  # height of a row in pixels
_SWATCH = 20
_GAP = 12  # between swatch, name and share
_MARGIN = 16  # round the picture
_COLUMN_GAP = 40
_MAX_ROWS = 24  # longer lists continue in a further column
_LIGHT, _DARK = (255, 255, 255), (24, 24, 24)
_GROUNDS = {"light": (_LIGHT, _DARK), "dark": (_DARK, _LIGHT)}  # background and ink
_FRAME = (128, 128, 128)
_IGNORED_NAME = "(no label)"

LEGEND_BACKGROUNDS = tuple(_GROUNDS)


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


def count_pixels(labels: NDArray[np.uint8], palette: Palette, ignore_label: int = 255) -> NDArray[np.int64]:
    """Pixels of every label; sums over label maps give the legend of several.

    Args:
        labels: (H, W) uint8 train ids, or the ignore label.
        palette: names and colours of the classes.
        ignore_label: label of ignored pixels.

    Returns:
        (256,) int64.

    Raises:
        ValueError: `labels` is not (H, W) uint8, or holds a value that is neither a class nor the ignore label.
    """
    check_labels(labels, len(palette.names), ignore_label)
    return np.bincount(labels.ravel(), minlength=256)


def legend_entries(
    pixels: NDArray[np.int64], palette: Palette, ignore_label: int = 255, ignored_name: str = _IGNORED_NAME
) -> list[LegendEntry]:
    """Classes that have pixels, the largest first.

    Args:
        pixels: (256,) pixels of every label; ignored ones become a black entry of their own.
        palette: names and colours of the classes.
        ignore_label: label of ignored pixels.
        ignored_name: what the legend calls them.
    """
    entries = []
    for label in np.argsort(-pixels, kind="stable").tolist():
        if pixels[label] == 0:
            break
        ignored = label == ignore_label
        red, green, blue = (0, 0, 0) if ignored else palette.colours[label].tolist()
        name = ignored_name if ignored else palette.names[label]
        entries.append(LegendEntry(name, (red, green, blue), float(pixels[label] / pixels.sum())))
    return entries


def draw_legend(entries: Sequence[LegendEntry], background: str = "light") -> NDArray[np.uint8]:
    """Draw a legend; its size follows the number and the length of the names.

    Args:
        entries: one or more rows, in their order.
        background: one of `LEGEND_BACKGROUNDS`.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    ground, ink = _GROUNDS[background]
    font = sans_font(_FONT_SIZE)
    num_columns = -(-len(entries) // _MAX_ROWS)
    num_rows = -(-len(entries) // num_columns)
    columns = [entries[first : first + num_rows] for first in range(0, len(entries), num_rows)]
    widths = [_column_width(column, font) for column in columns]
    width = sum(widths) + (len(columns) - 1) * _COLUMN_GAP
    picture = Image.new("RGB", (width + 2 * _MARGIN, num_rows * _ROW + 2 * _MARGIN), ground)
    draw = ImageDraw.Draw(picture)
    left = _MARGIN
    for column, column_width in zip(columns, widths, strict=True):
        for row, entry in enumerate(column):
            middle = _MARGIN + row * _ROW + _ROW // 2
            top = middle - _SWATCH // 2
            draw.rectangle((left, top, left + _SWATCH - 1, top + _SWATCH - 1), fill=entry.colour, outline=_FRAME)
            draw.text((left + _SWATCH + _GAP, middle), entry.name, fill=ink, font=font, anchor="lm")
            draw.text((left + column_width, middle), _percent(entry.share), fill=ink, font=font, anchor="rm")
        left += column_width + _COLUMN_GAP
    return np.asarray(picture)


def _column_width(entries: Sequence[LegendEntry], font: ImageFont.FreeTypeFont) -> int:
    """Room for swatch, longest name and longest share."""
    name = max(font.getlength(entry.name) for entry in entries)
    share = max(font.getlength(_percent(entry.share)) for entry in entries)
    return _SWATCH + round(name) + round(share) + 2 * _GAP


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
