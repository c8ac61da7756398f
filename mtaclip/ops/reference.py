"""Multi-scale deformable attention in plain PyTorch: what every other implementation is tested against."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Level by level with `grid_sample`, so that one level's samples are alive at a time.

    Arguments and result are those of `mtaclip.ops.ms_deform_attn`. Coordinates and the softmax are computed in
    float32 (float64 for float64 input) whatever the data type of `value` and of autocast.
    """
    batch, _, heads, channels = value.shape
    queries, levels, points = sampling_offsets.shape[1], sampling_offsets.shape[3], sampling_offsets.shape[4]
    with torch.autocast(value.device.type, enabled=False):
        precise = torch.promote_types(value.dtype, torch.float32)
        weights = attention_logits.to(precise).softmax(-1)
        weights = weights.view(batch, queries, heads, levels, points).permute(0, 2, 1, 3, 4).flatten(0, 1)
        centres = reference_points.to(precise)[None, :, None, None]
        output = value.new_zeros((batch * heads, channels, queries), dtype=precise)
        maps = value.to(precise).split([h * w for h, w in spatial_shapes], dim=1)
        for level, (height, width) in enumerate(spatial_shapes):
            pixels = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
            size = centres.new_tensor((width, height))
            locations = centres + sampling_offsets[:, :, :, level].to(precise) / size
            grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
            samples = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            output = output + (samples * weights[:, None, :, level]).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)
