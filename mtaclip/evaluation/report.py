"""What an evaluation leaves behind: a table in the log and a JSON file."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

_ROWS_PER_BLOCK = 50  # longer class lists continue in further columns


def class_table(scores: Mapping[str, float], counts: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Table of IoU, accuracy and share of the labelled pixels of every class, in percent.

    Args:
        scores: result of `mtaclip.evaluation.scores.semantic_scores`.
        counts: (C, C) confusion matrix, rows = ground truth.
        class_names: names of the classes, length C.

    Returns:
        the table as text; undefined scores are shown as "-".
    """
    pixels = counts.sum(axis=1)
    shares = 100.0 * pixels / max(int(pixels.sum()), 1)
    rows = [
        [name, _cell(scores[f"IoU-{name}"]), _cell(scores[f"ACC-{name}"]), _cell(share)]
        for name, share in zip(class_names, shares.tolist(), strict=True)
    ]
    blocks = math.ceil(len(rows) / _ROWS_PER_BLOCK)
    length = math.ceil(len(rows) / blocks)
    lines = [[cell for row in rows[i::length] for cell in row] for i in range(length)]
    headers = ["class", "IoU", "ACC", "% of pixels"] * blocks
    align = ("left", "right", "right", "right") * blocks
    return tabulate(lines, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def category_table(scores: Mapping[str, float]) -> str:
    """Table of the IoU of every category, in percent.

    Args:
        scores: result of `mtaclip.evaluation.scores.semantic_scores`.
    """
    prefix = "IoU-category-"
    rows = [[key.removeprefix(prefix), _cell(value)] for key, value in scores.items() if key.startswith(prefix)]
    return tabulate(rows, ["category", "IoU"], tablefmt="pipe", colalign=("left", "right"), disable_numparse=True)


def summary_table(scores: Mapping[str, float]) -> str:
    """One-line table of the scores that are not of a single class or category, in percent.

    Args:
        scores: result of `mtaclip.evaluation.scores.semantic_scores`.
    """
    means = {key: value for key, value in scores.items() if not key.startswith(("IoU-", "ACC-"))}
    return tabulate([[_cell(value) for value in means.values()]], list(means), tablefmt="pipe", disable_numparse=True)


def write_scores(
    file: Path,
    dataset_name: str,
    num_images: int,
    scores: Mapping[str, float],
    counts: NDArray[np.int64],
    class_names: Sequence[str],
) -> None:
    """Write an evaluation as JSON; a reader sees the whole old or the whole new file, never a part.

    Args:
        file: the JSON file; its folder is created.
        dataset_name: registered name of the dataset.
        num_images: number of images evaluated.
        scores: result of `mtaclip.evaluation.scores.semantic_scores`; nan is written as null.
        counts: (C, C) confusion matrix, rows = ground truth.
        class_names: names of the classes, length C.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "dataset": dataset_name,
        "num_images": num_images,
        "scores_percent": {key: None if math.isnan(value) else value for key, value in scores.items()},
        "class_names": list(class_names),
        "confusion_matrix": counts.tolist(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
