"""Multi-scale deformable attention in plain PyTorch: what every other implementation is tested against."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtaclip.ops.sampling import sample_bilinear


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """The fused entry; arguments and result are those of `mtaclip.ops.ms_deform_attn`.

    Coordinates and the softmax are computed in float32 (float64 for float64 input) whatever the data type of `value`
    and of autocast.
    """
    locations, weights = locations_and_weights(
        value, spatial_shapes, reference_points, sampling_offsets, attention_logits
    )
    return ms_deform_attn_classic_reference(value, spatial_shapes, locations, weights)


def ms_deform_attn_classic_reference(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Level by level with bilinear samples, so that one level's samples are alive at a time.

    Arguments and result are those of `mtaclip.ops.ms_deform_attn_classic`; sums are in float32 or float64.
    """
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    with torch.autocast(value.device.type, enabled=False):
        precise = precise_type(value)
        weights = attention_weights.to(precise).permute(0, 2, 1, 3, 4).flatten(0, 1)
        output = value.new_zeros((batch * heads, channels, queries), dtype=precise)
        maps = value.to(precise).split([h * w for h, w in spatial_shapes], dim=1)
        for level, (height, width) in enumerate(spatial_shapes):
            pixels = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
            grid = (2 * sampling_locations[:, :, :, level].to(precise) - 1).transpose(1, 2).flatten(0, 1)
            samples = sample_bilinear(pixels, grid)
            output = output + (samples * weights[:, None, :, level]).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


def locations_and_weights(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> tuple[Tensor, Tensor]:
    """What the classic entry takes, from what the fused one takes: (B, N, M, L, P, 2) in 0..1 and (B, N, M, L, P)."""
    precise = precise_type(value)
    with torch.autocast(value.device.type, enabled=False):
        centres = reference_points.to(precise)[None, :, None, None, None]
        sizes = centres.new_tensor([(w, h) for h, w in spatial_shapes])[:, None]
        locations = centres + sampling_offsets.to(precise) / sizes
        weights = attention_logits.to(precise).softmax(-1).view(sampling_offsets.shape[:-1])
    return locations, weights


def precise_type(value: Tensor) -> torch.dtype:
    """The data type of coordinates, weights and sums: float64 for float64 values, else float32."""
    return torch.promote_types(value.dtype, torch.float32)
