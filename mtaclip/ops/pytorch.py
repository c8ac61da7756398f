"""Multi-scale deformable attention in plain PyTorch, as an `embedding_bag`; chosen only by MTACLIP_OPS=pytorch.

Each output row is a weighted sum of 4 * L * P rows of pixels, which is what `embedding_bag` computes without storing
the rows. Letters are those of `mtaclip.ops.ms_deform_attn`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip.ops.reference import locations_and_weights, precise_type


def ms_deform_attn_pytorch(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """The fused entry; arguments and result are those of `mtaclip.ops.ms_deform_attn`."""
    locations, weights = locations_and_weights(
        value, spatial_shapes, reference_points, sampling_offsets, attention_logits
    )
    return ms_deform_attn_classic_pytorch(value, spatial_shapes, locations, weights)


def ms_deform_attn_classic_pytorch(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The classic entry; arguments and result are those of `mtaclip.ops.ms_deform_attn_classic`."""
    batch, pixels, heads, channels = value.shape
    queries, levels, points = sampling_locations.shape[1], sampling_locations.shape[3], sampling_locations.shape[4]
    with torch.autocast(value.device.type, enabled=False):
        precise = precise_type(value)
        rows, shares = _corners(spatial_shapes, sampling_locations.to(precise), attention_weights.to(precise))
        first = torch.arange(batch, device=value.device)[:, None, None] * pixels
        rows = (rows + first[..., None, None, None]) * heads
        rows = rows + torch.arange(heads, device=value.device)[:, None, None, None]
        output = F.embedding_bag(
            rows.reshape(batch * queries * heads, levels * points * 4),
            value.to(precise).reshape(batch * pixels * heads, channels),
            mode="sum",
            per_sample_weights=shares.reshape(batch * queries * heads, levels * points * 4),
        )
    return output.view(batch, queries, heads * channels).to(value.dtype)


def _corners(spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels around each point, within one image.

    Args:
        spatial_shapes: (height, width) of each level.
        locations: (B, N, M, L, P, 2) in 0..1.
        weights: (B, N, M, L, P).

    Returns:
        Two tensors (B, N, M, L, P, 4): the pixels' rows, and their shares, zero outside the level.
    """
    precise = locations.dtype
    widths = torch.tensor([w for _, w in spatial_shapes], device=locations.device)[:, None]
    heights = torch.tensor([h for h, _ in spatial_shapes], device=locations.device)[:, None]
    starts = [sum(h * w for h, w in spatial_shapes[:level]) for level in range(len(spatial_shapes))]
    start = torch.tensor(starts, device=locations.device)[:, None]
    left, across = _cell(locations[..., 0], widths.to(precise))
    top, along = _cell(locations[..., 1], heights.to(precise))
    rows, shares = [], []
    for y, share_y in ((top, 1 - along), (top + 1, along)):
        row = start + y.clamp(min=0).minimum(heights - 1) * widths
        share_y = torch.where((y >= 0) & (y < heights), share_y * weights, 0.0)
        for x, share_x in ((left, 1 - across), (left + 1, across)):
            rows.append(row + x.clamp(min=0).minimum(widths - 1))
            shares.append(torch.where((x >= 0) & (x < widths), share_x * share_y, 0.0))
    return torch.stack(rows, dim=-1), torch.stack(shares, dim=-1)


def _cell(locations: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: the pixel at or before each location, and how far behind that pixel's centre it is, 0..1.

    Locations far away, infinite or NaN are moved to just outside, where shares and gradients are zero.
    """
    position = (locations * sizes - 0.5).nan_to_num(nan=-2.0).clamp(min=-2.0).minimum(sizes + 1)
    before = position.detach().floor()
    return before.long(), position - before
