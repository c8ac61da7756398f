"""Images that every evaluation draws."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image

from mtaclip.evaluation.gallery import IGNORED, WRONG
from mtaclip.evaluation.snapshots import SnapshotEvaluator

DATASET = "snapshots_test"
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def records(tmp_path):
    """Ten grey photos of 200 x 300; the truth is class 0 at the left, 1 at the right, ignored at the top."""
    MetadataCatalog.pop(DATASET, None)
    MetadataCatalog.get(DATASET).set(stuff_classes=["a", "b", "c"], stuff_colors=list(COLOURS))
    truth = np.zeros((200, 300), np.uint8)
    truth[:, 150:] = 1
    truth[:20] = 255
    found = []
    for number in range(10):
        photo, labels = tmp_path / f"photo{number}.png", tmp_path / f"labels{number}.png"
        Image.fromarray(np.full((200, 300, 3), 100, np.uint8)).save(photo)
        Image.fromarray(truth).save(labels)
        found.append({"file_name": str(photo), "sem_seg_file_name": str(labels)})
    return found


def evaluate(evaluator, records):
    evaluator.reset()
    for record in records:
        evaluator.process([record], [{"labels": torch.zeros(200, 300, dtype=torch.uint8)}])
    assert evaluator.evaluate() == {}


def names(folder):
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize(("count", "numbers"), [(0, []), (1, [0]), (4, [0, 2, 5, 7]), (20, range(10))])
def test_images_are_evenly_spaced_and_always_the_same(records, tmp_path, count, numbers):
    evaluator = SnapshotEvaluator(DATASET, records, count, tmp_path / "out")
    for order in (records, records[::-1]):
        evaluate(evaluator, order)
        assert names(tmp_path / "out") == [f"photo{number}.png" for number in numbers]


def test_what_a_killed_write_has_left_is_removed(records, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".photo0.png.0.partial").write_bytes(b"half")
    evaluate(SnapshotEvaluator(DATASET, records, 1, tmp_path / "out"), records)
    assert names(tmp_path / "out") == ["photo0.png"]


def test_a_row_shows_photo_prediction_truth_and_errors(records, tmp_path):
    evaluate(SnapshotEvaluator(DATASET, records[:1], 1, tmp_path / "out"), records)
    row = np.array(Image.open(tmp_path / "out" / "photo0.png"))
    assert row.shape == (200, 4 * 300 + 3 * 6, 3)
    photo, prediction, truth, errors = (row[:, 306 * i : 306 * i + 300].astype(int) for i in range(4))
    assert (abs(photo - 100) < 4).all()  # a JPEG in between
    for panel, x, colour in ((prediction, 290, COLOURS[0]), (truth, 10, COLOURS[0]), (truth, 290, COLOURS[1])):
        assert abs(panel[190, x] - (100 + np.array(colour)) / 2).max() < 8
    assert errors[190, 290].tolist() == list(WRONG)
    assert errors[5, 290].tolist() == list(IGNORED)
    assert errors[190, 10].max() < 60


def test_in_training_they_are_named_by_iteration_and_shown_in_tensorboard(records, tmp_path):
    with EventStorage(start_iter=41) as storage:
        evaluate(SnapshotEvaluator(DATASET, records[:2], 2, tmp_path / "out"), records)
        assert [(name, image.shape, i) for name, image, i in storage._vis_data] == [
            (f"{DATASET}/photo{number}", (3, 200, 1218), 41) for number in range(2)
        ]
    assert names(tmp_path / "out") == ["photo0_0000041.png", "photo1_0000041.png"]


def test_what_cannot_be_written_is_only_logged(records, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mtaclip"), "propagate", True)
    (tmp_path / "out").write_bytes(b"")
    evaluate(SnapshotEvaluator(DATASET, records[:1], 1, tmp_path / "out"), records)
    assert "photo0.png: not written" in caplog.text


def test_images_without_labels_are_not_chosen(records, tmp_path):
    records[0].pop("sem_seg_file_name")
    evaluate(SnapshotEvaluator(DATASET, records[:2], 2, tmp_path / "out"), records)
    assert names(tmp_path / "out") == ["photo1.png"]


def test_images_of_one_name_keep_apart(records, tmp_path):
    for number, record in enumerate(records[:2]):
        photo = tmp_path / f"folder{number}" / "photo.png"
        photo.parent.mkdir()
        record["file_name"] = str(Path(record["file_name"]).rename(photo))
    evaluate(SnapshotEvaluator(DATASET, records[:3], 3, tmp_path / "out"), records)
    assert names(tmp_path / "out") == ["folder0_photo.png", "folder1_photo.png", "photo2.png"]
