"""The segments of an image, numbered, with the class text that each of them is closest to.

Shapes: H, W size at which the model sees the image; h, w that of the picture.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtaclip.alignment.explain import Alignment, Segment
from mtaclip.visualization.encode import encode_jpeg
from mtaclip.visualization.page import Html, data_address, element
from mtaclip.visualization.palette import Palette
from mtaclip.visualization.svg import drawing, number, text, text_width, tip

HEADS = ("", "class", "closest text", "prompt", "cosine", "score", "query")
NAMES = 3  # columns of HEADS that hold names, at the left

_PICTURE_EDGE = 720  # longer edge of the picture in pixels
_QUALITY = 90  # of its JPEG
_RADIUS = 9  # of a badge
_TRIES = 12  # places tried for a badge
_MARGIN = 16
_ROW = 24
_GAP = 18  # between columns
_MAX_ROWS = 24  # of the table beside the picture

Place = tuple[float, float]


def draw_segments(alignment: Alignment, palette: Palette, *, table: bool = True) -> Html:
    """Draw the image under its segments in the colours of their classes, each with its number.

    A segment that is pointed at tells what the table says of it. A segment that is too small for the picture, or whose
    number finds no room between others, has none.

    Args:
        alignment: of the image.
        palette: names and colours of the classes.
        table: list the largest segments beside the picture.
    """
    segments = alignment.segments()
    rows = segment_rows(alignment, palette)
    numbers = _enlarged(alignment.segment_map())
    height, width = numbers.shape
    photo = element("image", href=_jpeg(alignment.image, (width, height)), width=str(width), height=str(height))
    shapes = [
        _shape(numbers == index, palette.colours[segment.label], _tip(row))
        for index, (segment, row) in enumerate(zip(segments, rows, strict=True))
    ]
    badges = [_badge(place, str(index + 1)) for index, place in _places(numbers, len(segments)).items()]
    picture = element("g", photo, *shapes, *badges, transform=f"translate({_MARGIN} {_MARGIN})")
    size = (width + 2 * _MARGIN, height + 2 * _MARGIN)
    label = f"{len(segments)} segments of an image, numbered"
    if not table:
        return drawing(*size, picture, label=label)
    listed, extent = _table(segments, rows, palette)
    beside = element("g", listed, transform=f"translate({size[0]} {_MARGIN})")
    total = (size[0] + extent[0] + _MARGIN, max(size[1], extent[1] + 2 * _MARGIN))
    return drawing(*total, picture, beside, label=label)


def segment_rows(alignment: Alignment, palette: Palette) -> list[list[str]]:
    """What there is to say of every segment, the largest first, in the columns of HEADS.

    Args:
        alignment: of the image.
        palette: names of the classes.
    """
    return [
        [
            str(rank),
            palette.names[segment.label],
            alignment.texts[segment.text],
            str(segment.context + 1),
            number(segment.similarity),
            f"{segment.score:.2f}",
            str(segment.query),
        ]
        for rank, segment in enumerate(alignment.segments(), start=1)
    ]


def _tip(row: Sequence[str]) -> str:
    rank, name, words, prompt, cosine, score, query = row
    return f"{rank}: {name}, score {score} (query {query})\nclosest to prompt {prompt} of '{words}', cosine {cosine}"


def _enlarged(numbers: NDArray[np.intp]) -> NDArray[np.int32]:
    height, width = numbers.shape
    scale = _PICTURE_EDGE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(numbers.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)


def _jpeg(image: NDArray[np.uint8], size: tuple[int, int]) -> str:
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return data_address(encode_jpeg(resized, _QUALITY), "jpeg")


def _shape(inside: NDArray[np.bool_], colour: NDArray[np.uint8], words: str) -> Html:
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    path = "".join("M" + "L".join(f"{x} {y}" for x, y in outline[:, 0].tolist()) + "Z" for outline in outlines)
    red, green, blue = colour.tolist()
    return element("path", tip(words), class_="segment", fill=f"rgb({red},{green},{blue})", fill_rule="evenodd", d=path)


def _places(numbers: NDArray[np.int32], count: int) -> dict[int, Place]:
    """Centre (x, y) of every badge that has room, deep inside its segment; small segments choose first."""
    places: dict[int, Place] = {}
    height, width = numbers.shape
    for index in reversed(range(count)):
        inside = np.pad(numbers == index, 1).astype(np.uint8)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        for _ in range(_TRIES):
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            if depth[y, x] == 0.0:
                break
            place = (min(max(int(x), _RADIUS), width - _RADIUS), min(max(int(y), _RADIUS), height - _RADIUS))
            if all(np.hypot(place[0] - a, place[1] - b) > 2 * _RADIUS + 1 for a, b in places.values()):
                places[index] = place
                break
            depth[max(y - _RADIUS, 0) : y + _RADIUS, max(x - _RADIUS, 0) : x + _RADIUS] = 0.0
    return places


def _badge(place: Place, words: str) -> Html:
    x, y = place
    circle = element("circle", cx=f"{x:.0f}", cy=f"{y:.0f}", r=str(_RADIUS))
    return element("g", circle, text(x, y + 4, words), class_="badge")


def _table(segments: Sequence[Segment], rows: Sequence[Sequence[str]], palette: Palette) -> tuple[Html, Place]:
    """The largest segments as lines of text, and the width and height that they need."""
    shown = rows[:_MAX_ROWS]
    widths = [max(map(text_width, column)) for column in zip(HEADS, *shown, strict=True)]
    widths[0] = 2.0 * _RADIUS
    widths[1] += _ROW  # for the swatch
    lefts = [sum(widths[:column]) + column * _GAP for column in range(len(widths))]
    parts = [_cell(column, head, lefts, widths, 15.0, "muted") for column, head in enumerate(HEADS)]
    for line, (segment, row) in enumerate(zip(segments, shown, strict=False), start=1):
        base = 15.0 + line * _ROW
        parts.append(_badge((_RADIUS, base - 4), row[0]))
        red, green, blue = palette.colours[segment.label].tolist()
        swatch = {"x": f"{lefts[1]:.1f}", "y": f"{base - 11:.1f}", "width": "13", "height": "13", "rx": "3"}
        parts.append(element("rect", fill=f"rgb({red},{green},{blue})", stroke="#808080", **swatch))
        parts += [_cell(column, cell, lefts, widths, base, None) for column, cell in enumerate(row) if column]
    lines = len(shown) + 1
    if len(rows) > len(shown):
        parts.append(text(lefts[1], 15.0 + lines * _ROW, f"and {len(rows) - len(shown)} smaller ones", "muted"))
        lines += 1
    return element("g", *parts), (lefts[-1] + widths[-1], float(lines * _ROW))


def _cell(
    column: int, words: str, lefts: Sequence[float], widths: Sequence[float], base: float, kind: str | None
) -> Html:
    if column >= NAMES:
        return text(lefts[column] + widths[column], base, words, f"{kind or ''} end".strip())
    return text(lefts[column] + (_ROW if column == 1 and kind is None else 0), base, words, kind)
