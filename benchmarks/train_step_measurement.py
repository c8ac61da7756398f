"""Measuring one training step of several models: seconds, parts, and peak memory."""

import argparse
import logging
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common import peak_mb
from train_step_models import MODELS, Case, Trained, make_model, make_samples, pinned

WARM_UP = {"cpu": 1, "cuda": 3}  # steps: the first makes the optimiser's state

_logger = logging.getLogger("train_step")


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
