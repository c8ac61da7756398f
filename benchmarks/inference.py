"""From image files to label maps: MTA-CLIP, our Mask2Former and Hugging Face's, taking turns.

    python benchmarks/inference.py --output benchmarks/results/inference_cpu.json
    python benchmarks/inference.py --config ade20k/R50 --sizes 4000x6000 --windows --rounds 1 --output output/large.json
    python benchmarks/inference.py --device cuda --batch 1 8 --rounds 20 --output output/inference_cuda.json

Everything counts: reading the PNG files, what an image processor does, the network, and post-processing to labels of
the files' size on the host. Images keep their size; weights are random. Peak memory is what one call needs beyond the
weights, in a process of its own; the parts of a call are measured apart from its seconds. Hugging Face's
post-processing makes masks of 384 x 384 and resizes class scores from there; ours are computed at the image's size.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import check_bfloat16, image_size, machine, peak_mb, positive, versions, write_report
from PIL import Image
from torch import Tensor, nn
from train_step_measurement import Stopwatch, hooked, seconds
from train_step_models import (
    MODELS,
    Case,
    build_hugging_face,
    known_configs,
    make_samples,
    read_config,
    transformers_problem,
)

from mtaclip.data.mapper import SemanticMapper
from mtaclip.modeling.build import build_model
from mtaclip.modeling.performance import speed_up

PARTS = ("reading", "backbone", "pixel decoder", "text", "decoder", "labels")

_logger = logging.getLogger("inference")


class Pipeline(ABC):
    """A model and what makes label maps of image files with it."""

    parts: dict[str, list[nn.Module]]

    def __init__(self, cfg: Any, dtype: torch.dtype) -> None:
        self.device, self.dtype = cfg.MODEL.DEVICE, dtype
        torch.manual_seed(0)
        self.build(cfg)

    @abstractmethod
    def build(self, cfg: Any) -> None:
        """Make the model and set `parts`."""

    @abstractmethod
    def read(self, files: list[Path]) -> Any:
        """Images of one size, as the model takes them."""

    @abstractmethod
    def labels(self, batch: Any) -> list[Tensor]:
        """Label maps (H, W) on the host."""

    @torch.no_grad()
    def step(self, files: list[Path]) -> list[Tensor]:
        """Label maps of image files."""
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.labels(self.read(files))


class Ours(Pipeline):
    """The model of a configuration of this project."""

    def build(self, cfg: Any) -> None:
        self.model = build_model(cfg).eval()
        speed_up(self.model, cfg)
        self.mapper = SemanticMapper(cfg, False)
        model = self.model
        self.parts = {
            "backbone": [model.backbone],
            "pixel decoder": [model.pixel_decoder],
            "text": [] if model.texts is None else [model.texts],
            "decoder": [model.decoder],
        }

    def read(self, files: list[Path]) -> list[dict[str, Any]]:
        return [self.mapper({"file_name": str(file)}) for file in files]

    def labels(self, batch: list[dict[str, Any]]) -> list[Tensor]:
        return [output["labels"].cpu() for output in self.model(batch)]


class HuggingFace(Pipeline):
    """Hugging Face's Mask2Former with its image processor."""

    def build(self, cfg: Any) -> None:
        from transformers import Mask2FormerImageProcessor

        self.model = build_hugging_face(cfg).eval()
        mean, std = ([value / 255 for value in values] for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
        self.processor = Mask2FormerImageProcessor(do_resize=False, image_mean=mean, image_std=std)
        pixels, decoder = self.model.model.pixel_level_module, self.model.model.transformer_module
        self.parts = {"backbone": [pixels.encoder], "pixel decoder": [pixels.decoder], "decoder": [decoder]}

    def read(self, files: list[Path]) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        images = [Image.open(file).convert("RGB") for file in files]
        inputs = self.processor(images=images, return_tensors="pt")
        return inputs, [image.size[::-1] for image in images]

    def labels(self, batch: tuple[dict[str, Tensor], list[tuple[int, int]]]) -> list[Tensor]:
        inputs, sizes = batch
        outputs = self.model(pixel_values=inputs["pixel_values"].to(self.device))
        return [m.cpu() for m in self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)]


def make_pipeline(name: str, case: Case, device: str, windows: bool) -> Pipeline:
    """One of `MODELS`, at the images' own size."""
    cfg = read_config(case, "mtaclip" if name == "mtaclip" else "mask2former", device)
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.TEST.SLIDING_WINDOW.ENABLED = windows
    return (HuggingFace if name == "transformers" else Ours)(cfg, getattr(torch, case.type))


