"""Bilinear samples of maps, also with gradients that have the same bits in every run.

Letters: B images, C channels, N x P points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_bilinear(maps: Tensor, grid: Tensor) -> Tensor:
    """What `grid_sample` computes with zeros around the maps and corners that are not aligned.

    On a GPU its gradient is summed in an order that nobody fixes, so under `torch.use_deterministic_algorithms` other
    operations compute what has gradients.

    Args:
        maps: (B, C, h, w).
        grid: (B, N, P, 2) as (x, y), -1..1 over the map.

    Returns:
        (B, C, N, P).
    """
    if torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled():
        return _gathered(maps, grid)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gathered(maps: Tensor, grid: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    x, y = ((grid + 1) * grid.new_tensor([width, height]) / 2 - 0.5).unbind(-1)
    left, top = x.detach().floor(), y.detach().floor()
    across, along = x - left, y - top
    pixels = maps.flatten(2)
    samples = pixels.new_zeros(())
    for column, share in ((left, 1 - across), (left + 1, across)):
        for row, part in ((top, 1 - along), (top + 1, along)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = torch.where(inside, row * width + column, 0).long().flatten(1)
            corner = pixels.gather(2, place[:, None].expand(-1, pixels.shape[1], -1)).unflatten(2, x.shape[1:])
            samples = samples + corner * torch.where(inside, share * part, 0)[:, None]
    return samples
