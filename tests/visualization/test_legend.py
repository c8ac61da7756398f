import numpy as np
import pytest
from pytest import approx

from mtaclip.data.palette import distinct_colours
from mtaclip.visualization import Palette, draw_legend
from mtaclip.visualization.legend import count_pixels, legend_entries

PALETTE = Palette(("road", "sky", "car"), np.array([[128, 64, 128], [70, 130, 180], [0, 0, 142]], dtype=np.uint8))


def draw(labels: np.ndarray, palette: Palette, background: str = "light") -> np.ndarray:
    return draw_legend(legend_entries(count_pixels(labels, palette), palette), background)


def test_entries_are_the_classes_present_with_their_shares_largest_first():
    labels = np.array([[2, 2, 2, 2, 2], [0, 0, 0, 255, 255]], dtype=np.uint8)
    entries = legend_entries(count_pixels(labels, PALETTE), PALETTE)
    assert [entry.name for entry in entries] == ["car", "road", "(no label)"]
    assert [entry.colour for entry in entries] == [(0, 0, 142), (128, 64, 128), (0, 0, 0)]
    assert [entry.share for entry in entries] == approx([0.5, 0.3, 0.2])


def test_swatches_have_the_exact_colours_from_top_to_bottom():
    labels = np.array([[1, 1, 0]], dtype=np.uint8)
    picture = draw(labels, PALETTE)
    is_sky = (picture == (70, 130, 180)).all(axis=2)
    is_road = (picture == (128, 64, 128)).all(axis=2)
    assert is_sky.sum() == is_road.sum() == 18 * 18  # 20 x 20 with a frame of one pixel
    assert np.nonzero(is_sky)[0].max() < np.nonzero(is_road)[0].min()
    assert not (picture == (0, 0, 142)).all(axis=2).any()  # no car, no swatch


def test_rows_do_not_touch_and_nothing_is_cut_off():
    names = ("a" * 60, "Qgjpqy" * 5, "sky")
    labels = np.array([[0, 1, 2]], dtype=np.uint8)
    picture = draw(labels, Palette(names, PALETTE.colours))
    ink = (picture != 255).any(axis=2)
    used = ink.any(axis=1).astype(int)
    assert (np.diff(used) == 1).sum() == 3  # three rows with white between them
    assert not ink[:4].any() and not ink[-4:].any() and not ink[:, :4].any() and not ink[:, -4:].any()


def test_the_dark_background_has_light_letters_and_the_same_layout():
    labels = np.array([[0, 1, 2]], dtype=np.uint8)
    light, dark = draw(labels, PALETTE), draw(labels, PALETTE, "dark")
    assert light.shape == dark.shape
    assert light[0, 0].tolist() == [255, 255, 255]
    assert dark[0, 0].tolist() == [24, 24, 24]
    assert (dark == 255).all(axis=2).any()  # letters
    assert np.array_equal((light == (128, 64, 128)).all(axis=2), (dark == (128, 64, 128)).all(axis=2))


def test_pixels_of_several_label_maps_are_summed():
    first, second = np.array([[0, 0, 1]], dtype=np.uint8), np.array([[2, 2, 2], [2, 2, 255]], dtype=np.uint8)
    pixels = count_pixels(first, PALETTE) + count_pixels(second, PALETTE)
    entries = legend_entries(pixels, PALETTE, ignored_name="(others)")
    assert [entry.name for entry in entries] == ["car", "road", "sky", "(others)"]
    assert [entry.share for entry in entries] == approx([5 / 9, 2 / 9, 1 / 9, 1 / 9])


def test_a_long_name_widens_its_own_column_only():
    colours = np.array(distinct_colours(48), dtype=np.uint8)  # two columns
    labels = np.arange(48, dtype=np.uint8)[None]

    def width(*names: str) -> int:
        return draw(labels, Palette(names, colours)).shape[1]

    short = width(*["class"] * 48)
    grown = [width(*["class"] * place, 3 * "class", *["class"] * (47 - place)) - short for place in (0, 47)]
    assert grown[0] == grown[1] > 50
    assert width(3 * "class", *["class"] * 46, 3 * "class") - short == sum(grown)


@pytest.mark.parametrize("num_classes", [1, 24, 25, 150])
def test_any_number_of_classes_finds_its_place(num_classes):
    colours = np.array(distinct_colours(num_classes), dtype=np.uint8)
    labels = np.arange(num_classes, dtype=np.uint8)[None]
    picture = draw(labels, Palette(tuple(f"class {i}" for i in range(num_classes)), colours))
    assert picture.shape[0] < 800
    place = np.array([65536, 256, 1])
    values, pixels = np.unique(picture @ place, return_counts=True)
    found = dict(zip(values.tolist(), pixels.tolist(), strict=True))
    assert all(found[colour] >= 18 * 18 for colour in (colours @ place).tolist())
