"""How sure the model is of the class of a pixel."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def confidence(scores: Tensor) -> NDArray[np.float32]:
    """Share of the winning class in the sum of a pixel's class scores.

    The score of a class is the sum over masks of class probability times mask probability. Scores need not sum to 1,
    and what the masks give to the no-object class counts for none: the share tells how clearly one class leads, not how
    often it is right.

    Args:
        scores: (C, H, W), not negative.

    Returns:
        (H, W) float32 between 1 / C and 1, and 0 where all scores are 0.

    Raises:
        ValueError: a score is negative, so that shares mean nothing.
    """
    if scores.min() < 0:
        raise ValueError("confidence is a share of class scores, and this model's scores are partly negative.")
    total = scores.sum(dim=0)
    share = scores.amax(dim=0) / total.where(total > 0, total.new_ones(()))
    return share.float().cpu().numpy()
