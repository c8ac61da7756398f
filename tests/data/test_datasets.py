"""The datasets are found in their official folders, and a wrong folder is explained."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mtaclip.data.datasets import get_records

CITYSCAPES = [f"cityscapes_sem_seg_{split}" for split in ("train", "val", "test")]
ADE20K = [f"ade20k_150_sem_seg_{split}" for split in ("train", "val")]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def cityscapes_pair(root, split, stem, kind="labelIds"):
    city = stem.split("_")[0]
    image = touch(root / "cityscapes" / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
    return image, touch(root / "cityscapes" / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png")


def test_cityscapes_records_are_sorted_and_complete(root):
    second = cityscapes_pair(root, "val", "munster_000001_000019")
    first = cityscapes_pair(root, "val", "lindau_000002_000019")
    assert DatasetCatalog.get("cityscapes_sem_seg_val") == [
        {
            "file_name": image,
            "image_id": f"{stem}_leftImg8bit",
            "sem_seg_file_name": label,
            "label_format": "cityscapes_label_ids",
        }
        for (image, label), stem in ((first, "lindau_000002_000019"), (second, "munster_000001_000019"))
    ]


def test_cityscapes_train_ids_serve_where_label_ids_are_missing(root):
    _, label = cityscapes_pair(root, "train", "aachen_000000_000019", "labelTrainIds")
    record = get_records(["cityscapes_sem_seg_train"])[0]
    assert (record["sem_seg_file_name"], record["label_format"]) == (label, "train_ids")
    _, label = cityscapes_pair(root, "train", "aachen_000000_000019", "labelIds")
    record = get_records(["cityscapes_sem_seg_train"])[0]
    assert (record["sem_seg_file_name"], record["label_format"]) == (label, "cityscapes_label_ids")


def test_cityscapes_test_has_no_labels(root):
    image, _ = cityscapes_pair(root, "test", "berlin_000000_000019")
    assert get_records(["cityscapes_sem_seg_test"]) == [
        {"file_name": image, "image_id": "berlin_000000_000019_leftImg8bit"}
    ]


def test_ade20k_records(root):
    base = root / "ADEChallengeData2016"
    image = touch(base / "images" / "validation" / "ADE_val_00000001.jpg")
    label = touch(base / "annotations" / "validation" / "ADE_val_00000001.png")
    assert get_records(["ade20k_150_sem_seg_val"]) == [
        {
            "file_name": image,
            "image_id": "ADE_val_00000001",
            "sem_seg_file_name": label,
            "label_format": "ade20k",
        }
    ]


def test_several_datasets_follow_each_other(root):
    train, _ = cityscapes_pair(root, "train", "aachen_000000_000019")
    val, _ = cityscapes_pair(root, "val", "lindau_000000_000019")
    records = get_records(["cityscapes_sem_seg_val", "cityscapes_sem_seg_train"])
    assert [record["file_name"] for record in records] == [val, train]


def test_the_root_is_read_when_the_data_are(root, monkeypatch):
    cityscapes_pair(root, "val", "lindau_000000_000019")
    assert len(get_records(["cityscapes_sem_seg_val"])) == 1
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "elsewhere"))
    with pytest.raises(FileNotFoundError):
        get_records(["cityscapes_sem_seg_val"])


@pytest.mark.parametrize(
    ("name", "folders", "site"),
    [
        ("cityscapes_sem_seg_train", ("leftImg8bit", "gtFine"), "cityscapes-dataset.com"),
        ("ade20k_150_sem_seg_val", ("images", "annotations"), "sceneparsing.csail.mit.edu"),
    ],
)
def test_missing_data_say_where_they_were_looked_for(root, name, folders, site):
    with pytest.raises(FileNotFoundError) as error:
        get_records([name])
    message = str(error.value)
    assert f"DETECTRON2_DATASETS is '{root}'" in message
    assert site in message
    assert "datasets/README.md" in message
    for folder in folders:
        assert f"/{folder}/" in message
    assert "\n" not in message


def test_missing_data_without_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS is not set, so 'datasets' is used"):
        get_records(["cityscapes_sem_seg_val"])


def test_images_without_annotations_folder(root):
    touch(root / "ADEChallengeData2016" / "images" / "training" / "ADE_train_00000001.jpg")
    with pytest.raises(FileNotFoundError, match="annotations/training"):
        get_records(["ade20k_150_sem_seg_train"])


def test_one_image_without_label_is_named(root):
    cityscapes_pair(root, "val", "lindau_000000_000019")
    lonely = touch(root / "cityscapes" / "leftImg8bit" / "val" / "lindau" / "lindau_000001_000019_leftImg8bit.png")
    with pytest.raises(FileNotFoundError, match="has no label file") as error:
        get_records(["cityscapes_sem_seg_val"])
    assert lonely in str(error.value)
    assert "lindau_000001_000019_gtFine_labelIds.png" in str(error.value)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'cityscapes_val' is not registered") as error:
        get_records(["cityscapes_val"])
    assert all(name in str(error.value) for name in CITYSCAPES + ADE20K)
    with pytest.raises(ValueError, match="needs a list of one or more"):
        get_records([])
    with pytest.raises(ValueError, match="needs a list of one or more"):
        get_records("cityscapes_sem_seg_val")


@pytest.mark.parametrize(("names", "classes", "vocabulary"), [(CITYSCAPES, 19, "cityscapes"), (ADE20K, 150, "ade20k")])
def test_metadata(names, classes, vocabulary):
    for name in names:
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == len(set(metadata.stuff_classes)) == classes
        assert len(metadata.stuff_colors) == len(set(metadata.stuff_colors)) == classes
        assert metadata.ignore_label == 255
        assert metadata.evaluator_type == "mtaclip_sem_seg"
        assert metadata.vocabulary == vocabulary
        assert metadata.get("thing_classes") is None


def test_cityscapes_names_colours_and_categories():
    metadata = MetadataCatalog.get("cityscapes_sem_seg_val")
    assert metadata.stuff_classes[13] == "car"
    assert metadata.stuff_colors[13] == (0, 0, 142)
    assert metadata.stuff_categories[13] == "vehicle"
    assert metadata.stuff_categories[:2] == ["flat", "flat"]
    assert MetadataCatalog.get("ade20k_150_sem_seg_val").get("stuff_categories") is None
