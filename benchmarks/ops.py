"""Multi-scale deformable attention: ours against what others run, in one process, taking turns.

    python benchmarks/ops.py --output benchmarks/results/ops_cpu.json
    python benchmarks/ops.py --device cuda --output benchmarks/results/ops_cuda.json

Every figure is the median of runs that alternate with the baseline's, and every ratio the median of the pairs' ratios:
on a machine that others use too the ratios hold better than the milliseconds. "classic" starts from finished locations
and weights, "fused" from what the projections give, offsets and logits, with softmax and location arithmetic on both
sides. Peak memory is what one call needs beyond its arguments, in a process that does not measure time.

On a GPU a run is the replay of a CUDA graph (plain PyTorch's, which copies sizes from the host, is a call), and nothing
of it is in the GPU's cache before. Deformable DETR's CUDA kernel takes part where MultiScaleDeformableAttention, the
module that Mask2Former's make.sh builds, is installed.
"""

import argparse
import functools
import importlib.util
import json
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import TYPES, machine, memory_is_countable, peak_mb, write_report
from torch import Tensor

from mtaclip.ops import ms_deform_attn, ms_deform_attn_classic
from mtaclip.ops.pytorch import ms_deform_attn_classic_pytorch, ms_deform_attn_pytorch

HEADS, CHANNELS, POINTS = 8, 32, 4
SHAPES = {
    5376: [(16, 16), (32, 32), (64, 64)],  # strides 32, 16 and 8 of 512 x 512
    10752: [(16, 32), (32, 64), (64, 128)],  # 512 x 1024
    43008: [(32, 64), (64, 128), (128, 256)],  # 1024 x 2048
}
# Offsets as after initialisation, 1 .. P pixels along the head's direction, plus noise of this many pixels.
NOISE = 1.5
BASELINE, PLAIN = "grid_sample", "ours, plain PyTorch"
IMAGES_PER_LAUNCH = 128  # of Deformable DETR's kernel, as Mask2Former sets it


def fused_arguments(tokens: int, batch: int, dtype: torch.dtype, device: str) -> list[Any]:
    """Value, shapes, reference points, offsets and logits; every pixel is a query."""
    torch.manual_seed(0)
    shapes = SHAPES[tokens]
    centres = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1) for h, w in shapes
    ]
    angle = torch.arange(HEADS) * (2 * torch.pi / HEADS)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    rays = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
    offsets = rays + NOISE * torch.randn(batch, tokens, HEADS, len(shapes), POINTS, 2)
    value = torch.randn(batch, tokens, HEADS, CHANNELS).to(dtype)
    logits = torch.randn(batch, tokens, HEADS, len(shapes) * POINTS)
    return [value.to(device), shapes, *(tensor.to(device) for tensor in (torch.cat(centres), offsets, logits))]


def arguments_of(entry: str, tokens: int, batch: int, dtype: torch.dtype, device: str) -> list[Any]:
    fused = fused_arguments(tokens, batch, dtype, device)
    return fused if entry == "fused" else [*fused[:2], *finished(*fused)]


# --- implementations -------------------------------------------------------------------------------------------------


