import numpy as np
import pytest

from mtaclip.alignment import margin, project, silhouette


def test_silhouettes_follow_their_definition():
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [-5.0, 0.0]])
    # first: 1 from the other of its class, 2 and 2 from the others: (2 - 1) / 2
    # second: 1 from its class, 1 and 1 from the others: 0
    # third and fourth: 0 from their class, (2 + 1) / 2 from the other: 1
    assert silhouette(embeddings, np.array([7, 7, 3, 3])).tolist() == pytest.approx([0.5, 0.0, 1.0, 1.0])


def test_a_mask_amid_another_class_has_a_negative_silhouette():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    # the fourth is 1 from its class (all three others of class 0 are mates: 1, 1 away) and 0 from class 1
    values = silhouette(embeddings, np.array([0, 0, 1, 0, 1]))
    assert values[3] == pytest.approx(-1.0)
    # the first: (0 + 1) / 2 from its class, 1 from class 1
    assert values[0] == pytest.approx(0.5)


def test_of_several_other_classes_the_nearest_counts():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    # the first: 0 from its class, 2 from class 1, 0.4 from class 2, which is what it is compared with
    # the third is the only one of its class
    values = silhouette(embeddings, np.array([0, 0, 1, 2, 2]))
    assert values[[0, 2]].tolist() == pytest.approx([1.0, 0.0])


def test_equal_masks_of_two_classes_are_not_apart():
    assert silhouette(np.ones((4, 2)), np.array([0, 0, 1, 1])).tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_one_class_has_no_silhouette():
    with pytest.raises(ValueError, match="two or more classes, here are 1"):
        silhouette(np.ones((3, 2)), np.zeros(3, np.int64))


def test_margins_take_the_best_context_of_each_class():
    texts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [-1.0, 0.0]]])  # (n, C, D)
    masks = np.array([[0.6, 0.8], [0.8, -0.6]])
    # first mask: class 0 has 0.6 and -0.8, class 1 has 0.8 and -0.6; second: class 0 0.8 and 0.6, class 1 -0.6 and -0.8
    assert margin(masks, np.array([1, 1]), texts).tolist() == pytest.approx([0.2, -1.4])


def test_the_projection_keeps_distances_in_a_plane():
    plane = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    turned = plane @ np.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]) + [5.0, -2.0, 1.0]
    coordinates, shares = project(turned)
    assert np.abs(coordinates).tolist() == pytest.approx(np.abs(plane), abs=1e-9)
    assert shares.tolist() == pytest.approx([0.9, 0.1])  # of 18 + 2
    assert coordinates[:, 0].max() == pytest.approx(3.0)
