"""What leaves the data worker: the right tensors, the right pixels, and nothing else."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from PIL import Image

from mtaclip import add_mtaclip_config
from mtaclip.data.image_files import read_image
from mtaclip.data.labels import read_label_map
from mtaclip.data.mapper import SemanticMapper, to_tensors


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    cfg.INPUT.MAX_SIZE_TRAIN = 160
    cfg.INPUT.MIN_SIZE_TEST = 20
    cfg.INPUT.MAX_SIZE_TEST = 1000
    cfg.INPUT.SCALE_RANGE = (1.0, 1.0)
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [16, 24]
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.COLOR_AUG = False
    return cfg


@pytest.fixture
def record(tmp_path):
    """A 40 x 60 image, red on the left and blue on the right, with labels 0, 2 and an ignored last row."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30, 0] = 255
    image[:, 30:, 2] = 255
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 2
    labels[-1] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "a_labels.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": "a",
        "sem_seg_file_name": str(tmp_path / "a_labels.png"),
        "label_format": "train_ids",
        "something_else": [1, 2, 3],
    }


def test_training_sample_without_randomness_is_the_file(cfg, record):
    sample = SemanticMapper(cfg, True)(record)
    assert set(sample) == set(record) - {"something_else"} | {"height", "width", "image", "sem_seg"}
    assert (sample["height"], sample["width"]) == (40, 60)
    assert sample["image"].dtype == sample["sem_seg"].dtype == torch.uint8
    assert sample["image"].shape == (3, 40, 60)
    assert sample["image"][:, 0, 0].tolist() == [255, 0, 0]
    assert sample["image"][:, 0, 59].tolist() == [0, 0, 255]
    assert sample["sem_seg"][0, [0, 29, 30, 59]].tolist() == [0, 0, 2, 2]
    assert (sample["sem_seg"][39] == 255).all()


def test_training_sample_augmented_together(cfg, record):
    cfg.INPUT.SCALE_RANGE = (0.5, 2.0)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapper = SemanticMapper(cfg, True)
    flipped = 0
    for seed in range(40):
        np.random.seed(seed)
        sample = mapper(record)
        assert sample["image"].shape == (3, 16, 24)
        assert (sample["height"], sample["width"]) == (40, 60)
        red, blue, labels = sample["image"][0] > 250, sample["image"][2] > 250, sample["sem_seg"]
        assert torch.isin(labels, torch.tensor([0, 2, 255], dtype=torch.uint8)).all()
        # Red stays class 0 and blue class 2, but for the one column where the interpolated edge may be off by one.
        assert ((labels == 2) & red).sum() <= 16
        assert ((labels == 0) & blue).sum() <= 16
        flipped += int(labels[0, 0] == 2 and labels[0, -1] == 0)
    assert flipped > 5


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_training_samples_are_those_of_a_whole_image(cfg, record, image_format, crop):
    """However little of the file a window needs, its pixels are what the augmentations make of all of it."""
    cfg.INPUT.SCALE_RANGE = (0.5, 2.0)
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.COLOR_AUG = True
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(record["file_name"], format=image_format)
    mapper = SemanticMapper(cfg, True)
    for seed in range(40):
        np.random.seed(seed)
        whole = T.AugInput(read_image(record["file_name"]), sem_seg=read_label_map(record["sem_seg_file_name"]))
        mapper.augmentations(whole)
        np.random.seed(seed)
        sample = mapper(record)
        for key, tensor in to_tensors(whole.image, whole.sem_seg).items():
            assert torch.equal(sample[key], tensor)


def test_colours_change_only_on_demand(cfg, record):
    cfg.INPUT.COLOR_AUG = True
    plain = SemanticMapper(cfg, False)(record)["image"]
    changed = 0
    for seed in range(10):
        np.random.seed(seed)
        sample = SemanticMapper(cfg, True)(record)
        changed += not torch.equal(sample["image"][:, 0, 0], plain[:, 0, 0])
        assert (sample["sem_seg"][0, :30] == 0).all()
    assert changed >= 5


def test_test_sample_is_resized_and_has_no_labels(cfg, record):
    sample = SemanticMapper(cfg, False)(record)
    assert "sem_seg" not in sample
    assert sample["sem_seg_file_name"] == record["sem_seg_file_name"]
    assert (sample["height"], sample["width"]) == (40, 60)
    assert sample["image"].shape == (3, 20, 30)


def test_size_zero_keeps_the_original_and_negative_sizes_are_refused(cfg, record):
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert SemanticMapper(cfg, False)(record)["image"].shape == (3, 40, 60)
    cfg.INPUT.MIN_SIZE_TEST = -1
    with pytest.raises(ValueError, match="INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST must be positive"):
        SemanticMapper(cfg, False)


def test_labels_are_not_opened_at_test_time(cfg, record):
    SemanticMapper(cfg, False)(record | {"sem_seg_file_name": "/nowhere.png"})
    del record["sem_seg_file_name"], record["label_format"]
    assert set(SemanticMapper(cfg, False)(record)) == {"file_name", "image_id", "height", "width", "image"}


def test_sizes_of_image_and_labels_must_agree(cfg, record, tmp_path):
    Image.fromarray(np.zeros((40, 59), np.uint8)).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError) as error:
        SemanticMapper(cfg, True)(record | {"sem_seg_file_name": str(tmp_path / "narrow.png")})
    for part in (record["file_name"], "40 x 60", "narrow.png", "40 x 59"):
        assert part in str(error.value)


def test_labels_outside_the_class_count_name_the_file(cfg, record):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    with pytest.raises(ValueError, match=r"a_labels.png holds the value\(s\) 2,.*allowed: 0..1, 255"):
        SemanticMapper(cfg, True)(record)


def test_training_needs_labels(cfg, record):
    del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match="a.png has no labels"):
        SemanticMapper(cfg, True)(record)


def test_a_record_without_format_holds_train_ids(cfg, record):
    del record["label_format"]
    assert SemanticMapper(cfg, True)(record)["sem_seg"][0, 59] == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is 'BGR'.*set it to 'RGB'"),
        ("INPUT.RANDOM_FLIP", "vertical", "INPUT.RANDOM_FLIP must be 'horizontal' or 'none', got 'vertical'"),
        ("INPUT.MIN_SIZE_TRAIN", (256, 512), r"INPUT.MIN_SIZE_TRAIN must hold one size, got \(256, 512\)"),
        ("INPUT.MAX_SIZE_TRAIN", 0, "INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN must be positive .*got 40 and 0"),
        ("INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.TYPE is 'relative_range'.*set it to 'absolute'"),
        ("INPUT.CROP.SIZE", [0.9, 0.9], "INPUT.CROP.SIZE must be"),
    ],
)
def test_unsupported_keys_are_named(cfg, key, value, message):
    cfg.INPUT.CROP.ENABLED = True
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        SemanticMapper(cfg, True)
