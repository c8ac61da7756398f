"""One training step of MTA-CLIP, of our Mask2Former and of Hugging Face's: seconds, peak memory, and where they go.

    python benchmarks/train_step.py --output output/train_step_cpu.json
    python benchmarks/train_step.py --growth --output output/train_step_growth_cpu.json
    python benchmarks/train_step.py --device cuda --sizes 512x1024 --batch 16 --types bfloat16 --also compiled

A step is the copies to the device, normalisation, forward pass, matching, losses, backward pass, clipping and AdamW's
update. The models train on the same random images and label maps, with random weights and the sizes of one
configuration, and take turns in one process; ratios are medians of the rounds' ratios. Peak memory is what one step
needs beyond weights and the optimiser's state, in a process of its own. The parts of a step are measured apart from
its seconds, because on a GPU every part then waits for the one before.
"""

import argparse
import json
import logging
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from common import machine, memory_is_countable, peak_mb, write_report
from train_step_models import (
    MODELS,
    VARIANTS,
    Case,
    Trained,
    exists,
    known_configs,
    make_model,
    make_samples,
    pinned,
    read_config,
    transformers_problem,
)
from train_step_report import plot_growth, tables

import mtaclip

GROWTH = {"size": [256, 384, 512, 768], "batch": [1, 2, 4], "classes": [19, 150, 847], "contexts": [1, 3, 8]}
WARM_UP = {"cpu": 1, "cuda": 3}  # steps: the first makes the optimiser's state
SMALLEST = 64  # pixels of an edge; below, a batch of one has nothing to normalise at stride 32

_logger = logging.getLogger("train_step")


# --- one step --------------------------------------------------------------------------------------------------------


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(model: Trained, batch: Any, device: str) -> float:
    """Of one step, waiting for the device before and after it only."""
    synchronise(device)
    start = time.perf_counter()
    model.step(batch)
    synchronise(device)
    return time.perf_counter() - start


