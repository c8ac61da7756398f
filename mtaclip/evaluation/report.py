"""What an evaluation leaves behind: tables in the log, in Markdown and in a JSON file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mtaclip.files import not_written, replace_file

_ROWS_PER_BLOCK = 50  # longer class lists continue in further columns


_OF_CLASS = {"IoU": "IoU-", "ACC": "ACC-", "iIoU": "iIoU-", "boundary IoU": "bIoU-"}
_OF_CATEGORY = {"IoU": "IoU-category-", "iIoU": "iIoU-category-"}


def class_rows(
    scores: Mapping[str, float], counts: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of classes: every score there is, and the share of the labelled pixels, in percent.

    Args:
        scores: result of `mtaclip.evaluation.scores.semantic_scores` and its siblings.
        counts: (C, C) confusion matrix, rows = ground truth.
        class_names: names of the classes, length C.

    Returns:
        heads, and one row of text per class; undefined scores are "-".
    """
    pixels = counts.sum(axis=1)
    shares = 100.0 * pixels / max(int(pixels.sum()), 1)
    columns = [(head, p) for head, p in _OF_CLASS.items() if any(f"{p}{name}" in scores for name in class_names)]
    rows = [
        [name, *(_cell(scores.get(f"{prefix}{name}", math.nan)) for _, prefix in columns), _cell(share)]
        for name, share in zip(class_names, shares.tolist(), strict=True)
    ]
    return ["class", *(head for head, _ in columns), "% of pixels"], rows


def category_rows(scores: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of categories, as `class_rows`; no rows without categories."""
    names = [key.removeprefix("IoU-category-") for key in scores if key.startswith("IoU-category-")]
    columns = [(head, p) for head, p in _OF_CATEGORY.items() if any(key.startswith(p) for key in scores)]
    rows = [[name, *(_cell(scores.get(f"{prefix}{name}", math.nan)) for _, prefix in columns)] for name in names]
    return ["category", *(head for head, _ in columns)], rows


def mean_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores that are not of a single class or category."""
    return {key: value for key, value in scores.items() if not key.startswith(tuple(_OF_CLASS.values()))}


def mean_cells(scores: Mapping[str, float]) -> dict[str, str]:
    """`mean_scores` as text."""
    return {key: _cell(value) for key, value in mean_scores(scores).items()}


def class_table(scores: Mapping[str, float], counts: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """`class_rows` as text; long lists continue in further columns."""
    headers, rows = class_rows(scores, counts, class_names)
    blocks = math.ceil(len(rows) / _ROWS_PER_BLOCK)
    length = math.ceil(len(rows) / blocks)
    lines = [[cell for row in rows[i::length] for cell in row] for i in range(length)]
    return _table(headers * blocks, lines, ("left", *["right"] * (len(headers) - 1)) * blocks)


def category_table(scores: Mapping[str, float]) -> str:
    """`category_rows` as text."""
    headers, rows = category_rows(scores)
    return _table(headers, rows, ("left", *["right"] * (len(headers) - 1)))


def summary_table(scores: Mapping[str, float]) -> str:
    """`mean_scores` as a table of one line, in percent."""
    means = mean_cells(scores)
    return _table(list(means), [list(means.values())], ["right"] * len(means))


def markdown_report(
    dataset_name: str,
    facts: Sequence[str],
    scores: Mapping[str, float],
    counts: NDArray[np.int64],
    class_names: Sequence[str],
) -> str:
    """The tables of means, classes and categories as Markdown.

    Args:
        dataset_name: registered name of the dataset.
        facts: short phrases about the evaluation, such as the number of images.
        scores: result of `mtaclip.evaluation.scores.semantic_scores` and its siblings, in percent.
        counts: (C, C) confusion matrix, rows = ground truth.
        class_names: names of the classes, length C.
    """
    parts = [f"# `{dataset_name}`", f"{', '.join(facts)}. Scores in percent.", summary_table(scores)]
    parts += ["## Classes", markdown_table(*class_rows(scores, counts, class_names))]
    heads, rows = category_rows(scores)
    if rows:
        parts += ["## Categories", markdown_table(heads, rows)]
    return "\n\n".join(parts) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """A Markdown table that shows its texts as they are, whatever Markdown would make of them.

    Args:
        heads: of the columns.
        rows: cells.
        names: number of columns with names, at the left; the others hold numbers.
    """
    lines = [[markdown_text(cell) for cell in row] for row in rows]
    align = ["left"] * names + ["right"] * (len(heads) - names)
    return _table([markdown_text(head) for head in heads], lines, align)


def markdown_text(text: str) -> str:
    """`text` as Markdown that shows the same characters."""
    return re.sub(r"([\\`*_|<>\[\]&~])", r"\\\1", text)


def write_scores(
    file: Path,
    dataset_name: str,
    num_images: int,
    scores: Mapping[str, float],
    counts: NDArray[np.int64],
    class_names: Sequence[str],
    weights: str | None = None,
) -> None:
    """Write an evaluation as JSON.

    Args:
        file: the JSON file; its folder is created.
        dataset_name: registered name of the dataset.
        num_images: number of images evaluated.
        scores: result of `mtaclip.evaluation.scores.semantic_scores`; nan is written as null.
        counts: (C, C) confusion matrix, rows = ground truth.
        class_names: names of the classes, length C.
        weights: `mtaclip.evaluation.fingerprint.digest_of_weights` of the model, where it is known.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "dataset": dataset_name,
        "num_images": num_images,
        "weights": weights,
        "scores_percent": {key: None if math.isnan(value) else value for key, value in scores.items()},
        "class_names": list(class_names),
        "confusion_matrix": counts.tolist(),
    }
    write_file(file, json.dumps(content, allow_nan=False) + "\n")


def write_file(file: Path, text: str) -> None:
    """Write a text in UTF-8; a reader sees the whole old or the whole new file, never a part.

    Args:
        file: to write; its folder is created.
        text: its content.

    Raises:
        OSError: the file cannot be written; the message says which and why.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
    except OSError as error:
        raise OSError(f"{not_written(file, error)}; remove the cause and run the same command again.") from error


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
