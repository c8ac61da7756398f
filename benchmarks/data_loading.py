"""Training samples of Cityscapes' size in one process: ours against the usual Detectron2 pipeline, taking turns.

    python benchmarks/data_loading.py --output benchmarks/results/data_loading_cpu.json

The images are drawn here: smooth colour fields with noise, in PNG files as Pillow writes them; labels are large smooth
shapes. Photographs may take more or less time to decode. The usual pipeline is built of Detectron2's transforms as the
Mask2Former family puts them together: everything is read and resized whole, labels are float64 until they are tensors,
and every class present becomes a binary mask. Both draw scales of 0.5 to 2, a 512 x 1024 crop with the same rule on
single classes, colours and a flip. Each pair is one sample of either pipeline from the same image; ratios are medians
of the pairs' ratios, so they hold on a machine that others use too. Disk caches are warm.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
import cv2
import detectron2
import numpy as np
import PIL
import pyspng
import torch
from detectron2.config import get_cfg
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image

from mtaclip import add_mtaclip_config
from mtaclip.data.augmentation import PhotometricDistortion, RandomScaleCrop
from mtaclip.data.image_files import ImageFile
from mtaclip.data.labels import read_label_map
from mtaclip.data.mapper import SemanticMapper, to_tensors

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/cityscapes/mtaclip_R50.yaml"
LABEL_IDS = [7, 8, 11, 17, 19, 20, 21, 22, 23, 24, 26, 33, 4]  # 12 classes of 19, and one that is ignored
NOISE = 1.3  # grey levels
SCALES = [round(step / 10, 1) for step in range(5, 21)]


def smooth(rng: np.random.Generator, size: tuple[int, int], cell: int, channels: int) -> NDArray[np.float32]:
    """Random fields (H, W, channels) that vary over about `cell` pixels."""
    grid = rng.normal(size=(size[0] // cell + 2, size[1] // cell + 2, channels)).astype(np.float32)
    return np.dstack(
        [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_CUBIC) for plane in np.moveaxis(grid, 2, 0)]
    )


def draw(folder: Path, count: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Write images and labels; return their records."""
    records = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = 110 + sum(smooth(rng, size, cell, 3) * contrast for cell, contrast in ((200, 40), (40, 20), (8, 6)))
        image += rng.normal(size=image.shape) * NOISE
        ids = np.array(LABEL_IDS, np.uint8)[smooth(rng, size, 120, len(LABEL_IDS)).argmax(axis=-1)]
        paths = [folder / f"{number}_leftImg8bit.png", folder / f"{number}_labelIds.png"]
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(paths[0])
        Image.fromarray(ids).save(paths[1])
        train_ids = folder / f"{number}_labelTrainIds.png"  # what the usual pipeline reads: prepared once, offline
        Image.fromarray(read_label_map(paths[1], "cityscapes_label_ids")).save(train_ids)
        records.append(
            {
                "file_name": str(paths[0]),
                "sem_seg_file_name": str(paths[1]),
                "label_format": "cityscapes_label_ids",
                "train_ids": str(train_ids),
            }
        )
    return records


# --- the usual pipeline ----------------------------------------------------------------------------------------------


