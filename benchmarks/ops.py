"""Deformable attention on the CPU: ours against `grid_sample`, in one process, taking turns.

    python benchmarks/ops.py --output benchmarks/results/ops_cpu.json

Every figure is the median of runs that alternate with the baseline's, and every ratio the median of the pairs' ratios:
on a machine that others use too the ratios hold better than the milliseconds.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtaclip.ops import library
from mtaclip.ops.pytorch import ms_deform_attn_classic_pytorch, ms_deform_attn_pytorch
from mtaclip.ops.reference import locations_and_weights, ms_deform_attn_classic_reference, ms_deform_attn_reference

HEADS, CHANNELS, POINTS = 8, 32, 4
SHAPES = {
    5376: [(16, 16), (32, 32), (64, 64)],
    10752: [(16, 32), (32, 64), (64, 128)],
    43008: [(32, 64), (64, 128), (128, 256)],
}
# Offsets as after initialisation: 1 .. P pixels along the head's direction, plus noise of this many pixels.
NOISE = 1.5


def fused_arguments(tokens: int) -> list[Any]:
    """Value, shapes, reference points, offsets and logits of one image whose every pixel is a query."""
    torch.manual_seed(0)
    shapes = SHAPES[tokens]
    centres = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1) for h, w in shapes
    ]
    angle = torch.arange(HEADS) * (2 * torch.pi / HEADS)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    rays = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
    offsets = rays + NOISE * torch.randn(1, tokens, HEADS, len(shapes), POINTS, 2)
    value, logits = torch.randn(1, tokens, HEADS, CHANNELS), torch.randn(1, tokens, HEADS, len(shapes) * POINTS)
    return [value, shapes, torch.cat(centres), offsets, logits]


def compiled_fused(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return torch.ops.mtaclip.ms_deform_attn(value, *tensors, [size for shape in shapes for size in shape])


def compiled_classic(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return torch.ops.mtaclip.ms_deform_attn_classic(value, *tensors, [size for shape in shapes for size in shape])


def compiled_unfused(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return compiled_classic(value, shapes, *locations_and_weights(value, shapes, *tensors))


CLASSIC = {
    "grid_sample": ms_deform_attn_classic_reference,
    "compiled": compiled_classic,
    "pytorch": ms_deform_attn_classic_pytorch,
}
FUSED = {
    "grid_sample": ms_deform_attn_reference,
    "compiled": compiled_fused,
    "pytorch": ms_deform_attn_pytorch,
    "compiled unfused": compiled_unfused,
}


def forward(function: Callable[..., Tensor], arguments: list[Any]) -> None:
    with torch.no_grad():
        function(*arguments)


def forward_backward(function: Callable[..., Tensor], arguments: list[Any]) -> None:
    inputs = [a.detach().requires_grad_() if torch.is_tensor(a) and a.dim() > 2 else a for a in arguments]
    output = function(*inputs)
    torch.autograd.grad(output, [a for a in inputs if torch.is_tensor(a) and a.requires_grad], torch.ones_like(output))


def seconds(run: Callable[..., None], function: Callable[..., Tensor], arguments: list[Any]) -> float:
    start = time.perf_counter()
    run(function, arguments)
    return time.perf_counter() - start


def compare(run: Callable[..., None], functions: dict[str, Any], arguments: list[Any], pairs: int) -> dict[str, Any]:
    """Times of all functions, in turn, and their speed relative to the first."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for name, function in functions.items():
        run(function, arguments)
        if name != "grid_sample":
            run(function, arguments)
    for _ in range(pairs):
        for name, function in functions.items():
            times[name].append(seconds(run, function, arguments))
    baseline = times["grid_sample"]
    return {
        name: {
            "ms": round(statistics.median(taken) * 1e3, 2),
            "times_faster": round(statistics.median(b / t for b, t in zip(baseline, taken, strict=True)), 2),
        }
        for name, taken in times.items()
    }


def peak_mb(name: str, kind: str, tokens: int) -> float:
    """Peak of a fresh process's memory over what it held before the call, in MB."""
    code = (
        "import resource, sys; sys.path[:0] = ['benchmarks', '.']; import ops\n"
        "from ops import *\n"
        f"value, shapes, *rest = ops.fused_arguments({tokens})\n"
        "arguments = [value, shapes, *locations_and_weights(value, shapes, *rest)]; del rest\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"ops.{kind}(ops.CLASSIC[{name!r}], arguments)\n"
        "sys.stdout.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))"
    )
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=root, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return round(float(result.stdout.split()[-1]), 1)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "instruction_set": library.instruction_set(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "built_for_torch": library.built_for(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--pairs", type=int, default=9, help="runs of each implementation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory, which starts processes")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if library.PROBLEM:
        print(library.PROBLEM, file=sys.stderr)
        return 1
    torch.set_num_threads(args.threads)
    results: list[dict[str, Any]] = []
    for tokens in args.tokens:
        fused = fused_arguments(tokens)
        classic = [*fused[:2], *locations_and_weights(fused[0], *fused[1:])]
        for entry, functions, arguments in (("classic", CLASSIC, classic), ("fused", FUSED, fused)):
            for run in (forward, forward_backward):
                row = {"tokens": tokens, "entry": entry, "run": run.__name__}
                row["implementations"] = compare(run, functions, arguments, args.pairs)
                results.append(row)
                print(json.dumps(row), flush=True)
        if not args.no_memory:
            memory = {
                run: {name: peak_mb(name, run, tokens) for name in CLASSIC} for run in ("forward", "forward_backward")
            }
            results.append({"tokens": tokens, "entry": "classic", "peak_mb": memory})
            print(json.dumps(results[-1]), flush=True)
    if args.output:
        setting = {"batch": 1, "heads": HEADS, "channels": CHANNELS, "levels": 3, "points": POINTS, "type": "float32"}
        report = {"machine": machine(), "setting": setting, "pairs": args.pairs, "results": results}
        args.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
