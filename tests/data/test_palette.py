"""Colours of datasets that define none, and for everybody's eyes."""

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as CITYSCAPES_LABELS

from mtaclip.data.palette import OKABE_ITO, colour_blind_colours, distinct_colours, seen_colours


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


def test_simulated_deficiencies_turn_red_and_green_alike_and_leave_greys():
    grey, red, green = np.array([[128] * 3, [220, 0, 0], [90, 90, 0]], dtype=np.uint8)
    normal, protan, deutan, tritan = seen_colours(np.array([grey, red, green]))
    for view in (protan, deutan, tritan):
        assert np.abs(view[0] - normal[0]).max() < 0.5
    assert np.linalg.norm(normal[1] - normal[2]) > 70
    assert np.linalg.norm(protan[1] - protan[2]) < 20
    assert np.linalg.norm(tritan[1] - tritan[2]) > 50


def test_colour_blind_colours_start_with_okabe_and_ito():
    assert colour_blind_colours(3) == ((230, 159, 0), (86, 180, 233), (0, 158, 115))
    assert colour_blind_colours(20)[:7] == OKABE_ITO
    assert len(set(colour_blind_colours(254))) == 254


def test_19_colours_stay_apart_for_all_eyes_as_those_of_cityscapes_do_not():
    cityscapes = [label.color for label in CITYSCAPES_LABELS if 0 <= label.trainId < 19]
    assert smallest_distance(colour_blind_colours(19)) > 15
    assert smallest_distance(cityscapes) < 5


def smallest_distance(colours):
    seen = seen_colours(np.array(colours, dtype=np.uint8))
    distance = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1)
    return distance[:, ~np.eye(len(colours), dtype=bool)].min()
