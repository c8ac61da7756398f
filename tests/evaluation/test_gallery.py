import logging
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mtaclip.evaluation.gallery import IGNORED, WRONG, Gallery, draw_example, error_map
from mtaclip.visualization import Palette

PALETTE = Palette(("road", "path"), np.array([(200, 0, 0), (0, 0, 200)], np.uint8))
LABELS = np.zeros((4, 6), np.uint8)


def offer(gallery: Gallery, score: float, name: str, prediction: np.ndarray = LABELS) -> None:
    gallery.offer(score, name, f"{name}_labels", prediction, LABELS)


def names(gallery: Gallery) -> tuple[list[str], list[str]]:
    best, worst = gallery.choose(distributed=False)
    return [example.file_name for example in best], [example.file_name for example in worst]


def decode(data: bytes) -> np.ndarray:
    return np.array(Image.open(BytesIO(data)))


@pytest.mark.parametrize("order", ["abcdefgh", "hgfedcba", "dhaecgbf"])
def test_the_best_and_the_worst_whatever_the_order(order):
    gallery = Gallery(2)
    scores = {"a": 50.0, "b": 90.0, "c": 10.0, "d": 50.0, "e": 70.0, "f": 20.0, "g": 90.0, "h": 10.0}
    for name in order:
        offer(gallery, scores[name], name)
    # By score, then by name: b g | e a d f | c h; the worst first.
    assert names(gallery) == (["b", "g"], ["h", "c"])


def test_few_images_are_shown_once_each():
    gallery = Gallery(4)
    for name, score in (("a", 10.0), ("b", 30.0), ("c", 20.0)):
        offer(gallery, score, name)
    assert names(gallery) == (["b", "c"], ["a"])


def test_an_image_that_comes_again_takes_its_own_place():
    gallery = Gallery(2)
    for name, score in (("a", 10.0), ("b", 30.0), ("a", 50.0)):
        offer(gallery, score, name)
    assert names(gallery) == (["a"], ["b"])


def test_an_image_without_a_score_and_a_gallery_of_no_size_show_nothing():
    gallery = Gallery(2)
    offer(gallery, float("nan"), "a")
    assert names(gallery) == ([], [])
    empty = Gallery(0)
    offer(empty, 50.0, "a")
    assert names(empty) == ([], [])


def test_a_photo_is_read_only_of_images_that_are_shown(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mtaclip"), "propagate", True)
    gallery = Gallery(1)
    for name, score in (("best", 90.0), ("worst", 10.0), ("between", 50.0)):
        offer(gallery, score, str(tmp_path / name))
    missing = [record.getMessage() for record in caplog.records]
    assert len(missing) == 2 and "best" in missing[0] and "worst" in missing[1]


def test_miniatures_keep_the_proportions_and_the_labels(tmp_path):
    photo = np.full((500, 1000, 3), (10, 200, 30), np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    truth = np.zeros((500, 1000), np.uint8)
    truth[:, 500:] = 7
    gallery = Gallery(1, ignore_label=7)
    gallery.offer(50.0, str(tmp_path / "a.png"), "a", np.ones_like(truth), truth)
    ((example,), _) = gallery.choose(distributed=False)
    assert decode(example.photo).shape == (240, 480, 3)
    assert np.abs(decode(example.photo).astype(int) - (10, 200, 30)).max() < 4  # JPEG
    expected = np.zeros((240, 480), np.uint8)
    expected[:, 240:] = 255  # the ignore label
    assert np.array_equal(decode(example.truth), expected)
    assert np.array_equal(decode(example.prediction), np.ones_like(expected))


def test_drawn_in_the_colours_of_the_classes_without_a_photo():
    gallery = Gallery(1)
    truth = np.zeros((200, 300), np.uint8)
    truth[:, 200:] = 255
    gallery.offer(50.0, "missing.png", "a", np.ones_like(truth), truth)
    ((example,), _) = gallery.choose(distributed=False)
    assert example.photo is None
    pictures = draw_example(example, PALETTE)
    # Half of the grey 200 and half of the class's colour; at the right the truth shows the photo alone.
    for picture, place, colour in (
        (pictures.prediction, (20, 20), (100, 100, 200)),
        (pictures.truth, (20, 20), (200, 100, 100)),
        (pictures.truth, (20, 280), (200, 200, 200)),
        (pictures.errors, (20, 20), WRONG),
        (pictures.errors, (20, 280), IGNORED),
    ):
        assert np.abs(decode(picture)[place].astype(int) - colour).max() < 8  # JPEG


def test_errors_are_red_ignored_pixels_grey_and_the_others_dim():
    photo = np.full((1, 4, 3), 200, np.uint8)
    prediction = np.array([[0, 1, 1, 1]], np.uint8)
    truth = np.array([[0, 0, 255, 1]], np.uint8)
    assert error_map(photo, prediction, truth)[0].tolist() == [[80] * 3, list(WRONG), list(IGNORED), [80] * 3]
