import numpy as np
import pytest

from mtaclip.evaluation.confusion import ConfusionMatrix


def labels(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def test_counts_rows_as_truth_and_drops_ignored_pixels():
    matrix = ConfusionMatrix(3)
    truth = labels([[0, 0, 1, 255], [1, 1, 255, 0]])
    prediction = labels([[0, 1, 1, 2], [0, 1, 0, 0]])
    matrix.update(prediction, truth, "a.png")
    # truth 0: predicted 0, 1, 0; truth 1: predicted 1, 0, 1; two ignored pixels vanish.
    assert matrix.counts.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert matrix.counts.dtype == np.int64
    matrix.update(labels([[2]]), labels([[0]]), "b.png")
    assert matrix.counts.tolist() == [[2, 1, 1], [1, 2, 0], [0, 0, 0]]


def test_agrees_with_counting_one_pixel_at_a_time_for_the_largest_class_count():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    prediction = rng.integers(0, 255, (40, 50), dtype=np.uint8)
    matrix = ConfusionMatrix(255)
    matrix.update(prediction, truth, "a.png")
    expected = np.zeros((255, 255), dtype=np.int64)
    for true, predicted in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != 255:
            expected[true, predicted] += 1
    assert np.array_equal(matrix.counts, expected)


def test_another_ignore_label():
    matrix = ConfusionMatrix(2, ignore_label=2)
    matrix.update(labels([[0, 1, 1]]), labels([[0, 2, 1]]), "a.png")
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]


def test_different_sizes_name_the_file():
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=r"city/a\.png.*2 x 3.*3 x 2"):
        matrix.update(np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.uint8), "city/a.png")


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([[0, 1]], [[0, 7]], r"a\.png: the label map holds the label 7"),
        ([[0, 3]], [[0, 1]], r"a\.png: the prediction holds the label 3"),
        ([[0, 255]], [[0, 255]], r"a\.png: the prediction holds the label 255"),
    ],
)
def test_values_outside_the_classes_name_the_file_and_count_nothing(prediction, truth, message):
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=message):
        matrix.update(labels(prediction), labels(truth), "a.png")
    assert matrix.counts.sum() == 0


def test_labels_that_are_not_uint8_raise():
    with pytest.raises(TypeError, match="uint8"):
        ConfusionMatrix(2).update(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.uint8), "a.png")


@pytest.mark.parametrize(("num_classes", "ignore_label"), [(0, 255), (256, 255), (3, 2), (3, 256)])
def test_classes_that_do_not_fit_into_uint8_raise(num_classes, ignore_label):
    with pytest.raises(ValueError, match="must"):
        ConfusionMatrix(num_classes, ignore_label)
