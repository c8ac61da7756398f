"""What bounds a training step: its convolutions and matrix products against what the machine multiplies at most.

    python benchmarks/train_step_profile.py --output benchmarks/results/train_step_profile_cpu.json

For every model of `train_step.py`: floating-point operations of the products of a step, how long they would take at the
rate of one large product, how long they do take, and what takes the rest, by PyTorch's profiler.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import check_bfloat16, image_size, machine, positive, write_report
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from train_step_models import MODELS, Case, known_configs, make_model, make_samples, transformers_problem

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "convolution_backward"}
SIDE = 4096  # of the matrices whose product is the measure
REST = 8  # operators named besides the products

_logger = logging.getLogger("train_step_profile")


def product_rate(dtype: torch.dtype, repeats: int = 5) -> float:
    """Billions of floating-point operations per second in a product of two large matrices, the best of some."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(times[1:]) / 1e9


def analyse(name: str, case: Case, rate: float, steps: int, folder: Path) -> dict[str, Any]:
    """Where the time of a model's steps goes."""
    model = make_model(name, case, "cpu", folder)
    batch = model.prepare(make_samples(case, model.classes))
    with FlopCounterMode(display=False) as counter:
        model.step(batch)
    model.step(batch)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(steps):
            model.step(batch)
    times = {e.key.removeprefix("aten::"): e.self_cpu_time_total / 1e6 / steps for e in watched.key_averages()}
    rest = {key: taken for key, taken in times.items() if key not in PRODUCTS}
    largest = sorted(rest, key=rest.get, reverse=True)[:REST]
    gflop = counter.get_total_flops() / 1e9
    return {
        "gflop_of_products": round(gflop, 3),
        "products_at_best_s": round(gflop / rate, 3),
        "products_s": round(sum(times.values()) - sum(rest.values()), 3),
        "rest_s": round(sum(rest.values()), 3),
        "largest_of_the_rest_s": {key: round(rest[key], 4) for key in largest},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=known_configs(), default="cityscapes/R50", metavar="FOLDER/ARCH")
    parser.add_argument("--size", type=image_size, default=(512, 512), metavar="HEIGHTxWIDTH")
    parser.add_argument("--types", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--steps", type=positive, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    _logger.setLevel(logging.INFO)
    models = args.models or [m for m in MODELS if m != "transformers" or not transformers_problem(args.config)]
    if "bfloat16" in args.types:
        check_bfloat16()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.types:
            rate = product_rate(getattr(torch, kind))
            case = Case(args.config, args.size, 1, kind)
            parts = {name: analyse(name, case, rate, args.steps, Path(folder)) for name in models}
            results.append({"type": kind, "size": args.size, "gflop_per_s": round(rate), "models": parts})
            _logger.info(json.dumps(results[-1]))
    if args.output:
        write_report(args.output, {"machine": machine("cpu"), "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
