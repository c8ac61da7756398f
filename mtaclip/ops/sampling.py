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
    if torch.are_deterministic_algorithms_enabled() and (maps.requires_grad or grid.requires_grad):
        return _gathered(maps, grid)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gathered(maps: Tensor, grid: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    x, y = ((grid + 1) * grid.new_tensor([width, height]) / 2 - 0.5).unbind(-1)
    left, top = x.detach().floor(), y.detach().floor()
    across, along = x - left, y - top
    pixels = maps.flatten(2)
    samples = (0 * (x + y))[:, None]  # not a number where a coordinate is none
    for column, share in ((left, 1 - across), (left + 1, across)):
        for row, part in ((top, 1 - along), (top + 1, along)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = torch.where(inside, row, 0).long() * width + torch.where(inside, column, 0).long()
            corner = pixels.gather(2, place.flatten(1)[:, None].expand(-1, pixels.shape[1], -1))
            corner = torch.where(inside[:, None], corner.unflatten(2, x.shape[1:]), 0)
            samples = samples + corner * (share * part)[:, None]
    return samples