def draw(case: Case, folder: Path) -> list[Path]:
    """Write the images of a case as PNG files."""
    files = []
    for number, sample in enumerate(make_samples(case, 19)):
        file = folder / f"{case.size[0]}x{case.size[1]}_{number}.png"
        Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(file)
        files.append(file)
    return files


def parts_of_a_call(pipeline: Pipeline, files: list[Path]) -> dict[str, float]:
    """Seconds of every part of one call; together they are the call."""
    watch = Stopwatch(pipeline.device)
    with hooked(pipeline, watch):
        pipeline.step(files)
    watch.mark("labels")
    times = dict(watch.times)
    times["reading"] = times.pop("data")
    times["labels"] += times.pop("other", 0.0)
    return times


def measure_memory(name: str, case: Case, files: list[Path], device: str, windows: bool, threads: int) -> float:
    """Peak memory of one call, in MB; for a process that does nothing else."""
    torch.set_num_threads(threads)
    pipeline = make_pipeline(name, case, device, windows)
    pipeline.step(files)
    return peak_mb(lambda: pipeline.step(files), device)


def in_own_process(*arguments: Any) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure_memory, *arguments).result()


def measure(names: list[str], case: Case, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All models on one case."""
    files = draw(case, folder)
    measured: dict[str, dict[str, Any]] = {
        name: {"peak_mb": in_own_process(name, case, files, args.device, args.windows, args.threads)} for name in names
    }
    pipelines = {name: make_pipeline(name, case, args.device, args.windows) for name in names}
    for pipeline in pipelines.values():
        for labels in pipeline.step(files):  # warms up
            if labels.shape != case.size:
                raise RuntimeError(f"labels of {tuple(labels.shape)} for an image of {case.size}")
    times: dict[str, list[float]] = {name: [] for name in names}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    take_turns(args.rounds, pipelines, lambda name, p: times[name].append(seconds(p, files, args.device)))
    take_turns(args.rounds, pipelines, lambda name, p: parts[name].append(parts_of_a_call(p, files)))
    for name in names:
        taken = times[name]
        measured[name] |= {
            "ms_per_image": round(statistics.median(taken) / case.batch * 1e3, 1),
            "images_per_s": round(case.batch / statistics.median(taken), 3),
            "ratios": {
                other: round(statistics.median(a / b for a, b in zip(taken, times[other], strict=True)), 3)
                for other in names
                if other != name
            },
            "parts_ms_per_image": {
                part: round(statistics.median(run[part] for run in parts[name]) / case.batch * 1e3, 1)
                for part in PARTS
                if part in parts[name][0]
            },
        }
    return {"size": case.size, "batch": case.batch, "type": case.type, "implementations": measured}


def take_turns(rounds: int, pipelines: dict[str, Pipeline], run: Callable[[str, Pipeline], None]) -> None:
    for _ in range(rounds):
        for name, pipeline in pipelines.items():
            run(name, pipeline)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--config", choices=known_configs(), default="cityscapes/R50", metavar="FOLDER/ARCH")
    parser.add_argument("--sizes", type=image_size, nargs="+", default=[(512, 512), (1024, 2048)])
    parser.add_argument("--batch", type=positive, nargs="+", default=[1], help="images in a call")
    parser.add_argument("--types", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="of autocast")
    parser.add_argument("--rounds", type=positive, default=5, help="calls of each model")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--windows", action="store_true", help="our models see windows as TEST.SLIDING_WINDOW says")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    _logger.setLevel(logging.INFO)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here; take --device cpu.")
    if args.windows and "transformers" in (args.models or ()):
        parser.error("--windows: transformers' Mask2Former sees whole images only.")
    known = [m for m in MODELS if m != "transformers" or not (args.windows or transformers_problem(args.config))]
    names = args.models or known
    if args.device == "cpu" and "bfloat16" in args.types:
        check_bfloat16()
    torch.set_num_threads(args.threads)
    report = {
        "machine": machine(args.device),
        "versions": versions(),
        "config": args.config,
        "windows": args.windows,
        "results": [],
    }
    cases = [Case(args.config, size, batch, kind) for size in args.sizes for batch in args.batch for kind in args.types]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            report["results"].append(measure(names, case, args, Path(folder)))
            _logger.info(json.dumps(report["results"][-1]))
            if args.output:
                write_report(args.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
