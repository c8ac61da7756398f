"""Broken files of a training set: an error by default, a counted replacement on demand. Real files and workers."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtaclip.data.build import build_train_loader

BATCHES = 8  # two of them show all eight records


@pytest.fixture
def rooms(register_rooms):
    """Eight images with labels 0 and 1."""
    return register_rooms(8, (0, 1))


@pytest.fixture
def cfg(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 4
    return cfg


def cut_off(path):
    Path(path).write_bytes(Path(path).read_bytes()[:-40])


@pytest.fixture
def samples(read_batches):
    """A function of a loader and a number of batches: their samples."""
    return lambda loader, batches=BATCHES: sum(read_batches(loader, batches), [])


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_the_first_broken_file_ends_the_run(rooms, cfg, workers, samples):
    cfg.DATALOADER.NUM_WORKERS = workers
    cut_off(rooms[3]["file_name"])
    with pytest.raises(ValueError, match="^image .*3.png cannot be read"):
        samples(build_train_loader(cfg))
    Path(rooms[3]["file_name"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"^image \S*3.png does not exist\.$"):
        samples(build_train_loader(cfg))


def break_four(rooms, tmp_path):
    """One missing and one damaged image, labels with a wrong value, and labels of another size."""
    Path(rooms[0]["file_name"]).unlink()
    cut_off(rooms[1]["file_name"])
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(rooms[2]["sem_seg_file_name"])
    Image.fromarray(np.zeros((24, 31), np.uint8)).save(rooms[3]["sem_seg_file_name"])
    return {str(tmp_path / name) for name in ("0.png", "1.png", "2_labels.png", "3_labels.png")}


def test_tolerated_files_are_replaced_logged_once_and_listed(rooms, cfg, tmp_path, caplog, samples):
    broken = break_four(rooms, tmp_path)
    cfg.DATALOADER.TOLERATE_BROKEN = 4
    loader = build_train_loader(cfg)
    with caplog.at_level(logging.WARNING, "mtaclip"):
        found = samples(loader)
    assert {sample["image_id"] for sample in found} == {"4", "5", "6", "7"}
    assert all(sample["image"].shape == (3, 12, 12) for sample in found)
    assert len({frozenset(sample) for sample in found}) == 1  # nothing is left of the replacement
    assert set(loader.broken) == broken
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    for path in broken:
        assert sum(path in message for message in messages) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mtaclip"):
        loader.log_broken()
    (listed,) = (record.getMessage() for record in caplog.records)
    assert listed.startswith("4 broken file(s)")
    assert all(path in listed for path in broken)
    for reason in ("0.png does not exist", "1.png cannot be read", "value(s) 7", "24 x 31"):
        assert reason in listed


def test_one_more_than_tolerated_is_an_error_that_lists_them(rooms, cfg, tmp_path, samples):
    broken = break_four(rooms, tmp_path)
    cfg.DATALOADER.TOLERATE_BROKEN = 3
    with pytest.raises(ValueError, match="4 training files are broken.*DATALOADER.TOLERATE_BROKEN is 3") as error:
        samples(build_train_loader(cfg))
    assert all(path in str(error.value) for path in broken)


def test_replacements_depend_on_seed_and_number_alone(rooms, cfg, tmp_path, samples):
    break_four(rooms, tmp_path)
    cfg.DATALOADER.TOLERATE_BROKEN = 4
    first = samples(build_train_loader(cfg, seed=5))
    cfg.DATALOADER.NUM_WORKERS = 0
    for found in (
        samples(build_train_loader(cfg, seed=5)),
        first[:8] + samples(build_train_loader(cfg, seed=5, start=2), 6),
    ):
        for sample, twin in zip(first, found, strict=True):
            assert sample["file_name"] == twin["file_name"]
            assert torch.equal(sample["image"], twin["image"])
            assert torch.equal(sample["sem_seg"], twin["sem_seg"])
    replaced = [sample["file_name"] for sample in samples(build_train_loader(cfg, seed=6))]
    assert replaced != [sample["file_name"] for sample in first]


def test_intact_samples_are_the_same_with_and_without_tolerance(rooms, cfg, samples):
    strict = samples(build_train_loader(cfg))
    cut_off(rooms[3]["file_name"])
    cfg.DATALOADER.TOLERATE_BROKEN = 1
    for sample, twin in zip(strict, samples(build_train_loader(cfg)), strict=True):
        assert (sample["image_id"] == twin["image_id"]) == (sample["image_id"] != "3")
        if sample["image_id"] != "3":
            assert torch.equal(sample["image"], twin["image"])


def test_a_dataset_without_an_intact_file_ends_in_the_error_of_one(rooms, cfg, samples):
    for record in rooms:
        cut_off(record["file_name"])
    cfg.DATALOADER.TOLERATE_BROKEN = 100
    with pytest.raises(ValueError, match="png cannot be read"):
        samples(build_train_loader(cfg), 1)


def test_errors_that_are_not_of_a_file_are_never_tolerated(rooms, cfg, samples):
    cfg.DATALOADER.TOLERATE_BROKEN = 100
    for record in rooms:
        record["label_format"] = "coco"
    with pytest.raises(ValueError, match="unknown label format 'coco'"):
        samples(build_train_loader(cfg), 1)


def test_a_negative_number_is_refused(rooms, cfg):
    cfg.DATALOADER.TOLERATE_BROKEN = -1
    with pytest.raises(ValueError, match="DATALOADER.TOLERATE_BROKEN is -1"):
        build_train_loader(cfg)
