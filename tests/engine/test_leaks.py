"""Memory, threads, open files and processes do not grow with what a long-lived process does.

Run as a script, this file is the process that is looked at: it does the work of one name and writes its measurements.
"""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mtaclip  # noqa: F401

# isort: split
import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import theilslopes

from mtaclip.demo.images import segment_images
from mtaclip.demo.models import Models, load_predictor
from mtaclip.demo.page import open_picture, show
from mtaclip.demo.segmenter import Segmenter
from mtaclip.demo.videos import segment_videos
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.visualization import Painter
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "miniature" / "mtaclip_tiny.yaml"
SMALL = [
    "SOLVER.IMS_PER_BATCH", "1",
    *tiny.SIZES,
    "INPUT.CROP.SIZE", "(64,64)",
]  # fmt: skip
LIMIT = 4 * 2**20  # bytes of memory that the second half may rise by
OBJECTS = {"evaluation": 4}  # that a unit may leave in Python's garbage collector; the counts of every image are kept
NAMES = ("memory", "mappings", "objects", "threads", "files", "processes")


def usage() -> tuple[int, ...]:
    """What this process holds, by `NAMES`; memory is in bytes, and also that of the processes it has started."""
    gc.collect()
    threads = list(Path("/proc/self/task").iterdir())
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    memory = sum(map(own_memory, ["self", *children]))
    mappings = Path("/proc/self/maps").read_text().count("\n")
    files = len(os.listdir("/proc/self/fd"))
    return memory, mappings, len(gc.get_objects()), len(threads), files, len(children)


def own_memory(process: str) -> int:
    """Resident memory that belongs to no file, in bytes; 0 of a process that has just ended."""
    found = re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return 1024 * sum(map(int, found))


class Meter:
    """Counts units of work and measures every so many of them.

    Attributes:
        found: for each measurement the units that were done, and `usage`.
    """

    def __init__(self, every: int) -> None:
        self.every, self.count, self.found = every, 0, []
        gc.freeze()  # what is there already need not be counted

    def __call__(self, *_: object) -> None:
        """Count one more."""
        self.count += 1
        if self.count % self.every == 0:
            self.found.append((self.count, *usage()))


def leak(meter: Meter, folder: Path) -> None:
    """2,000 times keep 8 kB, and sometimes a file."""
    kept = []
    for number in range(2000):
        kept.append(np.ones(1024))
        if number % 500 == 400:
            kept.append((folder / str(number)).open("w"))
        meter()


def training(meter: Meter, folder: Path) -> None:
    """2,000 steps with 10 evaluations, 20 checkpoints, TensorBoard and a data worker."""

    class Measure(HookBase):
        def after_step(self) -> None:
            meter()

    shallow = ["MODEL.MTACLIP.DECODER.LAYERS", "1", "MODEL.MTACLIP.PIXEL_DECODER.LAYERS", "1"]
    periods = ["SOLVER.MAX_ITER", "2000", "SOLVER.CHECKPOINT_PERIOD", "100", "TEST.EVAL_PERIOD", "200"]
    options = [*SMALL, *shallow, *periods]
    trainer = Trainer(setup_cfg(TINY, [*options, "OUTPUT_DIR", str(folder)], device="cpu"))
    trainer.register_hooks([Measure()])
    trainer.train()


def evaluation(meter: Meter, folder: Path) -> None:
    """2,000 images in one evaluation."""
    cfg = with_images(2000, folder)
    model = Trainer.build_model(cfg)
    model.register_forward_hook(meter)
    Trainer.test(cfg, model)


def evaluations(meter: Meter, folder: Path) -> None:
    """100 evaluations of four images."""
    cfg = with_images(4, folder)
    model = Trainer.build_model(cfg)
    for _ in range(100):
        Trainer.test(cfg, model)
        meter()


def pictures(meter: Meter, folder: Path) -> None:
    """500 pictures as demo.py segments and draws them."""
    segmenter, painter = demo(meter)
    files = [(write_noise(folder / f"{number}.png", number), str(number)) for number in range(500)]
    (folder / "out").mkdir()
    assert segment_images(files, segmenter, painter, folder / "out", ["overlay", "legend", "confidence"]) == 0


def film(meter: Meter, folder: Path) -> None:
    """A film of 500 frames."""
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (128, 64))
    for number in range(500):
        writer.write(noise(number))
    writer.release()
    segmenter, painter = demo(meter)
    (folder / "out").mkdir()
    files = [(folder / "clip.mp4", "clip")]
    assert segment_videos(files, segmenter, painter, folder / "out", ["overlay", "ids", "legend"]) == 0


def page(meter: Meter, folder: Path) -> None:
    """200 pictures on the page, each with a view, labels and numbers to save."""
    models = Models([Path(os.environ["CHECKPOINT"])], device="cpu")
    (checkpoint,) = models.files
    for number in range(200):
        opened = open_picture(models, checkpoint, write_noise(folder / "picture.png", number))
        assert show(opened, opened.views[number % len(opened.views)], "", folder).files
        meter()


