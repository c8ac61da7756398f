"""One image in, the views of it out: what an interactive page shows.

Shapes: `H, W` size of the image, with a longer edge of at most 2048 pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtaclip.alignment import Alignment, explain, explainable, nearest_words
from mtaclip.data.image_files import read_image
from mtaclip.inference.confidence import confidence
from mtaclip.predictor import Predictor
from mtaclip.visualization import Painter, Palette, Segmented
from mtaclip.visualization.alignment_page import (
    context_maps_section,
    heat_map_section,
    segments_section,
    words_section,
)
from mtaclip.visualization.context_maps import draw_context_maps
from mtaclip.visualization.encode import encode_png
from mtaclip.visualization.heat_map import draw_heat_map
from mtaclip.visualization.legend import count_pixels, legend_entries
from mtaclip.visualization.page import Html, element, image
from mtaclip.visualization.segments import draw_segments

PIXEL_VIEWS = ("overlay", "confidence")
TEXT_VIEWS = ("segments", "heat map", "prompts")  # only of a model with a text side
LONGEST_EDGE = 2048

_MOST_PROMPTED = 3  # classes whose prompts are shown at once

_CONFIDENCE = "Share of the winning class in a pixel's class scores, from 0 (dark blue) to 1 (yellow)."
_FADED = 168  # grey of the segments that are not highlighted


@dataclass(frozen=True)
class View:
    """A picture of an image.

    Attributes:
        markup: for a page.
        data: of a file that needs no page.
        suffix: of that file, ".png" or ".svg".
    """

    markup: Html
    data: bytes
    suffix: str


class Viewer:
    """A model that images are shown to.

    Attributes:
        palette: names and colours of the model's classes.
        views: what can be drawn, of `PIXEL_VIEWS` and `TEXT_VIEWS`.
        limitation: why some of them are missing; None where none is.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Find out what the model can show.

        Raises:
            ValueError: its config names no test dataset, or one whose metadata do not fit the model.
        """
        self.palette = predictor.palette
        self.limitation: str | None = None
        self._predictor = predictor
        try:
            explainable(predictor)
        except ValueError as error:
            self.limitation = str(error)
        self.views = PIXEL_VIEWS if self.limitation else (PIXEL_VIEWS[0], *TEXT_VIEWS, PIXEL_VIEWS[1])

    def look(self, picture: NDArray[np.uint8]) -> "Look":
        """Segment an image.

        Args:
            picture: (H, W, 3) uint8 RGB.

        Raises:
            ValueError: the image is too narrow for the model, or what this says is not finite.
        """
        labels = self._predictor(picture).labels
        if self.limitation:
            return Look(self._predictor, self.palette, picture, labels)
        return Look(self._predictor, self.palette, picture, labels, explain(self._predictor, picture), self._words)

    @cached_property
    def _words(self) -> Html:
        """What the prompts are like; the same for every image."""
        return words_section(nearest_words(explainable(self._predictor).texts))


@dataclass(frozen=True, eq=False)
class Look:
    """An image and what the model says about it.

    Attributes:
        predictor: the model.
        palette: names and colours of its classes.
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids.
        alignment: of the image; None where the model cannot be explained.
        words: markup of the words that its prompts are closest to.
    """

    predictor: Predictor
    palette: Palette
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    alignment: Alignment | None = None
    words: Html = Html("")

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """(H, W), 0 .. 1; computed when it is first needed, because it takes the memory of all class scores.

        Raises:
            ValueError: the confidence is not defined for the model's scores.
        """
        return confidence(self.predictor(self.image, scores=True).scores)

    def view(self, name: str, highlighted: Sequence[int] | None = None) -> View:
        """Draw a view.

        Args:
            name: one of the viewer's views.
            highlighted: train ids of the classes that stand out; None shows all alike. The heat map has no classes
                to highlight; of the prompts, the first three of these classes are shown, else those with most pixels.

        Raises:
            ValueError: see `confidence`.
        """
        if name == "segments":
            palette = self.palette if highlighted is None else _faded(self.palette, highlighted)
            markup = segments_section(self.alignment, palette)
            return View(markup, draw_segments(self.alignment, palette).encode(), ".svg")
        if name == "heat map":
            return View(heat_map_section(self.alignment), draw_heat_map(self.alignment).encode(), ".svg")
        if name == "prompts":
            classes = (highlighted or self.alignment.largest_classes(_MOST_PROMPTED))[:_MOST_PROMPTED]
            markup = Html(context_maps_section(self.alignment, classes) + self.words)
            return View(markup, encode_png(draw_context_maps(self.alignment, classes)), ".png")
        return self._pixels(name, highlighted)

    def label_file(self) -> bytes:
        """A PNG of one channel, whose pixel values are the train ids."""
        return encode_png(self.labels)

    def numbers_file(self) -> bytes:
        """Classes and segments with their numbers as JSON, the largest first.

        Pixels of classes are those of the image, pixels of segments those of the size at which the model sees it.
        """
        height, width = self.labels.shape
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.palette.names))
        largest = [int(label) for label in np.argsort(-pixels, kind="stable") if pixels[label]]
        classes = [
            {"class": self.palette.names[label], "train_id": label, "pixels": int(pixels[label])} for label in largest
        ]
        content = {"width": width, "height": height, "classes": classes}
        if self.alignment is not None:
            content |= _segment_numbers(self.alignment, self.palette)
        return json.dumps(content, indent=2, ensure_ascii=False).encode()

    def _pixels(self, name: str, highlighted: Sequence[int] | None) -> View:
        painter = Painter(self.palette, shown=None if highlighted is None else tuple(highlighted))
        shares = self.confidence if name == "confidence" else None
        segmented = Segmented(self.image, self.labels, shares)
        data = encode_png(painter.picture(name, segmented))
        below = self._legend(highlighted) if name == "overlay" else element("p", _CONFIDENCE, class_="note")
        return View(element("div", image(data, "png", f"The image's {name}"), below), data, ".png")

    def _legend(self, highlighted: Sequence[int] | None) -> Html:
        """The classes in the overlay with their shares of the whole image."""
        labels = range(len(self.palette.names)) if highlighted is None else highlighted
        shown = {self.palette.names[label] for label in labels}
        entries = legend_entries(count_pixels(self.labels, self.palette), self.palette)
        items = [
            element(
                "li",
                element("span", class_="swatch", style=f"background: rgb{entry.colour}"),
                f"{entry.name} {100 * entry.share:.1f} %",
            )
            for entry in entries
            if entry.name in shown
        ]
        return element("ul", *items, class_="legend")


def read_picture(file: Path) -> tuple[NDArray[np.uint8], str | None]:
    """Read an image for a page, no larger than a page needs.

    Args:
        file: an image file of any kind that Pillow reads.

    Returns:
        (H, W, 3) uint8 RGB, and a sentence if it was scaled down.

    Raises:
        ValueError: the file is no such image; the message names it without its folder.
    """
    try:
        pixels = read_image(file)
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace(str(file), file.name)) from error
    height, width = pixels.shape[:2]
    if max(height, width) <= LONGEST_EDGE:
        return pixels, None
    scale = LONGEST_EDGE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return scaled, f"Scaled down from {width} x {height} to {size[0]} x {size[1]} pixels."


def _faded(palette: Palette, highlighted: Sequence[int]) -> Palette:
    colours = np.full_like(palette.colours, _FADED)
    colours[list(highlighted)] = palette.colours[list(highlighted)]
    return Palette(palette.names, colours)


def _segment_numbers(alignment: Alignment, palette: Palette) -> dict[str, object]:
    height, width = alignment.labels.shape
    segments = [
        {
            "class": palette.names[segment.label],
            "pixels": segment.pixels,
            "score": round(segment.score, 4),
            "text": alignment.texts[segment.text],
            "prompt": segment.context + 1,
            "cosine": round(segment.similarity, 4),
            "query": segment.query,
        }
        for segment in alignment.segments()
    ]
    return {"segments_width": width, "segments_height": height, "segments": segments}
