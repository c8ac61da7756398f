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
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import check_bfloat16, image_size, machine, memory_is_countable, positive, versions, write_report
from train_step_measurement import measure
from train_step_models import (
    MODELS,
    VARIANTS,
    Case,
    exists,
    known_configs,
    make_samples,
    read_config,
    transformers_problem,
)
from train_step_report import plot_growth, tables

GROWTH = {"size": [256, 384, 512, 768], "batch": [1, 2, 4], "classes": [19, 150, 847], "contexts": [1, 3, 8]}

_logger = logging.getLogger("train_step")


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
