"""The Python face of multi-scale deformable attention (Deformable DETR), and the choice of what computes it.

Letters: B images, L levels, S = sum of the levels' pixels, N queries, M heads, D channels per head, P points.

Four implementations have the same results: "compiled" (mtaclip/ops/csrc, for CPUs and NVIDIA's GPUs), "triton" (GPUs
without the compiled one), "pytorch" (everywhere) and "reference" (the plainest, for tests). The environment variable
MTACLIP_OPS names one to use whatever the tensors are.
"""

import functools
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtaclip.ops import library
from mtaclip.ops.pytorch import ms_deform_attn_classic_pytorch, ms_deform_attn_pytorch
from mtaclip.ops.reference import ms_deform_attn_classic_reference, ms_deform_attn_reference, precise_type

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Sample every level around each query's reference point and sum the samples with softmaxed weights.

    Coordinates, softmax and sums are float32 (float64 for float64 values) whatever the data type of `value`; under
    autocast, float32 values are taken in autocast's type.

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
        ValueError: a shape, data type or device does not fit the others; the message names the argument.
    """
    _check_value("ms_deform_attn", value, spatial_shapes, "sampling_offsets", sampling_offsets)
    queries, levels, points = sampling_offsets.shape[1], sampling_offsets.shape[3], sampling_offsets.shape[4]
    heads = value.shape[2]
    expected = {
        "reference_points": (reference_points, (queries, 2)),
        "sampling_offsets": (sampling_offsets, (value.shape[0], queries, heads, len(spatial_shapes), points, 2)),
        "attention_logits": (attention_logits, (value.shape[0], queries, heads, levels * points)),
    }
    _check("ms_deform_attn", value, expected)
    value = _autocast(value)
    chosen = _chosen(value)
    if chosen == "reference":
        return ms_deform_attn_reference(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    if chosen == "pytorch":
        return ms_deform_attn_pytorch(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    offsets, logits = _as_kernels_take_them(value, sampling_offsets, attention_logits)
    sizes = [size for shape in spatial_shapes for size in shape]
    return torch.ops.mtaclip.ms_deform_attn(value, reference_points.to(precise_type(value)), offsets, logits, sizes)


def ms_deform_attn_classic(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    level_start_index: Sequence[int] | None = None,
) -> Tensor:
    """Deformable DETR's form: finished locations and weights.

    Args:
        value: (B, S, M, D) the levels' pixels, row by row, levels one after another.
        spatial_shapes: (height, width) of each of the L levels.
        sampling_locations: (B, N, M, L, P, 2) as (x, y), 0..1 over the image; keep them float32.
        attention_weights: (B, N, M, L, P).
        level_start_index: number of each level's first pixel. Levels follow one another, so it says nothing new; what
            callers of Deformable DETR's operator have is checked.

    Returns:
        (B, N, M * D), in the data type of `value`; precision and borders are those of `ms_deform_attn`.

    Raises:
        ValueError: a shape, data type or device does not fit the others; the message names the argument.
    """
    _check_value("ms_deform_attn_classic", value, spatial_shapes, "sampling_locations", sampling_locations)
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    shape = (value.shape[0], queries, value.shape[2], len(spatial_shapes), points)
    expected = {
        "sampling_locations": (sampling_locations, (*shape, 2)),
        "attention_weights": (attention_weights, shape),
    }
    _check("ms_deform_attn_classic", value, expected)
    starts = [sum(h * w for h, w in spatial_shapes[:level]) for level in range(len(spatial_shapes))]
    if level_start_index is not None and list(level_start_index) != starts:
        raise ValueError(
            f"ms_deform_attn_classic: level_start_index must be {starts}, one level behind the other, "
            f"got {list(level_start_index)}."
        )
    value = _autocast(value)
    chosen = _chosen(value)
    if chosen == "reference":
        return ms_deform_attn_classic_reference(value, spatial_shapes, sampling_locations, attention_weights)
    if chosen == "pytorch":
        return ms_deform_attn_classic_pytorch(value, spatial_shapes, sampling_locations, attention_weights)
    precise = precise_type(value)
    sizes = [size for shape in spatial_shapes for size in shape]
    return torch.ops.mtaclip.ms_deform_attn_classic(
        value, sampling_locations.to(precise), attention_weights.to(precise), sizes
    )


def implementation(value: Tensor) -> str:
    """What computes with tensors like `value`: one of `library.IMPLEMENTATIONS`.

    Raises:
        RuntimeError: MTACLIP_OPS asks for an implementation that cannot be used.
    """
    problems = {"compiled": library.compiled_problem(value), "triton": library.triton_problem(value)}
    if library.FORCED:
        if problems.get(library.FORCED):
            raise RuntimeError(f"MTACLIP_OPS={library.FORCED} cannot be followed: {problems[library.FORCED]}")
        return library.FORCED
    chosen = next((name for name, problem in problems.items() if not problem), "pytorch")
    if chosen != "compiled" and not torch.compiler.is_compiling():
        _say_once(problems["compiled"], {"triton": "Triton", "pytorch": "plain PyTorch"}[chosen])
    return chosen


def _chosen(value: Tensor) -> str:
    """The `implementation`; while torch.export traces, "operator", so that a graph is the same on every machine."""
    return "operator" if torch.compiler.is_exporting() else implementation(value)


@functools.cache
def _say_once(problem: str, instead: str) -> None:
    logging.getLogger(__name__).warning("%s Deformable attention runs in %s.", problem, instead)


def _as_kernels_take_them(value: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they are if they have the 16-bit type of a value on a GPU, whose kernels convert; else both precise."""
    if value.device.type == "cuda" and offsets.dtype == logits.dtype == value.dtype:
        return offsets, logits
    precise = precise_type(value)
    return offsets.to(precise), logits.to(precise)


def _autocast(value: Tensor) -> Tensor:
    device = value.device.type
    if value.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return value.to(torch.get_autocast_dtype(device))
    return value


def _check_value(
    entry: str, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], name: str, positions: Tensor
) -> None:
    if value.dim() != 4 or positions.dim() != 6:
        raise ValueError(
            f"{entry}: value must be (B, S, M, D) and {name} (B, N, M, L, P, 2), "
            f"got {tuple(value.shape)} and {tuple(positions.shape)}."
        )
    if value.dtype not in TYPES:
        raise ValueError(f"{entry}: value must be float32, float64, bfloat16 or float16, got {value.dtype}.")
    if not all(_is_size_pair(shape) for shape in spatial_shapes):
        raise ValueError(
            f"{entry}: spatial_shapes must be pairs (height, width) of positive whole numbers, got {spatial_shapes}."
        )
    pixels = value.shape[1]
    if sum(h * w for h, w in spatial_shapes) != pixels:
        raise ValueError(f"{entry}: value has {pixels} pixels, spatial_shapes {list(spatial_shapes)} do not.")


def _is_size_pair(shape: object) -> bool:
    sizes = shape if isinstance(shape, (tuple, list)) else ()
    return len(sizes) == 2 and all(isinstance(size, (int, torch.SymInt)) and size > 0 for size in sizes)


def _check(entry: str, value: Tensor, expected: Mapping[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{entry}: {name} must have shape {shape}, got {tuple(tensor.shape)}.")
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{entry}: {name} must have a floating-point data type, got {tensor.dtype}.")
        if tensor.device != value.device:
            raise ValueError(f"{entry}: {name} must be on the device of value, {value.device}, got {tensor.device}.")
