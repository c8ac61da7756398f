"""Multi-scale deformable attention as a layer (Deformable DETR, section 4.1), with its four projections."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip.ops.ms_deform_attn import ms_deform_attn


class MSDeformAttn(nn.Module):
    """Attention of every query to a few sampled pixels on every level.

    The parameters have the names of Deformable DETR's module of this name. Under autocast the values are in half
    precision and the offsets, which are coordinates, in float32.

    Args:
        dim: width d.
        heads: number M of heads.
        levels: number L of levels.
        points: number P of points per head and level.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"MSDeformAttn: dim {dim} must be a multiple of heads {heads}.")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from uniform weights over points on a ray per head, 1 .. P pixels from the centre."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        rays = (direction[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(rays.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, pixels: Tensor, reference_points: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, N, d).
            pixels: (B, S, d) of all levels, row by row, one level after another.
            reference_points: (N, 2) as (x, y) in 0..1, the same for all levels and images.
            spatial_shapes: (height, width) of each level.

        Returns:
            (B, N, d).

        Raises:
            ValueError: sizes do not fit, as `ms_deform_attn` says.
        """
        sampled = ms_deform_attn(
            self.value_proj(pixels).unflatten(-1, (self.heads, -1)),
            spatial_shapes,
            reference_points,
            self._offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2)),
            self.attention_weights(query).unflatten(-1, (self.heads, -1)),
        )
        return self.output_proj(sampled)

    def _offsets(self, query: Tensor) -> Tensor:
        precise = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            weight, bias = self.sampling_offsets.weight, self.sampling_offsets.bias
            return F.linear(query.to(precise), weight.to(precise), bias.to(precise))