@functools.cache
def on_device(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes of the levels and where each begins, as (height, width) and rows, on the device once and for all."""
    sizes = torch.tensor(shapes, device=device)
    return sizes, torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])


def finished(
    value: Tensor, shapes: list[tuple[int, int]], reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Locations and weights from what the projections give, as the Mask2Former family computes them."""
    sizes, _ = on_device(tuple(shapes), value.device)
    locations = reference_points[:, None, None, None] + offsets / sizes.flip(-1)[:, None]
    return locations, logits.softmax(-1).view(offsets.shape[:-1])


def stacked_grid_sample(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """What users of the Mask2Former family run where their CUDA operator is not: float32, all levels' samples kept."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    levels = value.float().transpose(1, 2).flatten(0, 1).split([h * w for h, w in shapes], dim=1)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)
    samples = [
        F.grid_sample(level.mT.reshape(-1, channels, h, w), grid, align_corners=False)
        for level, grid, (h, w) in zip(levels, grids, shapes, strict=True)
    ]
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    sums = (torch.stack(samples, dim=-2).flatten(-2) * shares).sum(-1)
    return sums.view(batch, heads * channels, queries).mT.contiguous().to(value.dtype)


def stacked_fused(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return stacked_grid_sample(value, shapes, *finished(value, shapes, *tensors))


def unfused(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return ms_deform_attn_classic(value, shapes, *finished(value, shapes, *tensors))


def hugging_face(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    return multi_scale_deformable_attention(value.float(), shapes, locations, weights).to(value.dtype)


class _DeformableDetr(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        from MultiScaleDeformableAttention import ms_deform_attn_forward

        ctx.save_for_backward(*arguments)
        return ms_deform_attn_forward(*arguments, IMAGES_PER_LAUNCH)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from MultiScaleDeformableAttention import ms_deform_attn_backward

        value, locations, weights = ms_deform_attn_backward(*ctx.saved_tensors, grad.contiguous(), IMAGES_PER_LAUNCH)
        return value, None, None, locations, weights


def deformable_detr(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The CUDA kernel of Deformable DETR as Mask2Former builds and calls it, in float32."""
    sizes = on_device(tuple(shapes), value.device)
    return _DeformableDetr.apply(value.float(), *sizes, locations, weights).to(value.dtype)


def deformable_detr_fused(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return deformable_detr(value, shapes, *finished(value, shapes, *tensors))


def implementations(entry: str, device: str) -> dict[str, Callable[..., Tensor]]:
    """By name; the baseline first. Those of other packages are there if the packages are."""
    original = device == "cuda" and importlib.util.find_spec("MultiScaleDeformableAttention")
    if entry == "fused":
        result = {
            BASELINE: stacked_fused,
            "ours": ms_deform_attn,
            "ours, unfused": unfused,
            PLAIN: ms_deform_attn_pytorch,
        }
        return {**result, "Deformable DETR": deformable_detr_fused} if original else result
    result = {
        BASELINE: stacked_grid_sample,
        "ours": ms_deform_attn_classic,
        PLAIN: ms_deform_attn_classic_pytorch,
    }
    if importlib.util.find_spec("transformers"):
        result["transformers"] = hugging_face
    return {**result, "Deformable DETR": deformable_detr} if original else result


# --- measuring -------------------------------------------------------------------------------------------------------


def forward(function: Callable[..., Tensor], arguments: list[Any]) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            function(*arguments)

    return run


def forward_backward(function: Callable[..., Tensor], arguments: list[Any]) -> Callable[[], None]:
    """Gradients of everything but the reference points, which no network learns here."""
    inputs = [a.detach().requires_grad_() if torch.is_tensor(a) and a.dim() > 2 else a for a in arguments]
    learned = [a for a in inputs if torch.is_tensor(a) and a.requires_grad]
    value, queries = arguments[0], arguments[-1].shape[1]
    gradient = torch.randn(value.shape[0], queries, HEADS * CHANNELS, device=value.device).to(value.dtype)
    return lambda: torch.autograd.grad(function(*inputs), learned, gradient) and None


RUNS = {"forward": forward, "forward_backward": forward_backward}


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """The same as a CUDA graph, so that the time is the GPU's and not that of the calls in Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.run = run  # whose tensors it reads, and does not own
    return graph.replay


def seconds(run: Callable[[], None], device: str, flush: Tensor | None) -> float:
    if flush is None:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    flush.zero_()  # nothing of the run before is left in the GPU's cache
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def compare(runs: dict[str, Callable[[], None]], device: str, pairs: int) -> dict[str, dict[str, float]]:
    """Times of all, in turn, and their speed relative to the baseline's."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device) if device == "cuda" else None
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(pairs):
        for name, run in runs.items():
            times[name].append(seconds(run, device, flush))
    return {
        name: {
            "ms": round(statistics.median(taken) * 1e3, 3),
            "least_ms": round(min(taken) * 1e3, 3),
            "times_faster": round(statistics.median(b / t for b, t in zip(times[BASELINE], taken, strict=True)), 2),
        }
        for name, taken in times.items()
    }


def peaks_mb(entry: str, kind: str, tokens: int, batch: int, dtype: torch.dtype, device: str) -> dict[str, float]:
    """Most memory that one call of each holds beyond its arguments, in MB."""
    arguments = arguments_of(entry, tokens, batch, dtype, device)
    result = {}
    for name, function in implementations(entry, device).items():
        run = RUNS[kind](function, arguments)
        run()  # what is made once is not counted
        result[name] = peak_mb(run, device)
    return result


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """On a CPU several images only at the smallest size, where the baseline ends within seconds."""
    result = []
    for tokens in args.tokens:
        for batch in args.batch:
            if args.device == "cpu" and batch > 1 and tokens > min(SHAPES):
                continue
            for dtype in args.types:
                result += [
                    {"tokens": tokens, "batch": batch, "type": dtype, "entry": entry, "run": run}
                    for entry in ("classic", "fused")
                    for run in RUNS
                ]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--types", nargs="+", choices=sorted(TYPES), help="of the value", default=None)
    parser.add_argument("--pairs", type=int, default=9, help="runs of each implementation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    args.types = args.types or ["float32", "bfloat16"] + (["float16"] if args.device == "cuda" else [])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(args.threads)
    countable = memory_is_countable(args.device)
    spawn = multiprocessing.get_context("spawn")
    measurer = ProcessPoolExecutor(1, spawn) if countable and not args.no_memory else None
    results = []
    for case in cases(args):
        place = (case["tokens"], case["batch"], TYPES[case["type"]], args.device)
        arguments = arguments_of(case["entry"], *place)
        functions = implementations(case["entry"], args.device)
        runs = {name: RUNS[case["run"]](function, arguments) for name, function in functions.items()}
        if args.device == "cuda":
            runs = {name: run if name == PLAIN else captured(run) for name, run in runs.items()}
        measured = compare(runs, args.device, args.pairs)
        if measurer is not None:
            for name, peak in measurer.submit(peaks_mb, case["entry"], case["run"], *place).result().items():
                measured[name]["peak_mb"] = peak
        results.append({**case, "implementations": measured})
        logging.info(json.dumps(results[-1]))
    if args.output:
        setting = {"heads": HEADS, "channels": CHANNELS, "levels": 3, "points": POINTS, "noise_pixels": NOISE}
        report = {"machine": machine(args.device), "setting": setting, "pairs": args.pairs, "results": results}
        write_report(args.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
