"""Semantic inference as one would write it down: everything at full size, in float64."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Scores = Callable[[Tensor], Tensor]


def plain_scores(probabilities: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, Q, C) class probabilities and (B, Q, h, w) mask logits -> (B, C, H, W)."""
    masks = F.interpolate(masks.double(), size=size, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", probabilities.double(), masks)


def plain_windows(score: Scores, image: Tensor, crop: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Mean scores (C, H, W) over the windows of an image (3, H, W)."""
    height, width = image.shape[-2:]
    tops = [*range(0, max(height - crop[0], 0), stride[0]), max(height - crop[0], 0)]
    lefts = [*range(0, max(width - crop[1], 0), stride[1]), max(width - crop[1], 0)]
    total, count = 0.0, torch.zeros(height, width)
    for top in tops:
        for left in lefts:
            part = (slice(top, top + crop[0]), slice(left, left + crop[1]))
            scores = score(image[None, :, part[0], part[1]])[0]
            full = scores.new_zeros(len(scores), height, width)
            full[:, part[0], part[1]] = scores
            total = total + full
            count[part] += 1
    return total / count


def resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (C, h, w) at another size."""
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
