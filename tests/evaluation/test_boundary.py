import cv2
import numpy as np
import pytest

from mtaclip.evaluation.boundary import boundary_counts, boundary_width


def regions_one_class_at_a_time(labels: np.ndarray, label: int, width: int) -> np.ndarray:
    """A class's mask without what is left of it after `width` erosions by one pixel; beyond the image is outside."""
    mask = np.pad((labels == label).astype(np.uint8), 1)
    eroded = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=width)
    return (mask - eroded)[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize("size", [(60, 80), (9, 7), (300, 400)])
def test_agrees_with_eroding_every_class_by_itself(size):
    rng = np.random.default_rng(1)
    cells = (size[0] // 20 + 1, size[1] // 20 + 1)
    blocks = np.ones((20, 20), np.uint8)
    truth = np.kron(rng.choice([0, 1, 2, 3, 255], cells), blocks)[: size[0], : size[1]].astype(np.uint8)
    prediction = np.kron(rng.choice([0, 1, 2, 3], cells), blocks)[: size[0], : size[1]].astype(np.uint8)
    prediction = np.where(rng.random(cells).repeat(20, 0).repeat(20, 1)[: size[0], : size[1]] < 0.7, truth, prediction)
    prediction[prediction == 255] = 0
    prediction = np.roll(prediction, 2, axis=1)
    seen = np.where(truth == 255, np.uint8(255), prediction)
    width = boundary_width(size)
    expected = np.zeros((2, 4), dtype=np.int64)
    for label in range(4):
        true, predicted = (regions_one_class_at_a_time(labels, label, width) for labels in (truth, seen))
        expected[:, label] = (true & predicted).sum(), (true | predicted).sum()
    assert boundary_counts(prediction, truth, 4, 255).tolist() == expected.tolist()
    assert expected[0].any()


def test_width_is_two_percent_of_the_diagonal():
    assert boundary_width((300, 400)) == 10  # the diagonal is 500
    assert boundary_width((1024, 2048)) == 46  # 0.02 * 2289.7 = 45.8
    assert boundary_width((4, 4)) == 1


def test_a_square_moved_by_one_pixel():
    # 40 x 30 image: diagonal 50, width 1. The boundary regions of the 4 x 4 squares are rings of 12 pixels.
    truth = np.zeros((30, 40), np.uint8)
    truth[10:14, 10:14] = 1
    prediction = np.roll(truth, 1, axis=1)
    # In common: in the upper and lower row the three columns 11 .. 13; between them no column is in both rings.
    assert boundary_counts(prediction, truth, 2, 255)[:, 1].tolist() == [6, 18]
