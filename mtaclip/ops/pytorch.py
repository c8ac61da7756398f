"""Multi-scale deformable attention in plain PyTorch, for machines without a compiled operator.

Where no gradient is asked for, each output row is a weighted sum of 4 * L * P rows of pixels, which is what
`embedding_bag` computes without storing the rows. Its gradients are slower than those of `grid_sample`, so with
gradients the reference computes. Letters are those of `mtaclip.ops.ms_deform_attn`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip.ops.reference import ms_deform_attn_classic_reference, ms_deform_attn_reference, precise_type

# Queries at a time: their points' rows and shares stay in the processor's caches.
CHUNK = 1024


def ms_deform_attn_pytorch(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """The fused entry; arguments and result are those of `mtaclip.ops.ms_deform_attn`."""
    if _needs_gradients(value, reference_points, sampling_offsets, attention_logits):
        return ms_deform_attn_reference(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    precise = precise_type(value)
    sizes = _sizes(spatial_shapes, value).to(precise)

    def points(image: int, queries: slice) -> tuple[Tensor, Tensor]:
        offsets = sampling_offsets[image, queries].to(precise)
        centres = reference_points[queries, None, None, None].to(precise) * sizes - 0.5
        weights = attention_logits[image, queries].to(precise).softmax(-1)
        return centres + offsets, weights.reshape(offsets.shape[:-1])

    return _weighted_sums(value, spatial_shapes, sampling_offsets.shape[1], points)


def ms_deform_attn_classic_pytorch(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The classic entry; arguments and result are those of `mtaclip.ops.ms_deform_attn_classic`."""
    if _needs_gradients(value, sampling_locations, attention_weights):
        return ms_deform_attn_classic_reference(value, spatial_shapes, sampling_locations, attention_weights)
    precise = precise_type(value)
    sizes = _sizes(spatial_shapes, value).to(precise)

    def points(image: int, queries: slice) -> tuple[Tensor, Tensor]:
        pixels = sampling_locations[image, queries].to(precise) * sizes - 0.5
        return pixels, attention_weights[image, queries].to(precise)

    return _weighted_sums(value, spatial_shapes, sampling_locations.shape[1], points)


def _needs_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _sizes(spatial_shapes: Sequence[tuple[int, int]], value: Tensor) -> Tensor:
    """(L, 1, 2) width and height of the levels."""
    return torch.tensor([(w, h) for h, w in spatial_shapes], dtype=torch.int32, device=value.device)[:, None]


def _weighted_sums(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    queries: int,
    points: Callable[[int, slice], tuple[Tensor, Tensor]],
) -> Tensor:
    """What both entries compute.

    Args:
        value: (B, S, M, D).
        spatial_shapes: (height, width) of each level.
        queries: N.
        points: of an image and some queries, the points in pixels (n, M, L, P, 2), where 0 is the centre of the
            level's first pixel, and their weights (n, M, L, P).

    Returns:
        (B, N, M * D) in the data type of `value`.
    """
    batch, _, heads, channels = value.shape
    output = value.new_empty((batch, queries, heads * channels))
    with torch.autocast(value.device.type, enabled=False):
        precise = precise_type(value)
        sizes = _sizes(spatial_shapes, value)
        # Zeros around each level, one pixel before it and two behind, take in every point that is moved to its edge.
        lines = sizes[..., 0] + 3
        counts = lines * (sizes[..., 1] + 3)
        first = counts.cumsum(0, dtype=torch.int32) - counts + lines + 1
        corners = torch.cat([lines * 0, lines * 0 + 1, lines, lines + 1], dim=-1)[:, None] * heads
        head = torch.arange(heads, dtype=torch.int32, device=value.device)[:, None, None]
        for image in range(batch):
            rows = _padded_rows(value[image].to(precise), spatial_shapes)
            for start in range(0, queries, CHUNK):
                chunk = slice(start, min(start + CHUNK, queries))
                pixels, weights = points(image, chunk)
                pixels = pixels.nan_to_num(nan=-1.0).clamp(min=-1.0).minimum(sizes.to(precise))
                cell = pixels.floor()
                across, along = (pixels - cell).unbind(-1)
                left, top = cell.int().unbind(-1)
                upper_left = ((first + top * lines + left) * heads + head)[..., None] + corners
                low = weights * along
                low_right, high = low * across, weights - low
                high_right = high * across
                shares = torch.stack([high - high_right, high_right, low - low_right, low_right], dim=-1)
                sums = F.embedding_bag(
                    upper_left.flatten(0, 1).flatten(1),
                    rows,
                    mode="sum",
                    per_sample_weights=shares.flatten(0, 1).flatten(1),
                )
                output[image, chunk] = sums.view(-1, heads * channels).to(value.dtype)
    return output


def _padded_rows(value: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """The pixels (S, M, D) of one image with zeros around each level, as rows (pixels and zeros, M) of D."""
    levels = value.flatten(1).split([h * w for h, w in spatial_shapes])
    padded = [
        F.pad(level.view(h, w, -1), (0, 0, 1, 2, 1, 2)).flatten(0, 1)
        for level, (h, w) in zip(levels, spatial_shapes, strict=True)
    ]
    return torch.cat(padded).view(-1, value.shape[-1])
