"""The Python face of multi-scale deformable attention (Deformable DETR).

Letters: B images, L levels, S = sum of the levels' pixels, N queries, M heads, D channels per head, P points.
"""

from collections.abc import Sequence

from torch import Tensor

from mtaclip.ops.reference import ms_deform_attn_reference


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Sample every level around each query's reference point and sum the samples with softmaxed weights.

    Args:
        value: (B, S, M, D) the levels' pixels, row by row, levels one after another.
        spatial_shapes: (height, width) of each of the L levels.
        reference_points: (N, 2) as (x, y), 0..1 over the image; the same point for every level and image.
        sampling_offsets: (B, N, M, L, P, 2) as (x, y) in pixels of the sampled level.
        attention_logits: (B, N, M, L * P); one softmax runs over all levels' points.

    Returns:
        (B, N, M * D), in the data type of `value`. Samples outside a level count as zero; coordinates are
        pixel centres (a location of 0.5 / width is the first pixel's).

    Raises:
        ValueError: a shape does not fit the others; the message names the argument.
    """
    _check_shapes(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    return ms_deform_attn_reference(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)


def _check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> None:
    if value.dim() != 4 or sampling_offsets.dim() != 6:
        raise ValueError(
            "ms_deform_attn: value must be (B, S, M, D) and sampling_offsets (B, N, M, L, P, 2), "
            f"got {tuple(value.shape)} and {tuple(sampling_offsets.shape)}."
        )
    batch, pixels, heads, _ = value.shape
    queries, levels, points = sampling_offsets.shape[1], sampling_offsets.shape[3], sampling_offsets.shape[4]
    if sum(h * w for h, w in spatial_shapes) != pixels:
        raise ValueError(f"ms_deform_attn: value has {pixels} pixels, spatial_shapes {list(spatial_shapes)} do not.")
    expected = {
        "reference_points": (reference_points, (queries, 2)),
        "sampling_offsets": (sampling_offsets, (batch, queries, heads, len(spatial_shapes), points, 2)),
        "attention_logits": (attention_logits, (batch, queries, heads, levels * points)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"ms_deform_attn: {name} must have shape {shape}, got {tuple(tensor.shape)}.")
