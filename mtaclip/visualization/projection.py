"""Masks and class texts in CLIP's space, projected to a plane.

Letters: M masks, C classes, n contexts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtaclip.alignment.collection import AlignedMasks
from mtaclip.alignment.separation import project
from mtaclip.visualization.page import Html, element
from mtaclip.visualization.palette import Palette
from mtaclip.visualization.svg import drawing, number, text, text_width, tip

_PLANE, _LARGE_PLANE = (680, 560), (1000, 1000)  # width and height in pixels
_MANY = 40  # with more classes the plane is large
_INSET = 24  # between its frame and the outermost mark
_MARGIN = 16
_RADIUS = 4  # of a mask's dot
_SIDE = 14  # of a text's square
_IDLE_SIDE = 6
_ROW = 20  # of the legend
_FULL_COLUMN = 26  # rows; longer legends continue in a further column
_MAX_COLUMNS = 3  # of the legend
_GAP = 16  # between columns
_TITLE = 68  # height of the lines above the plane
_BRIGHT = 140  # of 255; darker marks have white numbers
HEADS = ("class", "masks", "silhouette", "margin")


@dataclass(frozen=True)
class _Mark:
    """How a class is shown."""

    number: int
    fill: str
    light: bool  # whether its number is white


def draw_projection(masks: AlignedMasks, palette: Palette) -> Html:
    """Draw masks as dots and the class texts, one for each context, as squares on the tip with the class's number,
    or small and without it where no mask of the class is closest to that context.

    Both are projected to the plane in which the masks and the texts of their classes differ most. Classes without a
    mask are left out.

    Args:
        masks: of two or more classes.
        palette: names and colours of the classes.

    Raises:
        ValueError: all masks are of one class.
    """
    present = np.unique(masks.classes).tolist()
    texts = masks.texts[:, present]
    contexts = len(texts)
    coordinates, shares = project(np.concatenate([masks.embeddings, texts.reshape(-1, texts.shape[-1])]))
    size = _LARGE_PLANE if len(present) > _MANY else _PLANE
    places = _placed(coordinates, size)
    marks = {label: _mark(rank, palette.colours[label]) for rank, label in enumerate(present, start=1)}
    rows = separation_rows(masks, palette)
    dots = [
        _dot(place, marks[label], f"{palette.names[label]} in {name}")
        for place, label, name in zip(places, masks.classes.tolist(), masks.images, strict=False)
    ]
    preferred = _preferred(masks)
    squares = [
        (_square if preferred[z, label] else _idle)(place, marks[label], f"prompt {z + 1} of '{palette.names[label]}'")
        for place, (z, label) in zip(
            places[len(dots) :], ((z, label) for z in range(contexts) for label in present), strict=True
        )
    ]
    frame = element("rect", class_="frame", x="0", y="0", width=str(size[0]), height=str(size[1]))
    plane = element("g", frame, *dots, *squares, transform=f"translate({_MARGIN} {_MARGIN + _TITLE})")
    legend, extent = _legend(list(marks.values()), rows[1:])
    beside = element("g", legend, transform=f"translate({_MARGIN + size[0] + 2 * _GAP} {_MARGIN + _TITLE})")
    total = (size[0] + 2 * _MARGIN + 2 * _GAP + extent[0], max(size[1], extent[1]) + 2 * _MARGIN + _TITLE)
    return drawing(
        *total, *_title(masks, rows[0], shares), plane, beside, label="Masks and class texts in CLIP's space"
    )


def separation_rows(masks: AlignedMasks, palette: Palette) -> list[list[str]]:
    """Number of masks, mean silhouette and mean margin, of all masks first, then of every class that has some.

    Args:
        masks: of two or more classes.
        palette: names of the classes.

    Returns:
        rows of text in the columns of HEADS.

    Raises:
        ValueError: all masks are of one class.
    """
    silhouettes, margins = masks.silhouettes(), masks.margins()
    parts = [("all", np.ones(len(margins), bool))]
    parts += [(palette.names[label], masks.classes == label) for label in np.unique(masks.classes).tolist()]
    return [
        [name, str(int(part.sum())), number(silhouettes[part].mean()), number(margins[part].mean())]
        for name, part in parts
    ]


def _title(masks: AlignedMasks, everything: list[str], shares: NDArray[np.float64]) -> list[Html]:
    _, count, silhouette, margin = everything
    first = f"{count} masks of {masks.num_images} images: mean silhouette {silhouette}, mean margin {margin}"
    second = "Dots: masks. Numbers: prompted class texts; small squares: those that no mask of the class prefers."
    third = f"The plane has {100.0 * shares.sum():.0f} % of the variance."
    return [
        text(_MARGIN, _MARGIN + 13, first, "strong"),
        text(_MARGIN, _MARGIN + 34, second, "muted"),
        text(_MARGIN, _MARGIN + 52, third, "muted"),
    ]


def _preferred(masks: AlignedMasks) -> NDArray[np.bool_]:
    """Whether any mask of a class is closer to that context than to the others, (n, C)."""
    cosines = np.einsum("md,nmd->mn", masks.embeddings, masks.texts[:, masks.classes])
    preferred = np.zeros(masks.texts.shape[:2], bool)
    preferred[cosines.argmax(axis=1), masks.classes] = True
    return preferred


def _placed(coordinates: NDArray[np.float64], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Points of the plane in pixels, with one scale for both directions."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    room = np.array(size) - 2.0 * _INSET
    scale = (room / np.maximum(high - low, np.finfo(np.float64).tiny)).min()
    centred = (coordinates - (low + high) / 2.0) * scale * [1.0, -1.0] + np.array(size) / 2.0
    return [(float(x), float(y)) for x, y in centred]


def _mark(number: int, colour: NDArray[np.uint8]) -> _Mark:
    red, green, blue = colour.tolist()
    return _Mark(number, f"rgb({red},{green},{blue})", 0.299 * red + 0.587 * green + 0.114 * blue < _BRIGHT)


def _dot(place: tuple[float, float], mark: _Mark, words: str) -> Html:
    x, y = place
    where = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": str(_RADIUS)}
    return element("circle", tip(words), class_="point", fill=mark.fill, **where)


def _square(place: tuple[float, float], mark: _Mark, words: str) -> Html:
    corner, side = str(-_SIDE / 2), str(_SIDE)
    square = element(
        "rect", x=corner, y=corner, width=side, height=side, rx="2", fill=mark.fill, transform="rotate(45)"
    )
    kinds = [kind for kind, used in (("light", mark.light), ("long", mark.number > 99)) if used]
    shown = text(0, 3, str(mark.number), " ".join(kinds) or None)
    return element(
        "g", tip(words), square, shown, class_="prompt", transform=f"translate({place[0]:.1f} {place[1]:.1f})"
    )


def _idle(place: tuple[float, float], mark: _Mark, words: str) -> Html:
    half = _IDLE_SIDE / 2
    where = {"x": f"{place[0] - half:.1f}", "y": f"{place[1] - half:.1f}"}
    size = {"width": str(_IDLE_SIDE), "height": str(_IDLE_SIDE)}
    return element("rect", tip(words), class_="idle", fill=mark.fill, **where, **size)


def _legend(marks: list[_Mark], rows: list[list[str]]) -> tuple[Html, tuple[float, float]]:
    """Number, colour and figures of every class, and the width and height in pixels that they need."""
    widths = [max(map(text_width, column)) for column in zip(HEADS, *rows, strict=True)]
    widths[0] += 2 * _GAP
    edges = [sum(widths[: column + 1]) + column * _GAP for column in range(len(widths))]  # right ends
    pitch = edges[-1] + 2 * _GAP
    length = max(_FULL_COLUMN, -(-len(rows) // _MAX_COLUMNS))
    columns = -(-len(rows) // length)
    parts = []
    for block in range(columns):
        left = block * pitch
        parts.append(text(left + 2 * _GAP, 10, HEADS[0], "muted"))
        parts += [text(left + edge, 10, head, "muted end") for head, edge in zip(HEADS[1:], edges[1:], strict=True)]
        first = block * length
        listed = zip(marks[first : first + length], rows[first : first + length], strict=True)
        for line, (mark, row) in enumerate(listed, start=1):
            base = 12 + line * _ROW
            parts.append(_square((left + 10, base - 4), mark, row[0]))
            parts.append(text(left + 2 * _GAP, base, row[0]))
            parts += [text(left + edge, base, cell, "end") for cell, edge in zip(row[1:], edges[1:], strict=True)]
    return element("g", *parts), (columns * pitch - 2 * _GAP, (min(length, len(rows)) + 1.0) * _ROW)
