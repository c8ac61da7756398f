"""Semantic scores of whole images and of sliding windows (MaskFormer).

Letters: B images, Q mask queries, C classes, H, W image size in pixels.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class scores of every pixel: the sum over queries of class probability times mask probability.

    Args:
        class_logits: (B, Q, C + 1), the no-object class last; it is left out after the softmax.
        mask_logits: (B, Q, h, w), resized bilinearly before the sigmoid.
        size: (H, W) of the result.

    Returns:
        (B, C, H, W) float32, not normalised over classes.
    """
    probabilities = class_logits.float().softmax(-1)[..., :-1]
    masks = F.interpolate(mask_logits.float(), size=size, mode="bilinear", align_corners=False).sigmoid_()
    return torch.einsum("bqc,bqhw->bchw", probabilities, masks)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one axis; the last one is shifted back so that it ends inside.

    Args:
        length: pixels of the image.
        window: pixels of a window; a longer window than the image gives one start.
        stride: pixels between neighbours.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def windows(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every window over an image of the given size, row by row."""
    for top in window_starts(size[0], crop[0], stride[0]):
        for left in window_starts(size[1], crop[1], stride[1]):
            yield slice(top, min(top + crop[0], size[0])), slice(left, min(left + crop[1], size[1]))


def sliding_window_scores(
    score: Callable[[Tensor], Tensor], images: Tensor, crop: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Scores averaged over all the windows that see a pixel.

    Args:
        score: maps (B, 3, h, w) windows to (B, C, h, w) scores.
        images: (B, 3, H, W).
        crop: window height and width.
        stride: vertical and horizontal distance of windows.

    Returns:
        (B, C, H, W). An image smaller than the window is one window.
    """
    size = images.shape[-2:]
    total, count = None, images.new_zeros(size)
    for rows, columns in windows(size, crop, stride):
        scores = score(images[..., rows, columns])
        if total is None:
            total = scores.new_zeros((*scores.shape[:2], *size))
        total[..., rows, columns] += scores
        count[rows, columns] += 1
    return total / count
