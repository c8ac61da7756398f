"""Charts of an evaluation as markup: the IoU of every class as bars, and the confusion matrix as a picture.

Shapes: `C` classes. Confusion matrices are (C, C) int64, rows = ground truth, columns = prediction.
"""

import numpy as np
from numpy.typing import NDArray

from mtaclip.evaluation.scores import class_iou, mean_iou
from mtaclip.visualization import Palette
from mtaclip.visualization.encode import encode_png
from mtaclip.visualization.page import Html, data_address, element

_MANY = 40  # with more classes the matrix is small and has a part of the names
_CELL = 26  # width of a cell in pixels
_SMALL_CELL = 5
_LINE = 15  # distance of names in pixels, at least
_GAP = 6  # between a name and the cells
_LETTER = 5.8  # average width of a letter in pixels
_LONGEST_NAME = 24  # letters; longer names are cut short
_TOLD = 3  # predictions that a row of a small matrix tells
_DARK = 0.6  # cells above that share of the row have light text
_COLOURS = np.array([(198, 47, 47), (47, 111, 181)], np.uint8)  # confused, right


def class_bars(counts: NDArray[np.int64], palette: Palette) -> Html:
    """The IoU of every class as a bar, the largest first, with a mark at the mean.

    Args:
        counts: confusion matrix.
        palette: names and colours of the classes.
    """
    values = 100.0 * class_iou(counts)
    pixels = counts.sum(axis=1)
    shares = 100.0 * pixels / max(int(pixels.sum()), 1)
    order = np.argsort(-values, kind="stable").tolist()  # classes without a score come last
    bars = [_bar(palette, index, float(values[index]), float(shares[index])) for index in order]
    mean = f"--mean: {100.0 * mean_iou(counts):.2f}%"
    return element("ol", *bars, class_="bars many" if len(bars) > _MANY else "bars", style=mean)


