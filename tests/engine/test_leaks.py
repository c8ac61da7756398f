"""Memory, threads, open files and processes do not grow with what a long-lived process does.

Run as a script, this file is the process that is looked at: it does the work of one name and writes its measurements.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "miniature" / "mtaclip_tiny.yaml"
SMALL = [
    "SOLVER.IMS_PER_BATCH", "1",
    "INPUT.CROP.SIZE", "(64,64)",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MAX_SIZE_TRAIN", "128",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "128",
    "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8",
]  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """What this process holds: resident memory in bytes, and numbers of the rest."""

    memory: int
    objects: int
    threads: int
    files: int
    processes: int

    @classmethod
    def now(cls) -> "Usage":
        gc.collect()
        threads = list(Path("/proc/self/task").iterdir())
        children = [(thread / "children").read_text().split() for thread in threads]
        return cls(
            memory=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            objects=len(gc.get_objects()),
            threads=len(threads),
            files=len(os.listdir("/proc/self/fd")),
            processes=sum(map(len, children)),
        )


class Meter:
    """Counts units of work and measures every so many of them."""

    def __init__(self, every: int) -> None:
        self.every, self.count, self.found = every, 0, []

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count % self.every == 0:
            self.found.append((self.count, *astuple(Usage.now())))


def training(meter: Meter, folder: Path) -> None:
    """2,000 steps with 10 evaluations, 20 checkpoints, TensorBoard and a data worker."""
    from detectron2.engine import HookBase

    from mtaclip.engine import Trainer, setup_cfg

    class Measure(HookBase):
        def after_step(self) -> None:
            meter()

    options = [*SMALL, "SOLVER.MAX_ITER", "2000", "SOLVER.CHECKPOINT_PERIOD", "100", "TEST.EVAL_PERIOD", "200"]
    trainer = Trainer(setup_cfg(TINY, [*options, "OUTPUT_DIR", str(folder)], device="cpu"))
    trainer.register_hooks([Measure()])
    trainer.train()


def evaluation(meter: Meter, folder: Path) -> None:
    """2,000 images in one evaluation."""
    evaluate(meter, folder, images=2000, times=1)


def evaluations(meter: Meter, folder: Path) -> None:
    """100 evaluations of 4 images in one process, each with a data worker of its own."""
    evaluate(meter, folder, images=4, times=100)


def evaluate(meter: Meter, folder: Path, *, images: int, times: int) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mtaclip.engine import Trainer, setup_cfg

    files = DatasetCatalog.get("cityscapes_sem_seg_val")
    records = [own_copy(files[number % len(files)], folder, number) for number in range(images)]
    metadata = MetadataCatalog.get("cityscapes_sem_seg_val").as_dict()
    DatasetCatalog.register("many_val", lambda: records)
    MetadataCatalog.get("many_val").set(**{key: value for key, value in metadata.items() if key != "name"})
    options = [*SMALL, "DATASETS.TEST", "('many_val',)", "OUTPUT_DIR", str(folder)]
    cfg = setup_cfg(TINY, options, device="cpu")
    model = Trainer.build_model(cfg)
    if times == 1:
        model.register_forward_hook(meter)
    for _ in range(times):
        Trainer.test(cfg, model)
        if times > 1:
            meter()


def own_copy(record: dict, folder: Path, number: int) -> dict:
    """The same image and labels under other names."""
    changed = {}
    for key in ("file_name", "sem_seg_file_name"):
        name = folder / f"{number}_{Path(record[key]).name}"
        name.symlink_to(record[key])
        changed[key] = str(name)
    return record | changed


WORK = {function.__name__: function for function in (training, evaluation, evaluations)}


def main(name: str, every: int, folder: Path) -> None:
    import mtaclip  # noqa: F401

    # isort: split
    meter = Meter(every)
    WORK[name](meter, folder)
    (folder / "usage.json").write_text(json.dumps(meter.found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
