import numpy as np
import pytest
from detectron2.data.catalog import Metadata

from mtaclip.data.palette import distinct_colours
from mtaclip.visualization import Palette, colour_map
from mtaclip.visualization.palette import hide_classes

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_colour_map_is_exact_and_in_the_order_red_green_blue():
    labels = np.array([[0, 1, 2], [255, 2, 0]], dtype=np.uint8)
    picture = colour_map(labels, [RED, GREEN, BLUE])
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [0, 0, 255], [255, 0, 0]]]


def test_colour_map_refuses_labels_that_have_no_colour():
    with pytest.raises(ValueError, match="label 2, but there are 2 classes"):
        colour_map(np.array([[0, 2]], dtype=np.uint8), [RED, GREEN])
    with pytest.raises(ValueError, match="uint8"):
        colour_map(np.array([[0, 1]]), [RED, GREEN])


def test_palette_takes_names_and_colours_from_the_metadata():
    palette = Palette.from_metadata(Metadata(name="d", stuff_classes=["a", "b"], stuff_colors=[RED, BLUE]))
    assert palette.names == ("a", "b")
    assert palette.colours.tolist() == [list(RED), list(BLUE)]


@pytest.mark.parametrize("num_classes", [1, 19, 254])
def test_metadata_without_colours_get_distinct_ones_that_are_never_black(num_classes):
    names = [f"class {i}" for i in range(num_classes)]
    colours = Palette.from_metadata(Metadata(name="d", stuff_classes=names)).colours
    assert len({tuple(colour) for colour in colours.tolist()}) == num_classes
    assert colours.max(axis=1).min() > 80
    again = Palette.from_metadata(Metadata(name="another", stuff_classes=names)).colours
    assert np.array_equal(again, colours)


@pytest.mark.parametrize("colours", [[RED], [RED, (0, 0, 256)], [(0, 0), (1, 1)], [RED, (0, 0)]])
def test_colours_that_do_not_fit_the_classes_name_the_dataset(colours):
    with pytest.raises(ValueError, match="dataset 'd'.*'stuff_colors'.*2 classes"):
        Palette.from_metadata(Metadata(name="d", stuff_classes=["a", "b"], stuff_colors=colours))


def test_metadata_without_classes_raise():
    with pytest.raises(ValueError, match="dataset 'd' has no class names"):
        Palette.from_metadata(Metadata(name="d"))


def test_classes_are_found_by_name_whatever_the_case():
    palette = Palette(("road", "traffic light", "Car"), np.eye(3, dtype=np.uint8))
    assert palette.train_ids(["car", "Traffic Light"]) == (2, 1)


def test_commas_separate_names_but_in_a_name_of_a_class():
    palette = Palette(("road", "bus, tram", "tram"), np.eye(3, dtype=np.uint8))
    assert palette.find(" Bus, tram ") == (1,)
    assert palette.find("tram, road") == (2, 0)
    assert palette.find(" , ") is None


def test_an_unknown_class_is_answered_with_similar_ones():
    palette = Palette(("road", "traffic light", "traffic sign", "car"), np.zeros((4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"no class 'raod'; close are: road\.$"):
        palette.train_ids(["car", "raod"])
    with pytest.raises(ValueError, match="close are: traffic sign, traffic light"):
        palette.train_ids(["traffic sing"])
    with pytest.raises(ValueError, match=r"the classes are: road, traffic light, traffic sign, car\.$"):
        palette.train_ids(["zzz"])


def test_hidden_classes_become_the_ignore_label():
    labels = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    hidden = hide_classes(labels, (2, 0))
    assert hidden.dtype == np.uint8
    assert hidden.tolist() == [[0, 255, 2, 255]]


def test_the_colour_blind_palette_keeps_the_names():
    palette = Palette(("a", "b"), np.zeros((2, 3), dtype=np.uint8)).colour_blind()
    assert palette.names == ("a", "b")
    assert palette.colours.tolist() == [[230, 159, 0], [86, 180, 233]]  # Okabe and Ito's orange and sky blue


def test_other_names_keep_known_colours_and_get_new_ones_that_nobody_has():
    palette = Palette(("road", "car"), np.array([RED, BLUE], dtype=np.uint8))
    chosen = palette.for_names(["Tram", "CAR", "puddle"])
    assert chosen.names == ("Tram", "CAR", "puddle")
    assert chosen.colours[1].tolist() == list(BLUE)
    assert len({RED, BLUE, *map(tuple, chosen.colours[[0, 2]].tolist())}) == 4
    assert palette.for_names(["car", "road"]).colours.tolist() == [list(BLUE), list(RED)]


def test_colours_that_are_taken_are_far_from_new_ones():
    first = distinct_colours(3)
    assert distinct_colours(2, first) == distinct_colours(5)[3:], "as if they had been chosen together"