def with_images(count: int, folder: Path) -> CfgNode:
    """A configuration that evaluates so many images; they are few, under many names."""
    files = DatasetCatalog.get("cityscapes_sem_seg_val")
    records = [own_copy(files[number % len(files)], folder, number) for number in range(count)]
    metadata = MetadataCatalog.get("cityscapes_sem_seg_val").as_dict()
    DatasetCatalog.register("many", lambda: records)
    MetadataCatalog.get("many").set(**{key: value for key, value in metadata.items() if key != "name"})
    return setup_cfg(TINY, [*SMALL, "DATASETS.TEST", "('many',)", "OUTPUT_DIR", str(folder)], device="cpu")


def own_copy(record: dict, folder: Path, number: int) -> dict:
    """The same image and labels under other names."""
    copies = {}
    for key in ("file_name", "sem_seg_file_name"):
        copies[key] = str(folder / f"{number}_{Path(record[key]).name}")
        Path(copies[key]).symlink_to(record[key])
    return record | copies


def demo(meter: Meter) -> tuple[Segmenter, Painter]:
    """What demo.py makes of a checkpoint; the model counts its images."""
    predictor = load_predictor(Path(os.environ["CHECKPOINT"]), device="cpu", opts=[])
    predictor.model.register_forward_hook(meter)
    return Segmenter(predictor, with_confidence=True), Painter(predictor.palette)


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (64, 128, 3), np.uint8)


def write_noise(file: Path, seed: int) -> Path:
    Image.fromarray(noise(seed)).save(file)
    return file


WORK = {work.__name__: work for work in (leak, training, evaluation, evaluations, pictures, film, page)}


def measure(name: str, every: int, folder: Path, **variables: str) -> NDArray[np.float64]:
    """The measurements of a process that does nothing but this work: rows of units done and `usage`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, __file__, name, str(every), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return np.array(json.loads((folder / "usage.json").read_text()), float)


def growth(found: NDArray[np.float64]) -> dict[str, float]:
    """Growth per unit in the second half by name.

    Of memory it is the median slope between two measurements: what threads are at work on comes and goes. Of threads,
    files and processes it is the least of the last quarter less that of the third: a data worker may just be handing a
    file over.
    """
    half = found[len(found) // 2 :]
    third, last = np.array_split(half, 2)
    units = half[-1, 0] - half[0, 0]
    memory = theilslopes(half[:, 1], half[:, 0]).slope
    slopes = {name: np.polyfit(half[:, 0], half[:, place], 1)[0] for place, name in enumerate(NAMES[1:3], start=2)}
    counts = {name: last[:, place].min() - third[:, place].min() for place, name in enumerate(NAMES[3:], start=4)}
    return {"memory": memory, **slopes, **counts, "units": units}


def test_a_leak_is_seen(tmp_path):
    """8 kB and, besides its list, no object that the garbage collector knows; a file more in the last quarter."""
    grown = growth(measure("leak", 20, tmp_path))
    assert grown["memory"] == pytest.approx(8192, rel=0.1) and grown["memory"] * grown["units"] > LIMIT
    assert grown["files"] == 1 and grown["threads"] == grown["processes"] == 0


def test_a_training_keeps_the_last_values_of_a_loss(miniature, tmp_path):
    """Those of a step are a few kB, of which a long training takes hundreds of thousands."""

    class Many(HookBase):
        def after_step(self) -> None:
            for value in range(3000):
                self.trainer.storage.put_scalar("many", value)

    options = [*SMALL, "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0"]
    trainer = Trainer(setup_cfg(TINY, [*options, "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path)], device="cpu"))
    trainer.register_hooks([Many()])
    trainer.train()
    history = trainer.storage.history("many")
    assert [value for value, _ in history.values()] == list(range(2000, 3000))
    assert history.global_avg() == pytest.approx(1499.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "every", "what"),
    [
        ("training", 20, "2,000 steps, 20 checkpoints, 10 evaluations"),
        ("evaluation", 20, "2,000 images in one evaluation"),
        ("evaluations", 2, "100 evaluations"),
        ("pictures", 1, "500 pictures of demo.py"),
        ("film", 5, "a film of 500 frames"),
        ("page", 1, "200 pictures on the page"),
    ],
)
def test_nothing_grows(miniature_root, tiny_checkpoint, tmp_path, row, name, every, what):
    checkpoint = str(tiny_checkpoint("mtaclip"))
    grown = growth(measure(name, every, tmp_path, DETECTRON2_DATASETS=str(miniature_root), CHECKPOINT=checkpoint))
    bound = LIMIT / grown["units"]
    row(
        "leaks",
        what,
        f"{grown['memory'] / 1024:+.2f} kB",
        f"{bound / 1024:.0f} kB",
        f"{grown['objects']:+.2f}",
        " / ".join(f"{grown[name]:+.0f}" for name in NAMES[3:]),
    )
    assert grown["memory"] < bound
    assert grown["objects"] < OBJECTS.get(name, 1) and grown["mappings"] < 0.1
    assert all(grown[name] <= 0 for name in NAMES[3:]), grown


if __name__ == "__main__":
    meter = Meter(int(sys.argv[2]))
    WORK[sys.argv[1]](meter, Path(sys.argv[3]))
    (Path(sys.argv[3]) / "usage.json").write_text(json.dumps(meter.found))
