"""Semantic scores and sliding windows."""

import pytest
import torch

from mtaclip.inference.semantic import semantic_scores, sliding_window_scores, window_starts, windows


def test_scores_by_hand():
    # One query sure of class 0 of two (and no-object), its mask everywhere at probability 1/2.
    logits = torch.tensor([[[0.0, -torch.inf, 0.0]]])
    scores = semantic_scores(logits, torch.zeros(1, 1, 2, 2), (4, 4))
    assert scores.shape == (1, 2, 4, 4)
    torch.testing.assert_close(scores[0, 0], torch.full((4, 4), 0.25))
    assert not scores[0, 1].any()


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(100, 64, 43, [0, 36]), (64, 64, 43, [0]), (50, 64, 43, [0]), (107, 64, 43, [0, 43]), (148, 64, 43, [0, 43, 84])],
)
def test_windows_cover_and_stay_inside(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


def test_one_window_is_the_whole_image():
    images = torch.randn(2, 3, 20, 30)
    score = lambda x: x.cumsum(-1)  # noqa: E731
    torch.testing.assert_close(sliding_window_scores(score, images, (20, 30), (13, 20)), score(images))
    torch.testing.assert_close(sliding_window_scores(score, images, (64, 64), (43, 43)), score(images))


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (65, 129)])
def test_a_pointwise_score_does_not_see_the_windows(size):
    images = torch.randn(1, 3, *size)
    scores = sliding_window_scores(lambda x: x * 2, images, (32, 48), (21, 32))
    torch.testing.assert_close(scores, images * 2)


def test_overlaps_are_averaged_by_hand():
    # Width 3, windows of 2 at 0 and 1, each scored with its number: 1, (1 + 2) / 2, 2.
    number = iter((1.0, 2.0))
    scores = sliding_window_scores(
        lambda x: torch.full((1, 1, *x.shape[-2:]), next(number)), torch.zeros(1, 3, 1, 3), (1, 2), (1, 1)
    )
    assert scores.flatten().tolist() == [1.0, 1.5, 2.0]
    assert len(list(windows((1, 3), (1, 2), (1, 1)))) == 2
