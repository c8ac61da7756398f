"""A checkpoint knows its classes: used with the same number of others, or in another order, it says so."""

from pathlib import Path

import pytest

from mtaclip.engine import Trainer, setup_cfg
from mtaclip.predictor import Predictor
from projects.MTACLIP.train_net import evaluate

TINY = ["DATALOADER.NUM_WORKERS", "0", "TEST.SNAPSHOTS", "0"]


@pytest.fixture(scope="module")
def configure(shapes, config_path, tmp_path_factory):
    """A function from config keys and values to the config of a tiny model of four classes."""
    folder = str(tmp_path_factory.mktemp("run"))

    def make(*opts):
        fixed = ["DATASETS.FOLDER.ROOT", str(shapes), "OUTPUT_DIR", folder, *TINY]
        return setup_cfg(config_path("custom/mtaclip_tiny.yaml"), [*fixed, *map(str, opts)], device="cpu")

    return make


@pytest.fixture(scope="module")
def names(shapes) -> list[str]:
    lines = (shapes / "classes.txt").read_text().splitlines()
    return [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def checkpoint(configure) -> Path:
    cfg = configure()
    Trainer(cfg).checkpointer.save("model_start", iteration=-1)
    return Path(cfg.OUTPUT_DIR) / "model_start.pth"


def of_classes(log: list[str]) -> list[str]:
    return [message for message in log if "other class names" in message]


def test_the_same_names_are_no_news(configure, checkpoint, names, log):
    written = [name.upper() for name in names]
    Predictor(configure("MODEL.WEIGHTS", checkpoint, "DATASETS.FOLDER.NAMES", repr(tuple(written))))
    Predictor.from_checkpoint(checkpoint, "cpu")
    assert of_classes(log) == []


@pytest.mark.parametrize("use", [Predictor, evaluate], ids=["a prediction", "an evaluation"])
def test_another_order_is_told(configure, checkpoint, names, use, log):
    swapped = (names[0], names[2], names[1], names[3])
    use(configure("MODEL.WEIGHTS", checkpoint, "DATASETS.FOLDER.NAMES", repr(swapped)))
    (message,) = of_classes(log)
    assert str(checkpoint) in message and f"class 1 was {names[1]!r} and is {names[2]!r} here; 2 of 4" in message


def test_a_training_compares_unless_classes_start_anew(configure, checkpoint, names, log):
    start = ["MODEL.WEIGHTS", checkpoint, "DATASETS.FOLDER.NAMES", repr(tuple(reversed(names)))]
    Trainer(configure(*start)).resume_or_load(resume=False)
    assert len(of_classes(log)) == 1
    Trainer(configure(*start, "MODEL.WEIGHTS_REINIT", "('classes',)")).resume_or_load(resume=False)
    assert len(of_classes(log)) == 1
