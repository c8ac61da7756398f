import numpy as np
import pytest
from PIL import Image

from mtaclip.alignment import AlignedMasks, collect
from mtaclip.data.datasets import get_records
from mtaclip.data.labels import read_label_map
from mtaclip.predictor import Predictor

MANY = ["MODEL.MTACLIP.DECODER.NUM_QUERIES", "30"]


def test_every_true_class_of_every_image_has_a_mask(make_checkpoint, miniature):
    records = get_records(["cityscapes_sem_seg_val"])[:2]
    masks = collect(Predictor.from_checkpoint(make_checkpoint("mtaclip_tiny", *MANY), device="cpu"), records)
    expected = []
    for record in records:
        labels = read_label_map(record["sem_seg_file_name"], record["label_format"])
        expected += [(record["file_name"].split("/")[-1], int(label)) for label in np.unique(labels[labels != 255])]
    assert sorted(zip(masks.images, masks.classes.tolist(), strict=True)) == sorted(expected)
    assert masks.num_images == 2 and masks.embeddings.shape == (len(expected), 64)
    assert np.linalg.norm(masks.texts, axis=-1) == pytest.approx(np.ones((2, 20)), abs=1e-5)


def test_an_image_without_labels_is_named(make_checkpoint, miniature):
    records = [{"file_name": get_records(["cityscapes_sem_seg_val"])[0]["file_name"]}]
    with pytest.raises(ValueError, match=r"_leftImg8bit\.png has no labels"):
        collect(Predictor.from_checkpoint(make_checkpoint(), device="cpu"), records)


def test_labels_of_another_size_are_named(make_checkpoint, tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "photo.png")
    Image.new("L", (48, 32)).save(tmp_path / "labels.png")
    record = {"file_name": str(tmp_path / "photo.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    with pytest.raises(ValueError, match=r"photo\.png is \(64, 96\) but its label map .*labels\.png \(32, 48\)"):
        collect(Predictor.from_checkpoint(make_checkpoint(), device="cpu"), [record])


def test_the_no_object_text_counts_in_margins():
    texts = np.array([[[1.0, 0.0], [-1.0, 0.0], [0.8, 0.6]]], np.float32)
    masks = AlignedMasks(np.array([[1.0, 0.0]], np.float32), np.array([0]), ("a.png",), texts, 1)
    assert masks.margins().tolist() == pytest.approx([0.2])
