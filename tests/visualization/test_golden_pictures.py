"""Every picture of pure red, green and blue images with known labels, to the exact colour and channel."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtaclip.visualization import Painter, Palette, Segmented, save_prediction
from mtaclip.visualization.film import Film
from mtaclip.visualization.painter import FILMED_KINDS, KINDS
from mtaclip.visualization.video import VideoReader

PALETTE = Palette(("sky", "person", "train"), np.array([[70, 130, 180], [220, 20, 60], [0, 80, 100]], np.uint8))
OPACITY = 0.4
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
IMAGES = {"red": (RED,) * 3, "green": (GREEN,) * 3, "blue": (BLUE,) * 3, "stripes": (RED, GREEN, BLUE)}
# 0.6 * 255 = 153 of the image in its one channel, and 0.4 of the colours above.
OVERLAYS = {
    RED: ((181, 52, 72), (241, 8, 24), (153, 32, 40)),
    GREEN: ((28, 205, 72), (88, 161, 24), (0, 185, 40)),
    BLUE: ((28, 52, 225), (88, 8, 177), (0, 32, 193)),
}
CONFIDENCE = (0.0, 0.75, 1.0)
CIVIDIS = ((0, 34, 78), (187, 173, 109), (254, 232, 56))  # rows 0, 191 and 255 of matplotlib's table
CODEC_TOLERANCE = 10  # of a colour, after MPEG-4 with its chroma at half the resolution; channels here differ by more


def grid(colours, size: tuple[int, int]) -> np.ndarray:
    """Three rows of three colours each as a picture of (height, width) pixels, a multiple of three both ways."""
    height, width = size
    return np.array(colours, np.uint8).repeat(height // 3, axis=0).repeat(width // 3, axis=1)


def segmented(name: str, size: tuple[int, int]) -> Segmented:
    """The image's colours go from top to bottom, the classes and confidences from left to right."""
    image = grid([[colour] * 3 for colour in IMAGES[name]], size)
    labels = grid([[0, 1, 2]] * 3, size)
    return Segmented(image, labels, np.array(CONFIDENCE, np.float32)[labels])


def expected(name: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the pictures show away from outlines and names."""
    overlay = grid([OVERLAYS[colour] for colour in IMAGES[name]], size)
    image = segmented(name, size).image
    strip = np.full((size[0], 8, 3), 255, np.uint8)
    return {
        "overlay": overlay,
        "colours": grid([PALETTE.colours] * 3, size),
        "side-by-side": np.concatenate([image, strip, overlay], axis=1),
        "confidence": grid([CIVIDIS] * 3, size),
    }


def corners(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of nine pixels, one of each field, where neither outlines nor names are."""
    height, width = size
    return np.ix_(np.arange(3) * (height // 3) + height // 20, np.arange(3) * (width // 3) + width // 40)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures(tmp_path, name):
    size = (540, 600)  # is not enlarged
    wanted = expected(name, size)
    save_prediction(tmp_path, "x", segmented(name, size), Painter(PALETTE, OPACITY), KINDS)
    pictures = {kind: np.array(Image.open(tmp_path / f"x_{kind}.png")) for kind in KINDS}
    assert np.array_equal(pictures["ids"], grid([[0, 1, 2]] * 3, size))
    assert np.array_equal(pictures["colours"], wanted["colours"])
    assert np.array_equal(pictures["confidence"], wanted["confidence"])
    assert np.array_equal(pictures["overlay"][corners(size)], wanted["overlay"][corners(size)])
    painted = (pictures["overlay"] == wanted["overlay"]).all(axis=2)
    assert painted.mean() > 0.97  # all but outlines and names
    width = size[1]
    assert np.array_equal(pictures["side-by-side"][:, : width + 8], wanted["side-by-side"][:, : width + 8])
    assert np.array_equal(pictures["side-by-side"][:, width + 8 :], pictures["overlay"])
    for colour in PALETTE.colours:
        assert (pictures["legend"] == colour).all(axis=2).sum() == 18 * 18  # a swatch of 20 with its frame


@pytest.mark.parametrize("name", IMAGES)
def test_films(tmp_path, name):
    size = (120, 240)
    wanted = expected(name, size)
    with Film(tmp_path, "x", Painter(PALETTE, OPACITY), 10.0, FILMED_KINDS) as film:
        for _ in range(3):
            film.write(segmented(name, size))
    for kind in FILMED_KINDS:
        file = tmp_path / f"x_{kind}.mp4"
        with VideoReader(file) as video:
            ours = list(video.frames())[-1]
        _, foreign = cv2.VideoCapture(str(file)).read()  # BGR
        places = corners(size)
        for frame in (ours, foreign[..., ::-1]):
            assert frame.shape == wanted[kind].shape
            difference = np.abs(frame[places].astype(int) - wanted[kind][places])
            assert difference.max() <= CODEC_TOLERANCE, (kind, difference.max())


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE])
def test_a_video_of_another_program_keeps_its_colour(tmp_path: Path, colour):
    file = tmp_path / "x.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (96, 64))
    writer.write(np.full((64, 96, 3), colour[::-1], np.uint8))
    writer.release()
    with VideoReader(file) as video:
        (frame,) = video.frames()
    assert np.abs(frame.astype(int) - colour).max() <= CODEC_TOLERANCE
