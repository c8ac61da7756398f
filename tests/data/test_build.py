"""Loaders with real files and real worker processes, and the check of the dataset against the config."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from PIL import Image

from mtaclip.data.build import build_test_loader, build_train_loader, check_dataset
from mtaclip.data.sampling import BatchNumbers, TrainingSamples

NAME = "data_test_rooms"


@pytest.fixture
def rooms(register_rooms):
    """Three images with labels 0, 1 and 255."""
    return register_rooms(3, (0, 1, 255))


@pytest.fixture
def first_batches(read_batches):
    """A function of a config and a seed: the first batches, from `start` on."""
    return lambda cfg, seed, count=4, start=0: read_batches(build_train_loader(cfg, seed=seed, start=start), count)


def test_training_batches_from_two_workers(rooms, cfg, first_batches):
    for batch in first_batches(cfg, 0):
        assert len(batch) == 2
        for sample in batch:
            assert sample["image"].dtype == sample["sem_seg"].dtype == torch.uint8
            assert sample["image"].shape == (3, 12, 12)
            assert sample["sem_seg"].shape == (12, 12)


def assert_same_samples(first, second):
    for sample, twin in zip(sum(first, []), sum(second, []), strict=True):
        assert sample["file_name"] == twin["file_name"]
        assert torch.equal(sample["image"], twin["image"])
        assert torch.equal(sample["sem_seg"], twin["sem_seg"])


def test_a_seed_reproduces_the_batches_whatever_the_number_of_workers(rooms, cfg, first_batches):
    first, other = first_batches(cfg, 5), first_batches(cfg, 6)
    for workers in (2, 1, 0):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert_same_samples(first, first_batches(cfg, 5))
    pairs = zip(sum(first, []), sum(other, []), strict=True)
    assert any(not torch.equal(sample["image"], twin["image"]) for sample, twin in pairs)


def test_workers_draw_different_augmentations(rooms, cfg, first_batches):
    # One image only: batches come from the workers in turn, and what differs can only be the augmentation.
    del rooms[1:]
    cfg.SOLVER.IMS_PER_BATCH = 1
    first, second = first_batches(cfg, 0, count=2)
    assert first[0]["file_name"] == second[0]["file_name"]
    assert not torch.equal(first[0]["image"], second[0]["image"])


@pytest.mark.parametrize(("batch", "numbers"), [(1, [["0"], ["1"], ["2"]]), (2, [["0", "1"], ["2"]])])
def test_test_loader_gives_every_image_once_in_order(rooms, cfg, batch, numbers):
    cfg.MODEL.DEVICE, cfg.TEST.IMS_PER_BATCH = "cpu", batch
    batches = list(build_test_loader(cfg, NAME))
    assert [[sample["image_id"] for sample in batch] for batch in batches] == numbers
    assert batches[0][0]["image"].shape == (3, 24, 32)
    assert "sem_seg" not in batches[0][0]


def test_nothing_to_evaluate_is_one_sentence(rooms, cfg):
    cfg.TEST.IMS_PER_BATCH = 0
    with pytest.raises(ValueError, match=r"TEST\.IMS_PER_BATCH must be positive"):
        build_test_loader(cfg, NAME)
    cfg.TEST.IMS_PER_BATCH = 1
    rooms.clear()
    with pytest.raises(ValueError, match=rf"dataset '{NAME}' is empty"):
        build_test_loader(cfg, NAME)


def test_an_error_in_a_worker_names_the_file(rooms, cfg, first_batches):
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(rooms[0]["sem_seg_file_name"])
    del rooms[1:]
    with pytest.raises(ValueError, match=r"0_labels.png holds the value\(s\) 7"):
        first_batches(cfg, 0)


def test_dataset_and_config_agree(rooms):
    check_dataset(NAME, 2, 255)


def test_class_count_must_agree(rooms, cfg):
    with pytest.raises(ValueError, match="NUM_CLASSES is 54 but dataset 'data_test_rooms' has 2 classes"):
        check_dataset(NAME, 54, 255)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    for build in (lambda: build_train_loader(cfg), lambda: build_test_loader(cfg, NAME)):
        with pytest.raises(ValueError, match="MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3"):
            build()


def test_a_single_class_is_refused(rooms):
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(stuff_classes=["wall"], ignore_label=255)
    with pytest.raises(ValueError, match="the single class 'wall'"):
        check_dataset(NAME, 1, 255)


def test_ignore_labels_must_agree(rooms):
    with pytest.raises(ValueError, match="IGNORE_VALUE is 254 and dataset 'data_test_rooms' ignores label 255"):
        check_dataset(NAME, 2, 254)


def test_metadata_must_be_there(rooms):
    MetadataCatalog.remove(NAME)
    with pytest.raises(ValueError, match="has no 'stuff_classes' in its metadata"):
        check_dataset(NAME, 2, 255)


def test_detectron2s_default_ignore_value_fits():
    assert get_cfg().MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 255
    check_dataset("cityscapes_sem_seg_train", 19, 255)
    check_dataset("ade20k_150_sem_seg_val", 150, 255)


def test_a_loader_that_starts_later_goes_on_with_the_same_samples(rooms, cfg, first_batches):
    assert_same_samples(first_batches(cfg, 5, 4)[2:], first_batches(cfg, 5, 2, start=2))


def test_a_divided_batch_holds_the_same_samples(rooms, cfg, first_batches):
    whole = first_batches(cfg, 5)
    cfg.SOLVER.ACCUMULATE = 2
    assert_same_samples(whole, first_batches(cfg, 5, 8))
    assert_same_samples(whole[3:], first_batches(cfg, 5, 2, start=3))


def test_processes_share_the_samples_of_an_iteration():
    one = iter(BatchNumbers(8, rank=0, world_size=1))
    shares = [iter(BatchNumbers(8, rank, world_size=2, parts=2)) for rank in range(2)]
    for _ in range(3):
        parts = [next(share) for share in shares for _ in range(2)]
        assert [len(part) for part in parts] == [2] * 4
        assert sum(parts, []) == next(one)


def test_a_pass_shows_every_record_once():
    samples = TrainingSamples([{"id": i} for i in range(7)], lambda record: record["id"], seed=3)
    passes = [[samples[n] for n in range(7 * p, 7 * p + 7)] for p in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(7))
    assert passes[0] != passes[1]


def test_a_batch_that_cannot_be_divided_is_refused(rooms, cfg):
    cfg.SOLVER.ACCUMULATE = 3
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH 2 .*ACCUMULATE 3 times 1 process"):
        build_train_loader(cfg)
