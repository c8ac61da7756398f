"""Evaluations of several runs side by side, from the JSON files that they left behind."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtaclip.evaluation.report import markdown_table, markdown_text, mean_scores
from mtaclip.visualization.page import Html, element, page, section, table

_FILES = "scores_*.json"


@dataclass(frozen=True)
class Evaluation:
    """What a scores file says.

    Attributes:
        file: where it was read.
        dataset: registered name of the dataset.
        num_images: number of images evaluated.
        scores: in percent, nan where undefined.
        class_names: names of the classes.
        weights: digest of the weights that were evaluated; None where the file does not say.
    """

    file: Path
    dataset: str
    num_images: int
    scores: dict[str, float]
    class_names: tuple[str, ...]
    weights: str | None = None


@dataclass(frozen=True)
class Table:
    """Scores of several runs under each other: a row per score, a value per run; nan where a run has none.

    Attributes:
        head: of the column of names.
        names: of the rows.
        values: a row per name, in percent.
    """

    head: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


def find_scores(path: Path, dataset: str | None = None) -> Path:
    """The scores file that is meant by a path.

    Args:
        path: a scores file, or a run's folder with one.
        dataset: which of several; None if there is only one.

    Raises:
        FileNotFoundError: there is no such folder or file, or no scores in it.
        ValueError: the folder has scores of several datasets, and none was chosen.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder or file; name a run's output folder.")
    files = sorted(path.glob(_FILES))
    if dataset is not None:
        files = [file for file in files if file.name == _FILES.replace("*", dataset)]
    if not files:
        wanted = _FILES.replace("*", dataset or "*")
        raise FileNotFoundError(f"{path}: there is no {wanted} in this folder; evaluate the run first.")
    if len(files) > 1:
        names = ", ".join(file.stem.removeprefix("scores_") for file in files)
        raise ValueError(f"{path}: there are scores of several datasets ({names}); choose one with --dataset.")
    return files[0]


def read_scores(file: Path) -> Evaluation:
    """Read a file that `mtaclip.evaluation.report.write_scores` wrote.

    Args:
        file: `scores_<dataset>.json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or another program's.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file of scores.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged, this is not JSON ({error}); evaluate the run again.") from error
    try:
        scores = {
            str(key): math.nan if value is None else float(value) for key, value in content["scores_percent"].items()
        }
        names = tuple(str(name) for name in content["class_names"])
        weights = content.get("weights")
        json.dumps(content, ensure_ascii=False).encode()  # JSON can hold characters that no text can
        return Evaluation(file, str(content["dataset"]), int(content["num_images"]), scores, names, weights)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: this is not a file of scores; name one that an evaluation wrote.") from error


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise if the classes of the evaluations differ.

    Args:
        evaluations: at least one.

    Raises:
        ValueError: two of them have other class names.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        if set(other.class_names) != set(first.class_names):
            odd = sorted(set(other.class_names) ^ set(first.class_names))[0]
            raise ValueError(
                f"{other.file} and {first.file} have different classes ('{odd}' is in one of them alone); compare runs "
                "on datasets with the same classes."
            )


def mean_table(evaluations: Sequence[Evaluation]) -> Table:
    """The means that any of the runs has, in the order of the first."""
    means = [mean_scores(evaluation.scores) for evaluation in evaluations]
    names = tuple(dict.fromkeys(name for mean in means for name in mean))
    return Table("mean", names, tuple(tuple(mean.get(name, math.nan) for mean in means) for name in names))


def class_table(evaluations: Sequence[Evaluation]) -> Table:
    """The IoU of every class, those that differ most from the first run's at the top."""
    names = evaluations[0].class_names
    rows = {name: tuple(e.scores.get(f"IoU-{name}", math.nan) for e in evaluations) for name in names}
    ordered = sorted(rows.items(), key=lambda item: -_largest_difference(item[1]))
    return Table("class", tuple(name for name, _ in ordered), tuple(values for _, values in ordered))


def comparison_markdown(runs: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """The comparison as Markdown.

    Args:
        runs: how the runs are called.
        evaluations: of the same length.
    """
    means, classes = mean_table(evaluations), class_table(evaluations)
    parts = [
        f"Scores in percent, differences to {markdown_text(runs[0])}.",
        markdown_table(*_facts(runs, evaluations), names=2),
        markdown_table(*_cells(means, runs)),
        markdown_table(*_cells(classes, runs)),
    ]
    return "\n\n".join(parts) + "\n"


def comparison_page(runs: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """The comparison as an HTML document that needs no other file; arguments as in `comparison_markdown`."""
    heads, rows = _facts(runs, evaluations)
    note = f"In percent, with differences to {runs[0]}."
    return page(
        "Comparison",
        ["Semantic segmentation", f"{len(runs)} runs"],
        section("Runs", table(heads, rows, names=2)),
        section("Means", _coloured(mean_table(evaluations), runs), note=note),
        section("IoU by class", _coloured(class_table(evaluations), runs), note=f"{note} Largest differences first."),
    )


def _facts(runs: Sequence[str], evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    rows = [[run, e.dataset, str(e.num_images)] for run, e in zip(runs, evaluations, strict=True)]
    return ["run", "dataset", "images"], rows


def _cells(scores: Table, runs: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table: the first run's value, then of each other run its value and the difference."""
    heads = [scores.head, runs[0], *(head for run in runs[1:] for head in (run, "difference"))]
    rows = []
    for name, (first, *others) in zip(scores.names, scores.values, strict=True):
        cells = [cell for value in others for cell in (_number(value), _difference(value - first))]
        rows.append([name, _number(first), *cells])
    return heads, rows


def _coloured(scores: Table, runs: Sequence[str]) -> Html:
    heads, rows = _cells(scores, runs)
    return table(heads, [[row[0], *map(_colour, row[1:])] for row in rows])


def _colour(cell: str) -> str:
    kind = {"+": "good", "-": "bad"}.get(cell[0]) if len(cell) > 1 else None
    return cell if kind is None else element("span", cell, class_=kind)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _difference(value: float) -> str:
    """With a sign, unless it is 0.00 as it is shown."""
    if math.isnan(value) or abs(value) < 0.005:
        return "-" if math.isnan(value) else "0.00"
    return f"{value:+.2f}"


def _largest_difference(values: tuple[float, ...]) -> float:
    differences = [abs(value - values[0]) for value in values[1:]]
    return max((value for value in differences if not math.isnan(value)), default=-1.0)
