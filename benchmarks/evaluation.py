"""What scoring an image costs: ours, Detectron2's SemSegEvaluator and Cityscapes' official script, taking turns.

    python benchmarks/evaluation.py --output benchmarks/results/evaluation_cpu.json

Labels, instances and predictions of 1024 x 2048 pixels are drawn here: large smooth shapes, of which a tenth is
predicted wrongly. All three read the label file; the official script and ours read the instance file, too, in the run
with iIoU; the official script also reads the prediction from a file, the only way it takes one. The argmax over scores
is left out on both sides, since ours takes labels. Results must agree, or nothing is written. Ratios are medians of the
rounds' ratios, so they hold on a machine that others use too. Disk caches are warm.

An evaluation scores in the background. How long it holds the model up is measured apart: the time until an image is
handed over, with pauses of 0.1 s between images, in which a model would compute elsewhere, on a GPU or another core.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import cv2
import numpy as np
import torch
from cityscapesscripts.helpers.labels import id2label, trainId2label
from common import machine, write_report
from data_loading import LABEL_IDS, smooth
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from numpy.typing import NDArray
from PIL import Image

from mtaclip.evaluation import SemanticEvaluator
from mtaclip.evaluation.background import BackgroundEvaluator

NUM_CLASSES = 19
LABELS = [trainId2label[train_id] for train_id in range(NUM_CLASSES)]
DATASETS = {"plain": "evaluation_benchmark", "instances": "evaluation_benchmark_instances"}
WRONG = 0.1
OBJECT = 64  # side of the squares that the objects of a class are cut into, in pixels
TOLERANCE = 1e-9
PAUSE = 0.1  # seconds


class Decided:
    """Stands for the scores of a model whose argmax is known."""

    def __init__(self, labels: NDArray[np.uint8]) -> None:
        self._labels = torch.from_numpy(labels)

    def argmax(self, dim: int) -> torch.Tensor:
        return self._labels


def draw(folder: Path, number: int, size: tuple[int, int]) -> dict[str, Any]:
    """Write the files of one image; return their names and the prediction."""
    rng = np.random.default_rng(number)
    ids = np.array(LABEL_IDS, np.uint8)[smooth(rng, size, 120, len(LABEL_IDS)).argmax(axis=-1)]
    counted = np.isin(ids, [label for label, entry in id2label.items() if entry.hasInstances])
    rows, columns = np.indices(size) // OBJECT
    objects = (rows * (size[1] // OBJECT + 1) + columns) // 8 % 1000
    instances = np.where(counted, ids.astype(np.uint16) * 1000 + objects, ids).astype(np.uint16)
    table = np.full(256, 255, np.uint8)
    for label in LABELS:
        table[label.id] = label.trainId
    truth = table[ids]
    wrong = cv2.resize((rng.random((size[0] // 8, size[1] // 8)) < WRONG).astype(np.uint8), size[::-1]) > 0
    prediction = np.where(wrong | (truth == 255), np.roll(truth, 200, axis=1), truth)
    prediction[prediction == 255] = 0
    stem = f"aachen_{number:06d}_000019_gtFine"
    files = {
        "labels": folder / f"{stem}_labelIds.png",
        "instances": folder / f"{stem}_instanceIds.png",
        "train_ids": folder / f"{stem}_labelTrainIds.png",
        "prediction": folder / f"{stem}_pred.png",
    }
    predicted_ids = np.array([label.id for label in LABELS], np.uint8)[prediction]
    for file, pixels in zip(files.values(), (ids, instances, truth, predicted_ids), strict=True):
        Image.fromarray(pixels).save(file)
    return {**{key: str(file) for key, file in files.items()}, "classes": prediction}


def records(images: list[dict[str, Any]], key: str, label_format: str) -> list[dict[str, Any]]:
    """Dataset records whose labels are the files `key`."""
    return [
        {"file_name": image["prediction"], "sem_seg_file_name": image[key], "label_format": label_format}
        for image in images
    ]


def register(images: list[dict[str, Any]]) -> None:
    """Register the images with train ids, which have no instances, and with Cityscapes' label ids."""
    formats = {"plain": ("train_ids", "train_ids"), "instances": ("labels", "cityscapes_label_ids")}
    for kind, name in DATASETS.items():
        DatasetCatalog.register(name, lambda kind=kind: records(images, *formats[kind]))
        MetadataCatalog.get(name).set(
            stuff_classes=[label.name for label in LABELS],
            stuff_categories=[label.category for label in LABELS],
            ignore_label=255,
        )


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def runs(images: list[dict[str, Any]]) -> dict[str, tuple[Callable[[int], Any], Callable[[], dict[str, float]]]]:
    """By name: what is done for the image of a number, and the scores at the end, in percent."""
    evaluators = {
        "ours": SemanticEvaluator(DATASETS["plain"], distributed=False),
        "ours, iIoU": SemanticEvaluator(DATASETS["instances"], distributed=False),
        "Detectron2": SemSegEvaluator(DATASETS["plain"], distributed=False),
    }
    found: dict[str, tuple[Callable[[int], Any], Callable[[], dict[str, float]]]] = {}
    for name, evaluator in evaluators.items():
        evaluator.reset()
        inputs = DatasetCatalog.get(DATASETS["instances" if name == "ours, iIoU" else "plain"])
        if name == "Detectron2":
            outputs = [{"sem_seg": Decided(image["classes"])} for image in images]
        else:
            outputs = [{"labels": torch.from_numpy(image["classes"])} for image in images]
        found[name] = (
            lambda i, e=evaluator, x=inputs, y=outputs: e.process([x[i]], [y[i]]),
            lambda e=evaluator: dict(e.evaluate()["sem_seg"]),
        )
    arguments = official.args
    arguments.JSONOutput, arguments.quiet = False, True
    state = (official.generateMatrix(arguments), official.generateInstanceStats(arguments))

    def pair(number: int) -> None:
        image = images[number]
        official.evaluatePair(image["prediction"], image["labels"], *state, {}, arguments)

    def scores() -> dict[str, float]:
        classes = {x.name: official.getIouScoreForLabel(x.id, state[0], arguments) for x in LABELS}
        objects = {x.name: official.getInstanceIouScoreForLabel(x.id, *state, arguments) for x in LABELS}
        means = {"mIoU": classes, "iIoU": objects}
        return {key: 100 * official.getScoreAverage(values, arguments) for key, values in means.items()}

    return found | {"official, iIoU": (pair, scores)}