def confusion_picture(counts: NDArray[np.int64], names: tuple[str, ...]) -> Html:
    """The confusion matrix, every row in shares of the class's true pixels; the opacity is the root of the share.

    Up to 40 classes are drawn with names and, in whole percent, numbers. Of more, every third has its name, and a row
    that is pointed at tells its class and what is predicted there most often.

    Args:
        counts: confusion matrix.
        names: of the classes.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = _large_matrix(shares, names) if len(names) <= _MANY else _small_matrix(shares, names)
    return element("div", drawn, class_="matrix", tabindex="0")


def frequent_confusions(
    counts: NDArray[np.int64], names: tuple[str, ...], limit: int = 20
) -> tuple[list[str], list[list[str]]]:
    """The pairs of classes that are confused at most pixels.

    Args:
        counts: confusion matrix.
        names: of the classes.
        limit: number of pairs.

    Returns:
        heads, and a row of text per pair: its names, its share of the true class's pixels and of all wrong pixels.
    """
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    rows = []
    for truth, predicted in zip(*(part.tolist() for part in np.unravel_index(order, wrong.shape)), strict=True):
        pixels = int(wrong[truth, predicted])
        if pixels:
            shares = (pixels / int(counts[truth].sum()), pixels / int(wrong.sum()))
            rows.append([f"{names[truth]} \u2192 {names[predicted]}", *(f"{100.0 * share:.1f} %" for share in shares)])
    return ["truth \u2192 predicted", "of the truth", "of all errors"], rows


def _bar(palette: Palette, index: int, value: float, share: float) -> Html:
    name = palette.names[index]
    red, green, blue = palette.colours[index].tolist()
    filled = [] if np.isnan(value) else [element("span", class_="bar", style=f"width: {value:.2f}%")]
    return element(
        "li",
        element("span", class_="swatch", style=f"background: rgb({red} {green} {blue})"),
        element("span", name, class_="name", title=name),
        element("span", *filled, class_="track"),
        element("span", "-" if np.isnan(value) else f"{value:.2f}", class_="value"),
        element("span", f"{share:.2f} %", class_="share"),
    )


def _large_matrix(shares: NDArray[np.float64], names: tuple[str, ...]) -> Html:
    """Cells as vector graphics; each tells its share when it is pointed at."""
    labels, side = _labels(names, _CELL)
    parts = []
    for truth, predicted in zip(*np.nonzero(shares >= 0.0005), strict=True):
        share = float(shares[truth, predicted])
        left, top = side + int(predicted) * _CELL, side + int(truth) * _CELL
        tip = element("title", f"{names[truth]} \u2192 {names[predicted]}: {100.0 * share:.1f} %")
        kind = "hit" if truth == predicted else "miss"
        square = {"x": str(left), "y": str(top), "width": str(_CELL), "height": str(_CELL)}
        parts.append(element("rect", tip, class_=kind, fill_opacity=f"{share**0.5:.2f}", **square))
        if share >= 0.01:
            place = {"x": str(left + _CELL // 2), "y": str(top + _CELL // 2 + 4), "text_anchor": "middle"}
            kind = "share" if share < _DARK else "share reversed"
            parts.append(element("text", f"{100.0 * share:.0f}", class_=kind, **place))
    return _matrix([*labels, *parts], side, len(names), _CELL)


def _small_matrix(shares: NDArray[np.float64], names: tuple[str, ...]) -> Html:
    """Cells as a PNG of C x C pixels, transparent where nothing is, so that it fits on light and dark pages."""
    labels, side = _labels(names, _SMALL_CELL)
    right = np.eye(len(names), dtype=np.intp)
    opacity = np.rint(255.0 * np.sqrt(shares)).astype(np.uint8)
    extent = str(len(names) * _SMALL_CELL)
    source = data_address(encode_png(np.dstack([_COLOURS[right], opacity])), "png")
    cells = element("image", href=source, x=str(side), y=str(side), width=extent, height=extent)
    rows = [
        element(
            "rect",
            element("title", _most_frequent(name, row, names)),
            class_="row",
            x=str(side),
            y=str(side + index * _SMALL_CELL),
            width=extent,
            height=str(_SMALL_CELL),
        )
        for index, (name, row) in enumerate(zip(names, shares, strict=True))
    ]
    return _matrix([*labels, cells, *rows], side, len(names), _SMALL_CELL)


def _most_frequent(name: str, shares: NDArray[np.float64], names: tuple[str, ...]) -> str:
    """A true class and what is predicted there most often."""
    order = np.argsort(-shares, kind="stable")[:_TOLD].tolist()
    told = [f"\n{100.0 * shares[index]:.1f} % {names[index]}" for index in order if shares[index] > 0]
    return f"{name} \u2192{''.join(told) or ' no pixels'}"


def _labels(names: tuple[str, ...], cell: int) -> tuple[list[Html], int]:
    """Names beside the rows and above the columns, as many as have room, and where the cells begin."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026" for name in names]
    side = round(max(map(len, shown)) * _LETTER) + 2 * _GAP
    parts = []
    for index in range(0, len(names), -(-_LINE // cell)):
        middle = side + index * cell + cell // 2
        turn = f"translate({middle + 4} {side - _GAP}) rotate(-90)"
        tip = element("title", names[index])
        parts.append(element("text", shown[index], tip, x=str(side - _GAP), y=str(middle + 4), text_anchor="end"))
        parts.append(element("text", shown[index], tip, transform=turn))
    return parts, side


def _matrix(parts: list[Html], side: int, count: int, cell: int) -> Html:
    extent = count * cell
    frame = element("rect", class_="frame", x=str(side), y=str(side), width=str(extent), height=str(extent))
    size = side + extent + 1
    view = {"viewBox": f"0 0 {size} {size}", "width": str(size), "height": str(size)}
    return element("svg", frame, *parts, role="img", aria_label=f"Confusion matrix of {count} classes", **view)
