"""An evaluation as one page: means, classes, confusions, and the best and worst images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtaclip.evaluation.charts import class_bars, confusion_picture, frequent_confusions
from mtaclip.evaluation.gallery import Example, draw_example
from mtaclip.evaluation.report import category_rows, class_rows, mean_cells
from mtaclip.visualization import Palette
from mtaclip.visualization.page import Html, element, image, page, section, table


def html_report(
    title: str,
    facts: Sequence[str],
    scores: Mapping[str, float],
    counts: NDArray[np.int64],
    palette: Palette,
    best: Sequence[Example],
    worst: Sequence[Example],
) -> str:
    """Write an evaluation as an HTML document that needs no other file.

    Args:
        title: name of the dataset.
        facts: short phrases below it, such as the number of images.
        scores: result of `mtaclip.evaluation.scores.semantic_scores` and its siblings, in percent.
        counts: (C, C) confusion matrix, rows = ground truth.
        palette: names and colours of the classes.
        best: images with the highest mean IoU, from a gallery.
        worst: those with the lowest.
    """
    sections = [
        section("Means", _means(scores), note="In percent."),
        section(
            "IoU by class",
            class_bars(counts, palette),
            note="IoU in percent, and the class's share of the labelled pixels. The dashed line marks the mIoU.",
        ),
        _tables(scores, counts, palette.names),
        _confusions(counts, palette.names),
    ]
    shown = (("Best images", best), ("Worst images", worst))
    sections += [_examples(heading, examples, palette) for heading, examples in shown if examples]
    return page(title, facts, *sections)


def _means(scores: Mapping[str, float]) -> Html:
    tiles = [element("div", element("dt", name), element("dd", value)) for name, value in mean_cells(scores).items()]
    return element("dl", *tiles, class_="means")


def _tables(scores: Mapping[str, float], counts: NDArray[np.int64], names: tuple[str, ...]) -> Html:
    parts = [section("Classes", table(*class_rows(scores, counts, names)), note="In percent.")]
    heads, rows = category_rows(scores)
    if rows:
        parts.append(section("Categories", table(heads, rows), note="In percent."))
    return element("div", *parts, class_="beside")


def _confusions(counts: NDArray[np.int64], names: tuple[str, ...]) -> Html:
    heads, rows = frequent_confusions(counts, names)
    parts = [confusion_picture(counts, names)]
    if rows:
        parts.append(table(heads, rows))
    return section(
        "Confusions",
        element("div", *parts, class_="confusions"),
        note="Rows are the truth, columns the prediction, in the order of the table of classes. Blue is right, red is "
        "confused, the stronger the larger the share of the row. The table lists the confusions with most pixels.",
    )


def _examples(heading: str, examples: Sequence[Example], palette: Palette) -> Html:
    return section(
        heading,
        *(_example(example, palette) for example in examples),
        note="By the image's own mean IoU over the classes that occur or are predicted in it. Errors are red, ignored "
        "pixels grey.",
    )


def _example(example: Example, palette: Palette) -> Html:
    name = Path(example.file_name).name
    drawn = draw_example(example, palette)
    panels = [
        _panel(drawn.prediction, "Prediction", f"{name}: the predicted classes over the photo"),
        _panel(drawn.truth, "Ground truth", f"{name}: the true classes over the photo"),
        _panel(drawn.errors, "Errors", f"{name}: wrong pixels red, ignored pixels grey"),
    ]
    caption = [element("strong", f"{example.score:.2f} %"), element("span", name)]
    if example.photo is None:
        caption.append(element("span", "The photo could not be read.", class_="bad"))
    return element(
        "figure", element("figcaption", *caption), element("div", *panels, class_="panels"), class_="example"
    )


def _panel(picture: bytes, caption: str, alt: str) -> Html:
    return element("figure", image(picture, "jpeg", alt), element("figcaption", caption))
