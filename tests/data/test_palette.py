"""Colours of datasets that define none."""

import cv2
import numpy as np

from mtaclip.data.palette import distinct_colours


def test_150_colours_are_far_apart_and_never_dark():
    colours = np.array(distinct_colours(150))
    assert colours.shape == (150, 3)
    assert colours.min() >= 0
    assert colours.max() <= 255
    lab = cv2.cvtColor((colours / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[~np.eye(150, dtype=bool)]
    assert distance.min() > 10  # 2.3 is what an eye can just tell apart
    assert lab[:, 0].min() >= 40  # of 100


def test_fewer_colours_are_the_first_of_many():
    assert distinct_colours(20) == distinct_colours(150)[:20]
