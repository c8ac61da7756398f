import numpy as np
import pytest

from mtaclip.visualization import Palette, draw_overlay

PALETTE = Palette(("red", "green", "blue"), np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_opacity_zero_gives_a_pure_image_back(channel):
    image = np.zeros((600, 640, 3), dtype=np.uint8)
    image[..., channel] = 255
    picture = draw_overlay(image, np.zeros((600, 640), dtype=np.uint8), PALETTE, opacity=0.0)
    assert np.array_equal(picture, image)


def test_half_opacity_is_the_rounded_mean_of_image_and_colour():
    image = np.full((600, 600, 3), (200, 100, 40), dtype=np.uint8)
    labels = np.full((600, 600), 0, dtype=np.uint8)
    labels[:, 200:400] = 2
    labels[:, 400:] = 255
    picture = draw_overlay(image, labels, PALETTE, opacity=0.5)
    # Pixels near the corners are free of captions, which sit deep inside the segments.
    assert picture[5, 5].tolist() == [228, 50, 20]  # (200 + 255) / 2 = 227.5, to the even 228
    assert picture[5, 300].tolist() == [100, 50, 148]  # (40 + 255) / 2 = 147.5, to the even 148
    assert np.array_equal(picture[:, 400:], image[:, 400:])  # ignored pixels show the image
    # The segments are outlined in their own pure colour, also towards ignored pixels but not along the image's edge.
    assert picture[5, 199].tolist() == [255, 0, 0]
    assert picture[5, 200].tolist() == picture[5, 399].tolist() == [0, 0, 255]
    assert picture[0, 5].tolist() == [228, 50, 20]


def test_every_pixel_of_thin_and_ragged_segments_is_painted():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (521, 533), dtype=np.uint8)
    picture = draw_overlay(noise(521, 533), labels, PALETTE, opacity=1.0)
    assert np.array_equal(picture, PALETTE.colours[labels])  # single pixels leave no room for captions


def test_class_names_are_written_and_do_not_cover_each_other():
    labels = np.zeros((600, 600), dtype=np.uint8)
    labels[250:350, 250:350] = 1
    blank = np.full((600, 600, 3), 255, dtype=np.uint8)
    picture = draw_overlay(blank, labels, PALETTE, opacity=1.0)
    written = (picture != PALETTE.colours[labels]).any(axis=2)
    assert 100 < written[260:340, 255:345].sum() < 3000  # "green", inside its square
    written[250:350, 250:350] = False
    rows, columns = np.nonzero(written)
    assert rows.size > 100  # "red", somewhere else and nowhere near the image's edge
    assert rows.min() > 0 and columns.min() > 0 and rows.max() < 599 and columns.max() < 599


def test_of_synonyms_the_first_is_written():
    labels = np.zeros((520, 520), dtype=np.uint8)
    first, all_names = (
        draw_overlay(noise(520, 520), labels, Palette((name,), PALETTE.colours[:1])) for name in ("road", "road, route")
    )
    assert np.array_equal(first, all_names)


def test_small_images_are_enlarged_by_a_whole_number_for_legible_names():
    labels = np.zeros((128, 256), dtype=np.uint8)
    labels[:, 128:] = 1
    picture = draw_overlay(np.zeros((128, 256, 3), dtype=np.uint8), labels, PALETTE, opacity=1.0)
    assert picture.shape == (512, 1024, 3)
    assert picture[10, 511].tolist() == [255, 0, 0]
    assert picture[10, 512].tolist() == [0, 255, 0]
    letters = (picture[:, :511] != (255, 0, 0)).any(axis=2).any(axis=1).sum()
    assert letters >= 14  # height in pixels of the box round "red"


def test_enlarging_stops_at_a_long_edge_of_2048_and_can_be_turned_off():
    image, labels = noise(10, 900), np.zeros((10, 900), dtype=np.uint8)
    assert draw_overlay(image, labels, PALETTE).shape == (20, 1800, 3)
    assert draw_overlay(image, labels, PALETTE, min_edge=0).shape == (10, 900, 3)
    assert draw_overlay(noise(1, 1), np.zeros((1, 1), dtype=np.uint8), PALETTE).shape == (512, 512, 3)


def test_the_arguments_are_left_alone():
    image, labels = noise(520, 520), np.zeros((520, 520), dtype=np.uint8)
    draw_overlay(image, labels, PALETTE)
    assert np.array_equal(image, noise(520, 520))
    assert not labels.any()


@pytest.mark.parametrize(
    ("image", "labels", "opacity", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), 0.5, r"\(H, W, 3\) uint8"),
        (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), 0.5, r"\(H, W, 3\) uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), 0.5, r"\(4, 5\).*\(4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 3, np.uint8), 0.5, "label 3"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), 1.5, "opacity"),
    ],
)
def test_wrong_arguments_raise(image, labels, opacity, message):
    with pytest.raises(ValueError, match=message):
        draw_overlay(image, labels, PALETTE, opacity)
