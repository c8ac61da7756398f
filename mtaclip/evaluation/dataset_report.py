"""What was found in datasets, as Markdown and as a page."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtaclip.data.inspection import Summary
from mtaclip.data.labels import IGNORE_LABEL
from mtaclip.evaluation.report import markdown_table, markdown_text
from mtaclip.visualization.encode import encode_jpeg
from mtaclip.visualization.page import Html, element, image, page, section, table

MOST_LINES = 10  # of one kind of problem that are listed
_HEADS = ("dataset", "images", "with labels", "smallest", "median", "largest", "different sizes")
_NO_LABEL = "(no label)"
_QUALITY = 90  # of JPEGs


def dataset_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """One row per dataset, for the heads dataset, images, with labels, and sizes as height x width."""
    return [
        [summary.name, str(summary.num_images), str(summary.num_labelled), *_sizes(summary)] for summary in summaries
    ]


def class_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of classes: label, and for every dataset share of pixels and number of images."""
    counts = [summary.classes() for summary in summaries]
    names = [*summaries[0].class_names, _NO_LABEL]
    heads = ["class", "train id", *(f"{s.name}: {what}" for s in summaries for what in ("% of pixels", "images"))]
    rows = []
    for index, name in enumerate(names):
        train_id = IGNORE_LABEL if index == len(names) - 1 else index
        cells = [cell for pixels, images in counts for cell in (_share(pixels, index), str(images[index]))]
        rows.append([name, str(train_id), *cells])
    return heads, rows


def problem_lines(summary: Summary) -> dict[str, list[str]]:
    """The first problems of every kind, under headings that say how many there are."""
    found = {}
    for kind, sentences in summary.all_problems().items():
        lines = sentences[:MOST_LINES]
        if len(sentences) > MOST_LINES:
            lines = [*lines, f"... and {len(sentences) - MOST_LINES} more"]
        found[f"{summary.name}: {kind} ({len(sentences)})"] = lines
    return found


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What may be meant so."""
    return [
        f"{summary.name} never shows {len(missing)} of {len(summary.class_names)} classes: {', '.join(missing)}."
        for summary in summaries
        if (missing := summary.missing_classes())
    ]


def verdict(summaries: Sequence[Summary]) -> str:
    """One sentence."""
    count = sum(len(sentences) for summary in summaries for sentences in summary.all_problems().values())
    return "No problem was found." if count == 0 else f"{count} problem(s) were found."


def dataset_markdown(summaries: Sequence[Summary]) -> str:
    """Tables, problems and notes of datasets with the same classes."""
    parts = ["# Datasets", markdown_table(_HEADS, dataset_rows(summaries)), "## Classes"]
    parts.append(markdown_table(*class_rows(summaries)))
    problems = {head: lines for summary in summaries for head, lines in problem_lines(summary).items()}
    for head, lines in problems.items():
        parts += [f"## {markdown_text(head)}", "\n".join(f"- {markdown_text(line)}" for line in lines)]
    parts += [markdown_text(note) for note in notes(summaries)]
    return "\n\n".join([*parts, verdict(summaries)]) + "\n"


def dataset_page(summaries: Sequence[Summary], picture: NDArray[np.uint8] | None) -> str:
    """The same as a page that needs no other file.

    Args:
        summaries: of datasets with the same classes.
        picture: samples, (height, width, 3) uint8 RGB, if there are any.
    """
    sections = [section("Datasets", table(_HEADS, dataset_rows(summaries)))]
    for summary in summaries:
        sections += [_problem_section(head, lines) for head, lines in problem_lines(summary).items()]
    sections.append(section("Classes", table(*class_rows(summaries)), note=" ".join(notes(summaries)) or None))
    if picture is not None:
        content = image(encode_jpeg(picture, _QUALITY, subsampling=0), "jpeg", "images beside their labels")
        sections.append(section("Samples", element("div", content, class_="whole")))
    return page("Datasets", [summary.name for summary in summaries] + [verdict(summaries)], *sections)


def _problem_section(head: str, lines: Sequence[str]) -> Html:
    return section(head, element("ul", *(element("li", line) for line in lines)))


def _sizes(summary: Summary) -> list[str]:
    if not summary.sizes:
        return ["-", "-", "-", "0"]
    sizes = sorted(summary.sizes, key=lambda size: (size[0] * size[1], size))
    every = np.repeat(np.array(sizes), [summary.sizes[size] for size in sizes], axis=0)
    middle = np.median(every, axis=0).astype(int).tolist()
    return [f"{height} x {width}" for height, width in (sizes[0], middle, sizes[-1])] + [str(len(sizes))]


def _share(pixels: NDArray[np.int64], index: int) -> str:
    total = int(pixels.sum())
    return f"{100.0 * pixels[index] / total:.2f}" if total else "-"
