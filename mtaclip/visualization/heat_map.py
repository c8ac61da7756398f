"""Mask queries against class texts: their cosines as a picture."""

import numpy as np

from mtaclip.alignment.explain import Alignment
from mtaclip.visualization.page import Html, element
from mtaclip.visualization.svg import drawing, number, text, text_width, tip

_CELL = (48, 32)  # width and height in pixels
_MAX_ROWS = 40
_MAX_COLUMNS = 24
_MARGIN = 16
_GAP = 8  # between a name and the cells
_NOTE = 44  # height of the notes below
_STRONG = 0.72  # cells above that cosine have light text


def draw_heat_map(alignment: Alignment) -> Html:
    """Draw the cosine of every mask query that owns pixels with every class text that matters.

    Rows are the queries with most pixels, up to 40, named by the class of most of them. Columns are the texts of these
    classes and those that are closest to a row's query, up to 24. A cell is the largest cosine over the contexts, and
    tells which context that is; the text that is closest to a query has a frame.

    Args:
        alignment: of an image.
    """
    rows, columns = _choose(alignment)
    side = max(text_width(_row_name(alignment, row)) for row in rows) + _GAP + _MARGIN
    top = max(text_width(alignment.texts[column]) for column in columns) + _GAP + _MARGIN
    width, height = _CELL
    parts = []
    for line, row in enumerate(rows):
        parts.append(text(side - _GAP, top + line * height + height / 2 + 5, _row_name(alignment, row), "end"))
        best = int(alignment.best_similarity[row, columns].argmax())
        parts += [
            _cell(alignment, row, column, side + place * width, top + line * height, framed=place == best)
            for place, column in enumerate(columns)
        ]
    for place, column in enumerate(columns):
        turn = f"translate({side + place * width + width / 2 + 5:.1f} {top - _GAP:.1f}) rotate(-90)"
        parts.append(text(0, 0, alignment.texts[column], transform=turn))
    bottom = top + len(rows) * height
    prompts = f"p1 to p{len(alignment.similarity)}: the prompt with the largest cosine"
    hidden = len(np.unique(alignment.owners)) - len(rows)
    more = f" {hidden} queries with fewer pixels are left out." if hidden else ""
    notes = (f"{prompts}, which is shown.", f"Blue above, orange below 0. Framed: the closest text.{more}")
    parts += [text(_MARGIN, bottom + 20 + 18 * line, note, "muted") for line, note in enumerate(notes)]
    extent = max(side + len(columns) * width, _MARGIN + max(map(text_width, notes)))
    return drawing(extent + _MARGIN, bottom + _NOTE + _MARGIN, *parts, label="Cosines of mask queries and class texts")


def _choose(alignment: Alignment) -> tuple[list[int], list[int]]:
    """Queries and texts that are shown; of every query at least the text of its class and the closest one."""
    queries, pixels = np.unique(alignment.owners, return_counts=True)
    rows: list[int] = []
    columns: dict[int, None] = {}
    for query in queries[np.argsort(-pixels, kind="stable")][:_MAX_ROWS].tolist():
        needed = columns | dict.fromkeys([_label(alignment, query), int(alignment.best_similarity[query].argmax())])
        if len(needed) > _MAX_COLUMNS:
            break
        rows.append(query)
        columns = needed
    return rows, list(columns)


def _label(alignment: Alignment, query: int) -> int:
    """The class of most of a query's pixels."""
    return int(np.bincount(alignment.labels[alignment.owners == query]).argmax())


def _row_name(alignment: Alignment, query: int) -> str:
    return f"{alignment.texts[_label(alignment, query)]} (query {query})"


def _cell(alignment: Alignment, query: int, label: int, left: float, top: float, *, framed: bool) -> Html:
    cosine, context = float(alignment.best_similarity[query, label]), int(alignment.contexts[query, label])
    width, height = _CELL
    square = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": str(width), "height": str(height)}
    kind = "like" if cosine >= 0 else "unlike"
    ink = " reversed" if abs(cosine) > _STRONG else ""
    parts = [
        tip(f"{_row_name(alignment, query)}, prompt {context + 1} of '{alignment.texts[label]}': cosine {cosine:.3f}"),
        element("rect", class_=kind, fill_opacity=f"{min(abs(cosine), 1.0):.2f}", **square),
        element("rect", class_="frame", **square),
        text(left + width / 2, top + 14, number(cosine), f"middle{ink}"),
        text(left + width / 2, top + 26, f"p{context + 1}", f"small middle{ink}"),
    ]
    if framed:
        inner = {"x": f"{left + 1:.1f}", "y": f"{top + 1:.1f}", "width": str(width - 2), "height": str(height - 2)}
        parts.append(element("rect", class_="best", **inner))
    return element("g", *parts)
