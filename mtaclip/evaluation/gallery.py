"""The images that a model segments best and worst: chosen while images stream by, drawn at the end.

Shapes: `H, W` size of an image; `h, w` that of its miniature, at most 480 x 480.
"""

import logging
from bisect import bisect_left
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray
from PIL import Image

from mtaclip.data.image_files import read_image
from mtaclip.data.labels import IGNORE_LABEL
from mtaclip.visualization import Palette, draw_overlay
from mtaclip.visualization.encode import encode_jpeg, encode_png

logger = logging.getLogger(__name__)

WRONG, IGNORED = (224, 36, 36), (128, 128, 128)  # colours of the error map
_MAX_EDGE = 480
_MIN_EDGE = 160  # smaller pictures are enlarged, or no class name is legible on them
_NO_PHOTO = 200  # grey that stands for a photo that cannot be read
_DIMMED = 0.4
_STORED_QUALITY, _SHOWN_QUALITY = 95, 85  # of JPEGs


@dataclass(frozen=True)
class Example:
    """An image with what was predicted in it, in miniature.

    Attributes:
        score: mean IoU in percent over the classes that occur or are predicted in the image.
        file_name: of the photo.
        label_file: of the label map.
        photo: (h, w, 3) as JPEG; None if the photo cannot be read.
        prediction: (h, w) train ids as PNG.
        truth: (h, w) train ids, 255 = ignore, as PNG.
    """

    score: float
    file_name: str
    label_file: str
    photo: bytes | None
    prediction: bytes
    truth: bytes

    @property
    def key(self) -> tuple[str, str]:
        """What tells the image from others."""
        return self.file_name, self.label_file

    @property
    def rank(self) -> tuple[float, str, str]:
        """Its place: the best image first, equal ones by name, so that the choice never depends on the order."""
        return -self.score, *self.key


@dataclass(frozen=True)
class Pictures:
    """An example as three JPEGs: its photo under the prediction, under the ground truth, and its errors."""

    prediction: bytes
    truth: bytes
    errors: bytes


class Gallery:
    """The best and the worst images of all that were offered.

    A miniature is made, and the photo read, only of an image that is among the best or the worst so far. Memory does
    not grow with the number of images.
    """

    def __init__(self, size: int, ignore_label: int = IGNORE_LABEL) -> None:
        """Start empty.

        Args:
            size: number of images at either end; where there are fewer than twice as many, every image is shown once.
            ignore_label: the true label of pixels that do not count.
        """
        self._size = size
        self._ignore_label = ignore_label
        self._examples: list[Example] = []  # by rank; where there were more than 2 * size, the middle was dropped

    def offer(
        self, score: float, file_name: str, label_file: str, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]
    ) -> None:
        """Take an image if it is good or bad enough; one that was taken before takes its own place.

        Args:
            score: mean IoU of the image in percent; an image without one (nan) is not taken.
            file_name: of the photo.
            label_file: of the label map.
            prediction: (H, W) uint8 train ids.
            truth: (H, W) uint8 train ids or the ignore label.
        """
        kept = [example for example in self._examples if example.key != (file_name, label_file)]
        place = bisect_left(kept, (-score, file_name, label_file), key=lambda example: example.rank)
        if np.isnan(score) or (place == self._size and len(kept) == 2 * self._size):
            return
        kept.insert(place, make_example(score, file_name, label_file, prediction, truth, self._ignore_label))
        self._examples = self._without_the_middle(kept)

    def choose(self, distributed: bool) -> tuple[list[Example], list[Example]]:
        """The best images, the best first, and the worst, the worst first.

        Args:
            distributed: of all processes, which exchange their own choice (some 100 kB per image); an image that
                several of them saw appears once.

        Returns:
            two lists without an image in common; empty in all processes but the main one if `distributed`.
        """
        parts = comm.gather(self._examples, dst=0) if distributed else [self._examples]
        unique: dict[tuple[str, str], Example] = {}
        for example in (example for part in parts for example in part):
            unique.setdefault(example.key, example)
        examples = self._without_the_middle(sorted(unique.values(), key=lambda example: example.rank))
        half = -(-len(examples) // 2)
        return examples[:half], examples[half:][::-1]

    def _without_the_middle(self, examples: list[Example]) -> list[Example]:
        return examples[: self._size] + examples[self._size :][-self._size :] if self._size else []


def make_example(
    score: float,
    file_name: str,
    label_file: str,
    prediction: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    ignore_label: int = IGNORE_LABEL,
) -> Example:
    """Read the photo and make everything a miniature; arguments as in `Gallery.offer`."""
    size = _miniature_size(truth.shape)
    prediction, truth = _nearest(prediction, size), _nearest(truth, size)
    truth[truth == ignore_label] = IGNORE_LABEL
    photo = _read_miniature(file_name, size)
    return Example(score, file_name, label_file, photo, encode_png(prediction), encode_png(truth))


def draw_example(example: Example, palette: Palette) -> Pictures:
    """Draw an example in the colours of its classes.

    Args:
        example: from a gallery.
        palette: names and colours of the classes.
    """
    _, *pictures = draw_panels(example, palette)
    return Pictures(*(encode_jpeg(picture, _SHOWN_QUALITY, subsampling=0) for picture in pictures))


def draw_panels(example: Example, palette: Palette) -> tuple[NDArray[np.uint8], ...]:
    """The photo, the predicted and the true classes over it, and the errors, as RGB pictures.

    Small photos and errors keep their size; what has captions is enlarged by a whole number.

    Args:
        example: from `make_example` or a gallery.
        palette: names and colours of the classes.
    """
    prediction, truth = _decode(example.prediction), _decode(example.truth)
    photo = np.full((*truth.shape, 3), _NO_PHOTO, np.uint8) if example.photo is None else _decode(example.photo)
    overlays = [draw_overlay(photo, labels, palette, min_edge=_MIN_EDGE) for labels in (prediction, truth)]
    return photo, *overlays, error_map(photo, prediction, truth)


def error_map(photo: NDArray[np.uint8], prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show where a prediction is wrong: those pixels red, ignored ones grey, the others the photo, dimmed and grey.

    Args:
        photo: (h, w, 3) uint8 RGB.
        prediction: (h, w) uint8 train ids.
        truth: (h, w) uint8 train ids, 255 = ignore.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    dim = cv2.convertScaleAbs(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), alpha=_DIMMED)
    picture = np.repeat(dim[..., None], 3, axis=2)
    picture[prediction != truth] = WRONG
    picture[truth == IGNORE_LABEL] = IGNORED
    return picture


def _miniature_size(size: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of an image's miniature; small images keep their size."""
    scale = min(1.0, _MAX_EDGE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _read_miniature(file_name: str, size: tuple[int, int]) -> bytes | None:
    """A photo in (height, width), as JPEG; None, and a warning, if it cannot be read."""
    try:
        photo = Image.fromarray(read_image(file_name))
    except (OSError, ValueError) as error:
        logger.warning("The report shows an image without its photo: %s", error)
        return None
    return encode_jpeg(
        np.asarray(photo.resize(size[::-1], Image.Resampling.BOX, reducing_gap=2.0)), _STORED_QUALITY, subsampling=0
    )


def _nearest(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)


def _decode(data: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(BytesIO(data)))
