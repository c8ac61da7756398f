"""Multi-scale deformable attention in Triton, for GPUs on machines without a CUDA compiler.

A program takes a block of queries of a few heads, one row of the block per (query, head), and walks through the rows'
points. A row's arithmetic is done once for all its channels, softmax and offsets included; pixels are read in wide
pieces. The backward kernel reads the four pixels around a point again and multiplies each with the arriving gradient:
the gradients of the weight and of both coordinates are linear in these four products.

Letters are those of `mtaclip.ops.ms_deform_attn`. The fused form has reference points, offsets in pixels and logits;
the classic form has no reference points, locations in 0..1 and finished weights.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtaclip.ops.reference import precise_type

if not hasattr(tl, "tuple"):
    raise ImportError(f"The Triton kernels of deformable attention need Triton 3.3 or newer, got {triton.__version__}.")

WARPS = 4
THREADS = 32 * WARPS
# Else every new image size could compile a kernel anew. For the same reason `shapes` are floats: Triton distinguishes
# integers in a tuple by what divides them.
SIZES = ["pixels", "queries"]
# Four points give a thread enough loads to wait for; many more in one piece make the compiler run out of registers.
UNROLL = tl.constexpr(4)


def forward(
    value: Tensor, reference_points: Tensor | None, positions: Tensor, weights: Tensor, shapes: Sequence[int]
) -> Tensor:
    """The attention.

    Args:
        value: (B, S, M, D), float16, bfloat16, float32 or float64.
        reference_points: (N, 2) as (x, y) in 0..1 for the fused form, None for the classic.
        positions: (B, N, M, L, P, 2), offsets or locations.
        weights: (B, N, M, L * P) logits or (B, N, M, L, P) finished weights.
        shapes: height and width of each level, in one list.

    Returns:
        (B, N, M * D), in the data type of `value`.
    """
    tensors = _contiguous(value, reference_points, positions, weights)
    batch, pixels, heads, channels = value.shape
    queries = positions.shape[1]
    output = value.new_empty((batch, queries, heads * channels))
    grid, sizes = _layout(value, positions, 16 // value.element_size())
    if output.numel():
        with torch.cuda.device_of(value):
            _forward_kernel[grid](*tensors, output, pixels, queries, _floats(shapes), **sizes, num_warps=WARPS)
    return output


def backward(
    grad: Tensor,
    value: Tensor,
    reference_points: Tensor | None,
    positions: Tensor,
    weights: Tensor,
    shapes: Sequence[int],
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients.

    Args:
        grad: (B, N, M * D), the gradient of the output.
        value: This and the next four are the arguments of `forward`.
        reference_points: See there.
        positions: See there.
        weights: See there.
        shapes: See there.
        deterministic: Whether the gradient of `value` must have the same bits in every run: it is then summed in
            64-bit fixed point, where the order of the additions does not matter, and more slowly.

    Returns:
        Gradients of `value`, `positions` and `weights`, in their shapes and data types.
    """
    tensors = _contiguous(grad, value, reference_points, positions, weights)
    pixels, queries = value.shape[1], positions.shape[1]
    precise = precise_type(value)
    by_positions = positions.new_empty(positions.shape)
    by_weights = weights.new_empty(weights.shape)
    if not by_weights.numel() or not grad.numel():
        return torch.zeros_like(value), by_positions.zero_(), by_weights.zero_()
    by_value = value.new_zeros(value.shape, dtype=torch.int64 if deterministic else precise)
    bound, scale = _fixed_point(grad, reference_points, weights, precise) if deterministic else (None, None)
    grid, sizes = _layout(value, positions, 16 // precise.itemsize)
    with torch.cuda.device_of(value):
        _backward_kernel[grid](
            *tensors,
            by_value,
            by_positions,
            by_weights,
            scale,
            pixels,
            queries,
            _floats(shapes),
            WIDTH=triton.next_power_of_2(sizes["LEVELS"] * sizes["POINTS"]),
            **sizes,
            num_warps=WARPS,
        )
    if deterministic:
        by_value = by_value.to(precise) / scale + 0 * bound  # NaN everywhere if the bound is infinite or NaN
    return by_value.to(value.dtype), by_positions, by_weights


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _floats(shapes: Sequence[int]) -> tuple[float, ...]:
    return tuple(float(size) for size in shapes)


def _layout(value: Tensor, positions: Tensor, per_thread: int) -> tuple[tuple[int, int, int], dict]:
    """The grid of programs and the kernels' compile-time sizes, for `per_thread` neighbouring channels per thread.

    Rows of a block are queries of `GROUP` heads whose pixels lie side by side in a cache line of 128 bytes.
    """
    batch, _, heads, channels = value.shape
    queries, levels, points = positions.shape[1], positions.shape[3], positions.shape[4]
    columns = triton.next_power_of_2(channels)
    rows = min(max(THREADS * per_thread // columns, 1), THREADS // 2)
    group = 1
    while heads % (2 * group) == 0 and 2 * group * channels * value.element_size() <= 128 and 2 * group <= rows:
        group *= 2
    sizes = {
        "LEVELS": levels,
        "POINTS": points,
        "HEADS": heads,
        "CHANNELS": channels,
        "GROUP": group,
        "ROWS": rows,
        "COLUMNS": columns,
        "PRECISE": tl.float64 if value.dtype == torch.float64 else tl.float32,
    }
    return (triton.cdiv(queries, rows // group), heads // group, batch), sizes


def _fixed_point(
    grad: Tensor, reference_points: Tensor | None, weights: Tensor, precise: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A bound of what a point adds to a pixel, and the power of two by which sums of such just fit into 63 bits.

    Both are computed on the device. The bound is NaN or infinite if a gradient, weight or logit is, or their product.
    """
    bound = grad.abs().amax().to(precise)
    if reference_points is None:
        bound = bound * weights.abs().amax().to(precise)
    else:
        bound = bound + 0 * weights.amax().to(precise)  # softmaxed weights are at most one
    points = weights.shape[1] * math.prod(weights.shape[3:])
    limit = math.frexp(torch.finfo(precise).max)[1] - 2
    exponent = (62 - points.bit_length() - torch.frexp(bound).exponent).clamp(-limit, limit)
    return bound, exponent.to(precise).exp2()


@triton.jit
def _rows(queries, HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Of each row: number of the query, head and tuple (image, query, head), and whether there is such a query."""
    row = tl.arange(0, ROWS)
    query = tl.program_id(0) * (ROWS // GROUP) + row // GROUP
    head = tl.program_id(1) * GROUP + row % GROUP
    return query, head, (tl.program_id(2).to(tl.int64) * queries + query) * HEADS + head, query < queries


@triton.jit
def _peak_and_total(logits, first, live, SLOTS: tl.constexpr, FUSED: tl.constexpr, PRECISE: tl.constexpr):
    """What the softmax of each row needs, (ROWS,) twice: the greatest logit, and the sum of exponentials below it."""
    if FUSED:
        peak = tl.load(logits + first, mask=live, other=0.0).to(PRECISE)
        for slot in tl.static_range(1, SLOTS):
            peak = tl.maximum(peak, tl.load(logits + first + slot, mask=live, other=0.0).to(PRECISE))
        total = peak * 0
        for slot in tl.static_range(SLOTS):
            total += tl.exp(tl.load(logits + first + slot, mask=live, other=0.0).to(PRECISE) - peak)
        return peak, total
    else:
        return 0.0, 1.0


@triton.jit
def _weight(weights, index, live, peak, total, FUSED: tl.constexpr, PRECISE: tl.constexpr):
    """Each row's finished weight of one point."""
    weight = tl.load(weights + index, mask=live, other=0.0).to(PRECISE)
    if FUSED:
        weight = tl.exp(weight - peak) / total
    return weight


@triton.jit
def _centres(reference, query, live, PRECISE: tl.constexpr):
    """The reference point of each row, (ROWS,) twice; zeros in the classic form."""
    if reference is None:
        return 0.0, 0.0
    else:
        place = reference + query * 2
        x = tl.load(place, mask=live, other=0.0).to(PRECISE)
        return x, tl.load(place + 1, mask=live, other=0.0).to(PRECISE)


@triton.jit
def _cell(positions, index, live, centre_x, centre_y, height, width, FUSED: tl.constexpr, PRECISE: tl.constexpr):
    """The pixel left above each row's point, and how far right of and below its centre the point is, 0..1.

    Points far away, infinite or NaN, and rows without a query, get a pixel just outside: all four do not exist.
    """
    pair = index[:, None] * 2 + tl.arange(0, 2)[None, :]
    x, y = tl.split(tl.load(positions + pair, mask=live[:, None], other=float("-inf")).to(PRECISE))
    columns = width.to(PRECISE)
    rows = height.to(PRECISE)
    if FUSED:
        x = centre_x * columns - 0.5 + x
        y = centre_y * rows - 0.5 + y
    else:
        x = x * columns - 0.5
        y = y * rows - 0.5
    x = tl.minimum(tl.maximum(x, -2.0), columns + 1)  # the maximum of NaN and a number is the number
    y = tl.minimum(tl.maximum(y, -2.0), rows + 1)
    left = tl.floor(x)
    top = tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top


@triton.jit
def _corner(left, top, across, down, start, height, width, RIGHT: tl.constexpr, BELOW: tl.constexpr):
    """One of the four pixels: its shares in x and y, its number among the image's pixels, and whether it exists."""
    x = left + RIGHT
    y = top + BELOW
    # As unsigned numbers, negative ones are great, and one comparison does for two.
    exists = x.to(tl.uint32, bitcast=True) < width.to(tl.uint32, bitcast=True)
    exists = exists & (y.to(tl.uint32, bitcast=True) < height.to(tl.uint32, bitcast=True))
    share_x = across if RIGHT else 1 - across
    share_y = down if BELOW else 1 - down
    return share_x, share_y, (start + y * width + x).to(tl.int64), exists


@triton.jit(do_not_specialize=SIZES)
def _forward_kernel(
    value,
    reference,
    positions,
    weights,
    output,
    pixels,
    queries,
    shapes,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISE: tl.constexpr,
):
    FUSED: tl.constexpr = reference is not None
    query, head, sample, live = _rows(queries, HEADS, GROUP, ROWS)
    channel = tl.arange(0, COLUMNS)[None, :]
    inside = channel < CHANNELS
    first_pixel = tl.program_id(2).to(tl.int64) * pixels * (HEADS * CHANNELS) + (head * CHANNELS)[:, None] + channel
    first_point = sample * (LEVELS * POINTS)
    centre_x, centre_y = _centres(reference, query, live, PRECISE)
    peak, total = _peak_and_total(weights, first_point, live, LEVELS * POINTS, FUSED, PRECISE)
    result = tl.zeros((ROWS, COLUMNS), PRECISE)
    start = 0
    for level in tl.static_range(LEVELS):
        height = tl.full((), shapes[2 * level], tl.int32)
        width = tl.full((), shapes[2 * level + 1], tl.int32)
        for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            slot = level * POINTS + point
            weight = _weight(weights, first_point + slot, live, peak, total, FUSED, PRECISE)
            left, top, across, down = _cell(
                positions, first_point + slot, live, centre_x, centre_y, height, width, FUSED, PRECISE
            )
            for corner in tl.static_range(4):
                share_x, share_y, pixel, exists = _corner(
                    left, top, across, down, start, height, width, corner % 2, corner // 2
                )
                place = value + first_pixel + (pixel * (HEADS * CHANNELS))[:, None]
                row = tl.load(place, mask=exists[:, None] & inside, other=0.0).to(PRECISE)
                result += (share_x * share_y * weight)[:, None] * row
        start += height * width
    place = output + sample[:, None] * CHANNELS + channel
    tl.store(place, result.to(output.dtype.element_ty), mask=live[:, None] & inside)


@triton.jit(do_not_specialize=SIZES)
def _backward_kernel(
    grad,
    value,
    reference,
    positions,
    weights,
    by_value,
    by_positions,
    by_weights,
    scale,
    pixels,
    queries,
    shapes,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISE: tl.constexpr,
):
    FUSED: tl.constexpr = reference is not None
    SLOTS: tl.constexpr = LEVELS * POINTS
    query, head, sample, live = _rows(queries, HEADS, GROUP, ROWS)
    channel = tl.arange(0, COLUMNS)[None, :]
    inside = channel < CHANNELS
    first_pixel = tl.program_id(2).to(tl.int64) * pixels * (HEADS * CHANNELS) + (head * CHANNELS)[:, None] + channel
    first_point = sample * SLOTS
    arriving = tl.load(grad + sample[:, None] * CHANNELS + channel, mask=live[:, None] & inside, other=0.0).to(PRECISE)
    centre_x, centre_y = _centres(reference, query, live, PRECISE)
    peak, total = _peak_and_total(weights, first_point, live, SLOTS, FUSED, PRECISE)
    # Gradients of the points are collected in blocks, so that they are stored in wide pieces at the end.
    slots = tl.arange(0, WIDTH)[None, :]
    axes = tl.arange(0, 2 * WIDTH)[None, :]
    weight_grads = tl.zeros((ROWS, WIDTH), PRECISE)
    position_grads = tl.zeros((ROWS, 2 * WIDTH), PRECISE)
    start = 0
    for level in tl.static_range(LEVELS):
        height = tl.full((), shapes[2 * level], tl.int32)
        width = tl.full((), shapes[2 * level + 1], tl.int32)
        for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            slot = level * POINTS + point
            weight = _weight(weights, first_point + slot, live, peak, total, FUSED, PRECISE)
            left, top, across, down = _cell(
                positions, first_point + slot, live, centre_x, centre_y, height, width, FUSED, PRECISE
            )
            by_weight = across * 0
            by_x = across * 0
            by_y = across * 0
            for corner in tl.static_range(4):
                share_x, share_y, pixel, exists = _corner(
                    left, top, across, down, start, height, width, corner % 2, corner // 2
                )
                place = first_pixel + (pixel * (HEADS * CHANNELS))[:, None]
                mask = exists[:, None] & inside
                product = tl.sum(arriving * tl.load(value + place, mask=mask, other=0.0).to(PRECISE), 1)
                by_weight += share_x * share_y * product
                by_x += share_y * (product if corner % 2 else -product)
                by_y += share_x * (product if corner // 2 else -product)
                part = (share_x * share_y * weight)[:, None] * arriving
                if scale is not None:
                    part = tl.floor(part * tl.load(scale) + 0.5).to(tl.int64)
                tl.atomic_add(by_value + place, part, mask=mask, sem="relaxed")
            by_x *= weight
            by_y *= weight
            if not FUSED:
                by_x *= width
                by_y *= height
            weight_grads = tl.where(slots == slot, by_weight[:, None], weight_grads)
            position_grads = tl.where(axes == 2 * slot, by_x[:, None], position_grads)
            position_grads = tl.where(axes == 2 * slot + 1, by_y[:, None], position_grads)
        start += height * width
    mask = live[:, None] & (slots < SLOTS)
    place = first_point[:, None] + slots
    if FUSED:
        logits = tl.load(weights + place, mask=mask, other=float("-inf")).to(PRECISE)
        raised = tl.exp(logits - tl.max(logits, 1)[:, None])
        shares = raised / tl.sum(raised, 1)[:, None]
        weight_grads = shares * (weight_grads - tl.sum(shares * weight_grads, 1)[:, None])
    tl.store(by_weights + place, weight_grads.to(by_weights.dtype.element_ty), mask=mask)
    place = by_positions + first_point[:, None] * 2 + axes
    tl.store(place, position_grads.to(by_positions.dtype.element_ty), mask=live[:, None] & (axes < 2 * SLOTS))
