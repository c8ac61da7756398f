"""Points read from label maps against sampling stacked binary masks, and importance sampling."""

import pytest
import torch

from mtaclip.losses.point_sampling import PointSampler, sample_maps
from mtaclip.losses.targets import SemanticTargets


def test_label_maps_equal_stacked_masks():
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (2, 7, 5), dtype=torch.uint8)
    labels[0, :2] = 255
    targets = SemanticTargets.from_labels(labels, 4, torch.device("cpu"))
    for image, classes in enumerate(targets.classes):
        points = torch.rand(1, 200, 2) * 1.4 - 0.2  # outside as well
        masks = (labels[image] == classes[:, None, None]).float()
        expected = sample_maps(masks[None], points)[0]
        torch.testing.assert_close(targets.at(image, points, classes), expected, rtol=0, atol=1e-6)
        own_points = torch.rand(len(classes), 50, 2)
        expected = sample_maps(masks[:, None], own_points)[:, 0]
        torch.testing.assert_close(targets.at(image, own_points, classes), expected, rtol=0, atol=1e-6)


def test_points_by_hand():
    targets = SemanticTargets(torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8), [torch.arange(4)])
    # The centre, the upper left corner (a quarter of the first pixel, the rest lies outside), and three places outside.
    points = torch.tensor([[[0.5, 0.5], [0.0, 0.0], [-0.3, 0.5], [0.5, 1.3], [9.0, -7.0]]])
    expected = [[0.25, 0.25, 0, 0, 0], [0.25, 0, 0, 0, 0], [0.25, 0, 0, 0, 0], [0.25, 0, 0, 0, 0]]
    assert targets.at(0, points, torch.arange(4)).tolist() == expected


def test_classes_of_an_image():
    labels = torch.tensor([[[3, 3], [255, 0]], [[255, 255], [255, 255]], [[7, 2], [2, 2]]], dtype=torch.uint8)
    targets = SemanticTargets.from_labels(labels, 5, torch.device("cpu"))
    assert [c.tolist() for c in targets.classes] == [[0, 3], [], [2]]


def test_importance_sampling_prefers_uncertain_pixels():
    """A mask that is sure on the left (logit 10) and unsure on the right (0): 75 % of the points must lie right."""
    torch.manual_seed(0)
    logits = torch.full((2, 8, 8), 10.0)
    logits[:, :, 4:] = 0.0
    points = PointSampler(400, oversample_ratio=3.0, importance_ratio=0.75).for_losses(logits, image=0)
    assert points.shape == (2, 400, 2)
    right = (points[..., 0] > 0.5).float().mean(1)
    assert (right > 0.8).all() and (right < 0.95).all()  # all 75 % and half of the other 25 %: 87.5 %


def test_matching_points_are_shared_by_the_layers():
    assert PointSampler(16, 3.0, 0.75).for_matching(2, torch.device("cpu")).shape == (1, 2, 16, 2)


def test_ratios_out_of_range_are_refused():
    with pytest.raises(ValueError, match="OVERSAMPLE_RATIO"):
        PointSampler(16, 0.5, 0.75)