class Stopwatch:
    """Seconds by part of a step; every mark waits for the device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: dict[str, float] = defaultdict(float)
        synchronise(device)
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """What passed since the last mark belongs to `part`."""
        synchronise(self.device)
        now = time.perf_counter()
        self.times[part] += now - self.last
        self.last = now


@contextmanager
def hooked(model: Trained, watch: Stopwatch) -> Iterator[None]:
    """Mark where the model's parts begin and end."""
    begun: set[str] = set()

    def before(part: str) -> None:
        watch.mark("other" if begun else "data")
        begun.add(part)

    handles = []
    for part, modules in model.parts.items():
        for module in modules:
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: before(part)))
            handles.append(module.register_forward_hook(lambda *_, part=part: watch.mark(part)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def parts_of_a_step(model: Trained, batch: Any, device: str) -> dict[str, float]:
    """Seconds of every part of one step; together they are the step."""
    watch = Stopwatch(device)
    with hooked(model, watch):
        loss = model.forward(batch)
    watch.mark("other")
    model.clear()
    loss.backward()
    watch.mark("backward")
    model.update()
    watch.mark("optimizer")
    return dict(watch.times)


# --- one case --------------------------------------------------------------------------------------------------------


def make_ready(name: str, case: Case, args: argparse.Namespace, folder: Path) -> tuple[Trained, Any, float]:
    """A model after its first steps, its batch, and the seconds that a loader's process needs to make the batch."""
    model = make_model(name, case, args.device, folder)
    samples = make_samples(case, model.classes)
    start = time.perf_counter()
    batch = model.prepare(samples)
    loader = time.perf_counter() - start
    if args.device == "cuda":
        batch = pinned(batch)
    for _ in range(WARM_UP[args.device]):
        model.step(batch)
    return model, batch, loader


def measure_memory(name: str, case: Case, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Peak memory of one step and what is held between steps; for a process that does nothing else."""
    torch.set_num_threads(args.threads)
    model, batch, _ = make_ready(name, case, args, folder)
    model.clear()
    return {"peak_mb": peak_mb(lambda: model.step(batch), args.device), **model.held()}


def in_own_process(*arguments: Any) -> dict[str, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_memory, *arguments).result()


def measure(case: Case, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All models on one case."""
    measured: dict[str, dict[str, Any]] = {}
    ready: dict[str, tuple[Trained, Any]] = {}
    for name in args.names:
        try:
            facts = in_own_process(name, case, args, folder) if args.memory else {}
            model, batch, loader = make_ready(name, case, args, folder)
        except Exception as error:
            if name in MODELS and name != "transformers":
                raise
            # What others' code or the compiler cannot do is a result.
            problem = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            measured[name] = {"failed": problem}
            _logger.info("%s does not run: %s", name, problem)
            continue
        ready[name] = model, batch
        measured[name] = {**model.held(), **facts, "loader_s": round(loader, 4)}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(args.rounds):
        for name, (model, batch) in ready.items():
            torch.manual_seed(number)
            times[name].append(seconds(model, batch, args.device))
    for name in ready:
        measured[name] |= {
            "seconds": [round(taken, 4) for taken in times[name]],
            "median_s": round(statistics.median(times[name]), 4),
            "least_s": round(min(times[name]), 4),
            "ratios": {
                other: round(statistics.median(a / b for a, b in zip(times[name], taken, strict=True)), 3)
                for other, taken in times.items()
                if other != name
            },
        }
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in ready}
    for _ in range(args.rounds if args.breakdown else 0):
        for name, (model, batch) in ready.items():
            parts[name].append(parts_of_a_step(model, batch, args.device))
    for name, runs in parts.items():
        if runs:
            medians = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
            measured[name]["parts_s"] = {part: round(taken, 4) for part, taken in medians.items()}
    return {**asdict(case), "implementations": measured}


# --- the command -----------------------------------------------------------------------------------------------------


def grow(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The first case with one thing varied at a time; cases that several factors share are measured once."""
    base = Case(args.config, args.sizes[0], args.batch[0], args.types[0])
    known: dict[Case, dict[str, Any]] = {}
    for factor, values in args.growth.items():
        for value in values:
            case = replace(base, **{factor: (value, value) if factor == "size" else value})
            if case not in known:
                known[case] = measure(case, args, folder)
            yield {"factor": factor, "value": value, **known[case]}


def compare(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Every combination of size, batch and type."""
    for size in args.sizes:
        for batch in args.batch:
            for dtype in args.types:
                yield measure(Case(args.config, size, batch, dtype), args, folder)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, and what else of the surroundings matters."""
    case = Case(args.config, args.sizes[0], max(args.batch), "float32")
    classes = read_config(case, "mtaclip").MODEL.SEM_SEG_HEAD.NUM_CLASSES
    samples = make_samples(case, classes)
    return {
        "config": args.config,
        "classes": classes,
        "classes_per_image": [len(sample["sem_seg"].unique()) for sample in samples],
        "rounds": args.rounds,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }


def versions() -> dict[str, str]:
    """Of what is compared."""
    found = {"mtaclip": mtaclip.__version__}
    for name in ("open_clip_torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_bfloat16() -> None:
    """Stop with advice where a bf16 product kills the process, as in virtual machines that only announce AMX.

    Raises:
        SystemExit: it does.
    """
    product = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"
    if subprocess.run([sys.executable, "-W", "ignore", "-c", product]).returncode == -signal.SIGILL:
        raise SystemExit(
            "--types bfloat16: this machine announces instructions (AMX) that it then refuses; set the environment "
            "variable ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, or AVX512_CORE, and run again."
        )


def image_size(text: str) -> tuple[int, int]:
    """ "512x1024" -> (512, 1024), height first."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x1024")
    size = int(parts[0]), int(parts[1])
    if any(edge % 32 or edge < SMALLEST for edge in size):
        raise argparse.ArgumentTypeError(f"{text!r}: height and width must be multiples of 32 from {SMALLEST} on")
    return size


def growth_factor(text: str) -> tuple[str, list[int]]:
    """ "size=256,512" -> ("size", [256, 512])."""
    factor, _, values = text.partition("=")
    if factor not in GROWTH:
        raise argparse.ArgumentTypeError(f"{factor!r} is none of {', '.join(GROWTH)}")
    if not values:
        return factor, GROWTH[factor]
    if not all(value.isdigit() and int(value) for value in values.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not like {factor}={','.join(map(str, GROWTH[factor]))}")
    numbers = [int(value) for value in values.split(",")]
    if factor == "size":
        for number in numbers:
            image_size(f"{number}x{number}")
    return factor, numbers


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--config", choices=known_configs(), default="cityscapes/R50", metavar="FOLDER/ARCH")
    parser.add_argument("--sizes", type=image_size, nargs="+", default=[(512, 512)], metavar="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1], help="images in a step")
    parser.add_argument("--types", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="of autocast")
    parser.add_argument("--rounds", type=positive, default=5, help="steps of each model")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="all, without --growth")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        choices=[ending.removeprefix(", ") for ending in VARIANTS],
        help="measure every model a second time, with SOLVER.COMPILE, without SOLVER.CHANNELS_LAST, with "
        "SOLVER.RECOMPUTE",
    )
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    parser.add_argument("--no-breakdown", dest="breakdown", action="store_false", help="leave out the parts of a step")
    parser.add_argument(
        "--growth",
        type=growth_factor,
        nargs="*",
        metavar="FACTOR=N,N",
        help="vary size, batch, classes and contexts, or the named ones, one at a time from the first of --sizes, "
        "--batch and --types; writes a PNG beside the JSON",
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, metavar="JSON", help="only print the tables of a written file")
    return parser


def complete(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check what belongs together and name the models to run."""
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here; take --device cpu.")
    if args.growth is not None:
        args.growth = dict(args.growth or GROWTH)
    models = args.models or [m for m in MODELS if args.growth is None or m != "transformers"]
    problem = transformers_problem(args.config) if "transformers" in models else None
    if problem and args.models:
        parser.error(f"--models transformers: {problem}.")
    if problem:
        _logger.info("transformers is left out: %s.", problem)
        models = [m for m in models if m != "transformers"]
    endings = ["", *(f", {variant}" for variant in args.also)]
    args.names = [model + ending for ending in endings for model in models if exists(model + ending)]
    if args.memory and not memory_is_countable(args.device):
        parser.error("peak memory on the CPU is read from Linux's /proc; leave it out with --no-memory.")
    if args.device == "cpu" and "bfloat16" in args.types:
        check_bfloat16()


def main() -> int:
    parser = make_parser()
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    _logger.setLevel(logging.INFO)
    if args.table:
        if not args.table.is_file():
            parser.error(f"--table: there is no file {str(args.table)!r}; --output writes one.")
        _logger.info(tables(json.loads(args.table.read_text(encoding="utf-8"))))
        return 0
    complete(parser, args)
    torch.set_num_threads(args.threads)
    report = {"machine": machine(args.device), "versions": versions(), "settings": settings(args), "results": []}
    with tempfile.TemporaryDirectory() as folder:
        for row in (compare if args.growth is None else grow)(args, Path(folder)):
            report["results"].append(row)
            _logger.info(json.dumps(row))
            if args.output:  # after every row: a run of hours that is stopped leaves what it has
                write_report(args.output, report)
    if args.output and args.growth is not None:
        plot_growth(report, args.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