def in_background(images: list[dict[str, Any]]) -> tuple[list[float], dict[str, float]]:
    """Seconds until each image is handed over, and the scores in percent."""
    evaluator = BackgroundEvaluator(SemanticEvaluator(DATASETS["instances"], distributed=False))
    evaluator.reset()
    times = []
    for record, image in zip(DatasetCatalog.get(DATASETS["instances"]), images, strict=True):
        labels = torch.from_numpy(image["classes"])
        time.sleep(PAUSE)
        times.append(timed(lambda r=record, x=labels: evaluator.process([r], [{"labels": x}]))[0])
    return times, dict(evaluator.evaluate()["sem_seg"])


def check_equal(results: dict[str, dict[str, float]]) -> None:
    """Raise unless all agree."""
    pairs = [
        ("ours", "Detectron2", ("mIoU", "fwIoU", "mACC", "pACC")),
        ("ours", "ours, iIoU", ("mIoU",)),
        ("ours, iIoU", "official, iIoU", ("mIoU", "iIoU")),
        ("ours, iIoU", "ours, iIoU, in the background", ("mIoU", "iIoU")),
    ]
    for first, second, keys in pairs:
        for key in keys:
            a, b = results[first][key], results[second][key]
            if not math.isclose(a, b, rel_tol=0, abs_tol=100 * TOLERANCE):
                raise RuntimeError(f"{key} is {a} of {first} and {b} of {second}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5, help="images drawn, each of which every evaluator sees once")
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the images")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for name, value in (("in1d", np.isin), ("int", int), ("float", float)):  # dropped by NumPy, used by both peers
        if not hasattr(np, name):
            setattr(np, name, value)
    with tempfile.TemporaryDirectory() as folder:
        images = [draw(Path(folder), number, tuple(args.size)) for number in range(args.images)]
        register(images)
        for process, _ in runs(images).values():  # warms up
            process(0)
        evaluators = runs(images)
        times: dict[str, list[float]] = {name: [] for name in evaluators}
        for number in range(args.images):
            for name, (process, _) in evaluators.items():
                times[name].append(timed(lambda process=process, number=number: process(number))[0])
        results = {name: scores() for name, (_, scores) in evaluators.items()}
        name = "ours, iIoU, in the background"
        times[name], results[name] = in_background(images)
    check_equal(results)

    def faster(ours: str, theirs: str) -> float:
        return round(statistics.median(b / a for a, b in zip(times[ours], times[theirs], strict=True)), 1)

    report = {
        "machine": machine("cpu"),
        "setting": {"size": args.size, "images": args.images},
        "ms_per_image": {name: round(statistics.median(taken) * 1e3, 2) for name, taken in times.items()},
        "times_faster": {
            "than Detectron2": faster("ours", "Detectron2"),
            "than the official script, iIoU": faster("ours, iIoU", "official, iIoU"),
            "than the official script, iIoU, in the background": faster(name, "official, iIoU"),
        },
        "scores": {name: {k: v for k, v in found.items() if "-" not in k} for name, found in results.items()},
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if args.output:
        write_report(args.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
