"""The share of the winning class."""

import numpy as np
import pytest
import torch
from pytest import approx

from mtaclip.inference.confidence import confidence


def test_share_of_the_winning_class_by_hand():
    scores = torch.tensor([[[0.2, 3.0, 0.0]], [[0.3, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])  # three classes, three pixels
    share = confidence(scores)
    assert share.dtype == np.float32
    assert share.tolist() == [[approx(0.6), 0.75, 0.0]]  # 0.3 / 0.5, 3 / 4, and nothing at all


def test_negative_scores_are_refused():
    with pytest.raises(ValueError, match="negative"):
        confidence(torch.tensor([[[1.0]], [[-0.5]]]))
