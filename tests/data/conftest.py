"""A small dataset of the user's own, a configuration that reads it, and a reader of batches."""

import traceback

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mtaclip.config import add_mtaclip_config

NAME = "data_test_rooms"


@pytest.fixture
def register_rooms(tmp_path):
    """A function of a number and of labels: registers so many 24 x 32 images of noise and returns their records."""
    rng = np.random.default_rng(0)
    records = []

    def register(count, labels):
        for index in range(count):
            image, label_map = tmp_path / f"{index}.png", tmp_path / f"{index}_labels.png"
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(image)
            Image.fromarray(rng.choice(np.array(labels, np.uint8), (24, 32))).save(label_map)
            records.append({"file_name": str(image), "image_id": str(index), "sem_seg_file_name": str(label_map)})
        return records

    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(stuff_classes=["floor", "wall"], ignore_label=255)
    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def read_batches():
    """A function of a loader and a number: the first so many batches, after which the workers have ended."""

    def read(loader, count):
        batches = iter(loader)
        try:
            return [next(batches) for _ in range(count)]
        except Exception as error:
            # The frames would keep the workers until some garbage collection, which waits five seconds for each.
            traceback.clear_frames(error.__traceback__)
            raise

    return read


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.INPUT.MIN_SIZE_TEST = 24
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [12, 12]
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 2
    return cfg
