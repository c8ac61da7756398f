"""Tables and a figure of what `train_step.py` measured."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt  # noqa: E402

Row = dict[str, Any]

PARTS = ("data", "backbone", "pixel decoder", "text", "decoder", "criterion", "backward", "optimizer", "other")
LABELS = {"size": "edge of the square image, pixels", "batch": "images", "classes": "classes", "contexts": "contexts"}
UNITS = {"median_s": "seconds per step", "peak_mb": "peak memory of a step, MB"}


def tables(report: dict[str, Any]) -> str:
    """The report as Markdown: seconds, memory and ratios, then the parts of a step.

    Args:
        report: what `train_step.py` wrote.
    """
    rows = report["results"]
    names = list(dict.fromkeys(name for row in rows for name in row["implementations"]))
    blocks = [_totals(rows, names)]
    if any("parts_s" in figures for _, _, figures in _measured(rows)):
        blocks.append(_parts(rows))
    blocks += [f"{name} at {_describe(row)} does not run: {problem}" for row, name, problem in _failures(rows)]
    return "\n\n".join(blocks)


def _totals(rows: list[Row], names: list[str]) -> str:
    first = names[0]
    head = ["case", *(f"{name}, s" for name in names), *(f"{name} / {first}" for name in names[1:])]
    head += [f"{name}, MB" for name in names]
    lines = []
    for row in rows:
        found = [row["implementations"].get(name, {}) for name in names]
        ratios = (_number(figures.get("ratios", {}).get(first), 2) for figures in found[1:])
        times = (_number(figures.get("median_s"), 3) for figures in found)
        lines.append([_describe(row), *times, *ratios, *(_number(figures.get("peak_mb"), 0) for figures in found)])
    return _table(head, lines)


def _parts(rows: list[Row]) -> str:
    lines = [
        [_describe(row), name, *(_number(figures.get("parts_s", {}).get(part), 3) for part in PARTS)]
        for row, name, figures in _measured(rows)
    ]
    return _table(["case", "model", *(f"{part}, s" for part in PARTS)], lines)


def _describe(row: Row) -> str:
    height, width = row["size"]
    text = f"{height} x {width}, {row['batch']} image{'s' if row['batch'] > 1 else ''}, {row['type']}"
    for key in ("classes", "contexts"):
        if row[key] is not None:
            text += f", {row[key]} {key}"
    return text


def _measured(rows: list[Row]) -> Iterator[tuple[Row, str, dict[str, Any]]]:
    for row in rows:
        for name, figures in row["implementations"].items():
            if "failed" not in figures:
                yield row, name, figures


def _failures(rows: list[Row]) -> Iterator[tuple[Row, str, str]]:
    for row in rows:
        for name, figures in row["implementations"].items():
            if "failed" in figures:
                yield row, name, figures["failed"]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(head: list[str], lines: Iterable[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def plot_growth(report: dict[str, Any], file: Path) -> None:
    """Draw seconds and peak memory against each factor.

    Args:
        report: what `train_step.py --growth` measured.
        file: PNG to write.
    """
    rows = report["results"]
    factors = list(dict.fromkeys(row["factor"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["implementations"]))
    figure, axes = plt.subplots(
        len(UNITS), len(factors), figsize=(3.2 * len(factors), 6), squeeze=False, sharey="row", layout="constrained"
    )
    for column, factor in enumerate(factors):
        for line, (key, unit) in enumerate(UNITS.items()):
            axis = axes[line, column]
            for name in names:
                points = [
                    (row["value"], row["implementations"][name][key])
                    for row in rows
                    if row["factor"] == factor and key in row["implementations"].get(name, {})
                ]
                if points:
                    axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
            axis.set_ylim(bottom=0)
            axis.set_xlabel(LABELS[factor])
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(unit)
    axes[0, 0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)
