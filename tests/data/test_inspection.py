"""What is counted in a dataset, by hand."""

import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image

from mtaclip.data.inspection import SIZES, TWICE, UNUSABLE, VALUES, Summary, add_duplicates, inspect_records


@pytest.fixture
def write_record(tmp_path):
    """A function that writes an image of one grey and, if there are any, labels; returns the record."""

    def write(name, labels=None, grey=0, size=(1, 4), label_format="train_ids"):
        image, label = tmp_path / f"{name}.png", tmp_path / f"{name}_labels.png"
        Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(image)
        record = {"file_name": str(image)}
        if labels is not None:
            Image.fromarray(np.array(labels, np.uint8)).save(label)
            record |= {"sem_seg_file_name": str(label), "label_format": label_format}
        return record

    return write


def summarise(records, names=("a", "b", "c"), name="set", workers=0) -> Summary:
    summary = Summary(name, names)
    for record, finding in zip(records, inspect_records(records, workers), strict=True):
        summary.add(record, finding)
    return summary


@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_images_and_sizes(write_record, workers):
    records = [
        write_record("x", [[0, 0, 1, 255]]),
        write_record("y", [[0, 0, 0, 0]]),
        write_record("z", [[1], [1]], size=(2, 1)),
        write_record("without"),
    ]
    summary = summarise(records, workers=workers)
    assert summary.classes().tolist() == [[6, 3, 0, 1], [2, 2, 0, 1]]
    assert summary.missing_classes() == ["c"]
    assert summary.sizes == {(1, 4): 3, (2, 1): 1}
    assert (summary.num_images, summary.num_labelled, summary.usable) == (4, 3, [0, 1, 2])
    assert summary.all_problems() == {}


def test_labels_are_counted_as_their_format_means_them(write_record):
    ade20k = write_record("x", [[0, 1, 3, 3]], label_format="ade20k")
    summary = summarise([ade20k, write_record("y", [[0, 1, 1, 1]])])
    # a: one pixel each; b: three of y; c: value 3 of x; without label: value 0 of x
    assert summary.classes().tolist() == [[2, 3, 2, 1], [2, 1, 1, 1]]


def test_values_that_are_no_class_are_counted_with_their_first_file(write_record):
    records = [write_record("x", [[0, 7, 7, 9]]), write_record("y", [[7, 0, 0, 0]])]
    summary = summarise(records)
    first, second = summary.all_problems()[VALUES]
    assert first.startswith(f"7 in 2 label map(s), 3 pixel(s), first in {records[0]['sem_seg_file_name']}")
    assert second.startswith("9 in 1 label map(s), 1 pixel(s)")
    assert summary.usable == []


def test_files_that_cannot_be_used_are_named(write_record, tmp_path):
    broken, coloured, cut = write_record("x", [[0] * 4]), write_record("y", [[0] * 4]), write_record("z", [[0] * 3])
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:40])
    Image.new("RGB", (4, 1)).save(coloured["sem_seg_file_name"])
    summary = summarise([broken, coloured, cut, {"file_name": str(tmp_path / "gone.png")}])
    problems = summary.all_problems()
    assert [sentence.split(" ")[:2] for sentence in problems[UNUSABLE]] == [
        ["image", broken["file_name"]],
        ["label", "map"],
        ["image", str(tmp_path / "gone.png")],
    ]
    assert "colour picture" in problems[UNUSABLE][1]
    assert problems[SIZES] == [f"image {cut['file_name']} is 1 x 4, its label map 1 x 3 (height x width)."]
    assert (summary.num_images, summary.num_labelled, summary.usable) == (4, 2, [])


def test_workers_are_no_more_than_a_few_per_core(write_record, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    findings = inspect_records([write_record("a")] * 9, workers=10**9)
    next(findings)
    assert len(multiprocessing.active_children()) == 4
    assert len(list(findings)) == 8


def test_an_image_of_two_datasets_is_named_in_the_later_one(write_record):
    train = summarise([write_record("a", grey=1), write_record("b", grey=2)], name="train")
    copy = write_record("c", grey=2)
    val = summarise([copy, write_record("d", grey=3)], name="val")
    add_duplicates([train, val])
    original = copy["file_name"].replace("c.png", "b.png")
    assert train.all_problems() == {}
    assert val.all_problems() == {TWICE: [f"{copy['file_name']} is {original} of train."]}


def test_a_file_of_two_datasets_is_named_in_the_later_one(write_record):
    record = write_record("a")
    train, val = (summarise([record], name=name) for name in ("train", "val"))
    add_duplicates([train, val])
    assert train.all_problems() == {}
    assert val.all_problems() == {TWICE: [f"{record['file_name']} is also an image of train."]}