class UsualColours(T.Transform):
    """Brightness, contrast, saturation and hue in NumPy, drawn when applied, each with probability 0.5."""

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if np.random.rand() < 0.5:
            img = self.linear(img, shift=np.random.uniform(-32, 32))
        contrast_first = np.random.rand() < 0.5
        if contrast_first:
            img = self.contrast(img)
        if np.random.rand() < 0.5:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = self.linear(hsv[..., 1], factor=np.random.uniform(0.5, 1.5))
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if np.random.rand() < 0.5:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.randint(-18, 18)) % 180
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return img if contrast_first else self.contrast(img)

    def contrast(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.linear(img, factor=np.random.uniform(0.5, 1.5)) if np.random.rand() < 0.5 else img

    @staticmethod
    def linear(img: NDArray[np.uint8], factor: float = 1.0, shift: float = 0.0) -> NDArray[np.uint8]:
        return np.clip(img.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    def apply_segmentation(self, segmentation: NDArray[Any]) -> NDArray[Any]:
        return segmentation

    def apply_coords(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        return coords


def usual_pipeline(cfg: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A mapper from a record to image, labels, classes and binary masks."""
    short, crop = cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.CROP
    augmentations = T.AugmentationList(
        [
            T.ResizeShortestEdge([int(short * s) for s in SCALES], 2 * cfg.INPUT.MAX_SIZE_TRAIN, "choice"),
            T.RandomCrop_CategoryAreaConstraint("absolute", crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, 255),
            UsualColours(),
            T.RandomFlip(),
        ]
    )

    def load(record: dict[str, Any]) -> dict[str, Any]:
        image = detection_utils.read_image(record["file_name"], "RGB")
        inputs = T.AugInput(image, sem_seg=detection_utils.read_image(record["train_ids"]).astype("double"))
        augmentations(inputs)
        pixels = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        labels = torch.as_tensor(inputs.sem_seg.astype("int64"))
        classes = np.unique(labels.numpy())
        classes = classes[classes != 255]
        masks = [torch.from_numpy(np.ascontiguousarray(labels.numpy() == label)) for label in classes]
        stacked = torch.stack(masks) if masks else torch.zeros((0, *labels.shape), dtype=torch.bool)
        return {"image": pixels, "sem_seg": labels, "classes": torch.tensor(classes), "masks": stacked}

    return load


# --- measuring -------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(runs: dict[str, Callable[[dict[str, Any]], Any]], records: list[dict], pairs: int) -> dict[str, Any]:
    """Samples per second of both pipelines, and how many times faster the second is."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, pairs):  # the first pair warms up
        for name, run in runs.items():
            np.random.seed(max(number, 0))
            taken = seconds(lambda run=run, number=number: run(records[number % len(records)]))
            if number >= 0:
                times[name].append(taken)
    usual, ours = times.values()
    return {
        "ms": {name: round(statistics.median(taken) * 1e3, 2) for name, taken in times.items()},
        "samples_per_second": {name: round(len(taken) / sum(taken), 2) for name, taken in times.items()},
        "times_faster": round(statistics.median(u / o for u, o in zip(usual, ours, strict=True)), 2),
        "times_faster_in_total": round(sum(usual) / sum(ours), 2),
    }


def breakdown(augmentations: list[T.Augmentation], records: list[dict], repeats: int) -> dict[str, float]:
    """Mean milliseconds of the parts of our pipeline."""
    crop = next(a for a in augmentations if isinstance(a, RandomScaleCrop))
    colours = next(a for a in augmentations if isinstance(a, PhotometricDistortion))
    taken: dict[str, list[float]] = {}

    def timed(part: str, run: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = run(*arguments)
        taken.setdefault(part, []).append((time.perf_counter() - start) * 1e3)
        return result

    for number in range(repeats):
        np.random.seed(number)
        record = records[number % len(records)]
        file = timed("open image", ImageFile, record["file_name"])
        labels = timed("decode labels", read_label_map, record["sem_seg_file_name"], record["label_format"])
        transform = timed("draw window", crop.get_transform, labels)
        image = timed("decode image", file.top, transform.corner[0])
        image = timed("crop and resize image", transform.apply_image, image)
        labels = timed("crop and resize labels", transform.apply_segmentation, labels)
        image = timed("colours", colours.get_transform(image).apply_image, image)
        timed("to tensors", to_tensors, image, labels)
    return {part: round(statistics.mean(times), 2) for part, times in taken.items()}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = {"torch": torch, "numpy": np, "opencv": cv2, "pillow": PIL, "pyspng": pyspng, "detectron2": detectron2}
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: package.__version__ for name, package in packages.items()},
        "date": datetime.date.today().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="images drawn")
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the images")
    parser.add_argument("--pairs", type=int, default=60, help="samples of each pipeline")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    cfg.merge_from_file(str(ROOT / CONFIG), allow_unsafe=False)
    mapper = SemanticMapper(cfg, True)
    with tempfile.TemporaryDirectory() as folder:
        records = draw(Path(folder), args.images, tuple(args.size))
        sizes = {key: sum(Path(r[key]).stat().st_size for r in records) for key in ("file_name", "sem_seg_file_name")}
        report = {
            "machine": machine(),
            "setting": {
                "config": CONFIG,
                "size": args.size,
                "crop": list(cfg.INPUT.CROP.SIZE),
                "images": args.images,
                "image_megabytes": round(sizes["file_name"] / args.images / 1e6, 2),
                "label_megabytes": round(sizes["sem_seg_file_name"] / args.images / 1e6, 2),
            },
            "pairs": args.pairs,
            "results": compare({"usual": usual_pipeline(cfg), "ours": mapper}, records, args.pairs),
            "ours_ms": breakdown(mapper.augmentations.augs, records, args.pairs),
        }
    logging.info(json.dumps(report, indent=1))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
