"""All kinds of pictures, with exact colours."""

import numpy as np
import pytest

from mtaclip.visualization import Painter, Palette, Segmented
from mtaclip.visualization.confidence import draw_confidence
from mtaclip.visualization.painter import FILMED_KINDS

# Red is called sky and so on, so that a picture cannot be right by taking the image for its labels.
PALETTE = Palette(("sky", "road", "car"), np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], dtype=np.uint8))
BLACK = (0, 0, 0)


@pytest.fixture
def stripes() -> Segmented:
    """A pure red, a pure green and a pure blue stripe of 20 columns; classes 0, 1 and 2."""
    image = np.zeros((30, 60, 3), dtype=np.uint8)
    for channel in range(3):
        image[:, 20 * channel : 20 * (channel + 1), channel] = 255
    labels = np.arange(3, dtype=np.uint8).repeat(20)[None].repeat(30, axis=0)
    confidence = np.full((30, 60), 1.0, dtype=np.float32)
    confidence[:, 20:40] = 0.0
    return Segmented(image, labels, confidence)


def at_stripes(picture: np.ndarray, row: int, scale: int = 1) -> list[tuple[int, ...]]:
    """Colours in the middle of the three stripes."""
    return [tuple(picture[row * scale, column * scale].tolist()) for column in (10, 30, 50)]


def test_colours_and_ids_are_exact(stripes):
    painter = Painter(PALETTE)
    assert at_stripes(painter.picture("colours", stripes), 3) == [(0, 0, 255), (255, 0, 0), (0, 255, 0)]
    assert np.array_equal(painter.picture("ids", stripes), stripes.labels)


@pytest.mark.parametrize("kind", FILMED_KINDS)
def test_frames_have_the_size_of_the_image(stripes, kind):
    frame = Painter(PALETTE).frame(kind, stripes)
    assert frame.shape == ((30, 128, 3) if kind == "side-by-side" else (30, 60, 3))
    assert frame.dtype == np.uint8


def test_overlay_mixes_image_and_class_colour(stripes):
    half = Painter(PALETTE).frame("overlay", stripes)
    # (255, 0, 0) and (0, 0, 255): 127.5 each, to the even 128.
    assert at_stripes(half, 1) == [(128, 0, 128), (128, 128, 0), (0, 128, 128)]
    assert at_stripes(Painter(PALETTE, opacity=1.0).frame("overlay", stripes), 1) == [
        (0, 0, 255),
        (255, 0, 0),
        (0, 255, 0),
    ]
    assert np.array_equal(Painter(PALETTE, opacity=0.0).frame("overlay", stripes), stripes.image)


def test_pictures_are_enlarged_and_side_by_side_shows_the_image_left(stripes):
    both = Painter(PALETTE).picture("side-by-side", stripes)
    overlay = Painter(PALETTE).picture("overlay", stripes)
    scale = 18  # the first whole number that gives the short edge of 30 at least 512 pixels
    assert overlay.shape == (30 * scale, 60 * scale, 3)
    assert both.shape == (30 * scale, 2 * 60 * scale + 8, 3)
    assert at_stripes(both, 1, scale) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert (both[:, 60 * scale : 60 * scale + 8] == 255).all()
    assert np.array_equal(both[:, 60 * scale + 8 :], overlay)


def test_confidence_goes_from_dark_blue_to_yellow(stripes):
    picture = Painter(PALETTE).picture("confidence", stripes)
    # The ends of matplotlib's cividis.
    assert at_stripes(picture, 3) == [(254, 232, 56), (0, 34, 78), (254, 232, 56)]
    with pytest.raises(ValueError, match="needs the confidence"):
        Painter(PALETTE).picture("confidence", Segmented(stripes.image, stripes.labels))
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_confidence(np.array([[1.5]], dtype=np.float32))


def test_only_the_classes_to_show_are_shown(stripes):
    painter = Painter(PALETTE, opacity=1.0, shown=(2, 0))
    assert np.unique(painter.picture("ids", stripes)).tolist() == [0, 2, 255]
    assert at_stripes(painter.picture("colours", stripes), 3) == [(0, 0, 255), BLACK, (0, 255, 0)]
    assert at_stripes(painter.frame("overlay", stripes), 1) == [(0, 0, 255), (0, 255, 0), (0, 255, 0)]
    assert at_stripes(painter.picture("confidence", stripes), 3)[1] == BLACK
    legend = painter.picture("legend", stripes)
    assert (legend == (0, 0, 255)).all(axis=2).any() and not (legend == (255, 0, 0)).all(axis=2).any()
    assert (legend == 0).all(axis=2).sum() >= 18 * 18  # the black swatch of the other classes
