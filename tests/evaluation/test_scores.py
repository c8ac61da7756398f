import math

import numpy as np
import pytest
from pytest import approx

from mtaclip.evaluation import scores

# Class 0: 5 right of 6 true and 7 predicted pixels, union 6 + 7 - 5 = 8.
# Class 1: 3 right of 5 true and 4 predicted pixels, union 5 + 4 - 3 = 6.
# Class 2: neither occurs nor is predicted.
ABSENT = np.array([[5, 1, 0], [2, 3, 0], [0, 0, 0]])
# As above, but one of class 0's five right pixels was predicted as class 2 (which does not occur):
# class 0: union 6 + 6 - 4 = 8; class 2: union 0 + 1 - 0 = 1, none right.
ONLY_PREDICTED = np.array([[4, 1, 1], [2, 3, 0], [0, 0, 0]])


def test_a_class_that_neither_occurs_nor_is_predicted_has_no_score():
    assert scores.class_iou(ABSENT) == approx(np.array([5 / 8, 3 / 6, np.nan]), nan_ok=True)
    assert scores.class_accuracy(ABSENT) == approx(np.array([5 / 6, 3 / 5, np.nan]), nan_ok=True)
    assert scores.mean_iou(ABSENT) == approx((5 / 8 + 1 / 2) / 2)
    assert scores.mean_accuracy(ABSENT) == approx((5 / 6 + 3 / 5) / 2)
    assert scores.frequency_weighted_iou(ABSENT) == approx(6 / 11 * 5 / 8 + 5 / 11 * 1 / 2)
    assert scores.pixel_accuracy(ABSENT) == approx(8 / 11)


def test_a_class_that_is_predicted_and_does_not_occur_counts_with_iou_zero():
    assert scores.class_iou(ONLY_PREDICTED) == approx(np.array([4 / 8, 3 / 6, 0.0]))
    assert scores.mean_iou(ONLY_PREDICTED) == approx((4 / 8 + 3 / 6 + 0) / 3)
    assert scores.mean_accuracy(ONLY_PREDICTED) == approx((4 / 6 + 3 / 5) / 2)  # no true pixel, no accuracy
    assert scores.frequency_weighted_iou(ONLY_PREDICTED) == approx(6 / 11 * 4 / 8 + 5 / 11 * 3 / 6)
    assert scores.pixel_accuracy(ONLY_PREDICTED) == approx(7 / 11)


def test_category_scores_forgive_confusion_inside_a_category():
    # Classes 0 and 1 are "flat": every true pixel of theirs was predicted as one of them, but for one.
    assert scores.category_iou(ABSENT, ["flat", "flat", "sky"]) == approx({"flat": 1.0, "sky": np.nan}, nan_ok=True)
    # 10 of 11 right, none wrongly called flat: 10 / 11; sky: predicted once, never true.
    assert scores.category_iou(ONLY_PREDICTED, ["flat", "flat", "sky"]) == approx({"flat": 10 / 11, "sky": 0.0})


def test_semantic_scores_are_percent_under_detectron2s_names():
    result = scores.semantic_scores(ONLY_PREDICTED, ["road", "path", "sky"], ["flat", "flat", "sky"])
    assert list(result) == [
        *("mIoU", "fwIoU", "mACC", "pACC", "category mIoU"),
        *("IoU-road", "IoU-path", "IoU-sky", "ACC-road", "ACC-path", "ACC-sky"),
        *("IoU-category-flat", "IoU-category-sky"),
    ]
    assert result["mIoU"] == approx(100 / 3)
    assert result["IoU-road"] == approx(50)
    assert result["category mIoU"] == approx(100 * (10 / 11 + 0) / 2)
    assert math.isnan(result["ACC-sky"])
    assert all(type(value) is float for value in result.values())


def test_without_pixels_every_score_is_undefined():
    result = scores.semantic_scores(np.zeros((2, 2), dtype=np.int64), ["a", "b"], ["x", "y"])
    assert all(math.isnan(value) for value in result.values())


def test_names_must_fit_the_matrix_and_differ():
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        scores.semantic_scores(ABSENT, ["a", "b"])
    with pytest.raises(ValueError, match="two classes are named 'a'"):
        scores.semantic_scores(ABSENT, ["a", "b", "a"])
    with pytest.raises(ValueError, match="1 category names for 3 classes"):
        scores.semantic_scores(ABSENT, ["a", "b", "c"], ["x"])
