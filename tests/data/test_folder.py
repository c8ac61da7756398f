"""Folders of images and label maps become datasets: what belongs together, and what is wrong with them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from mtaclip.data.build import build_train_loader
from mtaclip.data.datasets import get_records
from mtaclip.data.folder import LabelledFolder, load_folder
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.visualization import Palette

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "custom" / "mtaclip_tiny.yaml"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def pairs(folder: LabelledFolder, root: Path) -> dict[str, str | None]:
    """{image: label map}, relative to `root`."""
    found = {}
    for record in folder.records():
        label = record.get("sem_seg_file_name")
        found[str(Path(record["file_name"]).relative_to(root))] = label and str(Path(label).relative_to(root))
    return found


def test_labels_have_the_sub_folder_and_the_stem_of_their_image(tmp_path):
    touch(tmp_path, "images/b.JPG", "images/a.png", "images/day/a.webp", "images/notes.txt", "images/._a.png")
    touch(tmp_path, "labels/a.png", "labels/day/a.png", "labels/day/c.png", "labels/.DS_Store")
    folder = LabelledFolder(tmp_path / "images", tmp_path / "labels")
    assert pairs(folder, tmp_path) == {
        "images/a.png": "labels/a.png",
        "images/b.JPG": None,
        "images/day/a.webp": "labels/day/a.png",
    }
    assert folder.lonely_labels(folder.records()) == [tmp_path / "labels/day/c.png"]


@pytest.mark.parametrize(
    ("files", "suffix", "expected"),
    [
        (("a.png", "a_mask.png", "b.png", "b_mask.png"), "_mask.png", {"a.png": "a_mask.png", "b.png": "b_mask.png"}),
        (("a.jpg", "a.png"), ".png", {"a.jpg": "a.png"}),
    ],
)
def test_images_and_labels_may_share_a_folder(tmp_path, files, suffix, expected):
    touch(tmp_path, *files)
    assert pairs(LabelledFolder(tmp_path, tmp_path, suffix), tmp_path) == expected


def test_hidden_folders_are_left_out_and_links_are_followed_once(tmp_path):
    touch(tmp_path, "images/a.png", "images/.cache/b.png", "elsewhere/c.png", "elsewhere/deep/d.png")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere" / "copy").symlink_to("deep")
    found = pairs(LabelledFolder(tmp_path / "images", tmp_path / "labels"), tmp_path)
    assert list(found) == ["images/a.png", "images/linked/c.png", "images/linked/deep/d.png"]


def test_images_of_one_stem_cannot_share_a_label_map(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/a.png", "images/b.jpg", "labels/a.png", "labels/b.png")
    with pytest.raises(ValueError, match=r"labels/a\.png belongs to .*images/a\.jpg and .*images/a\.png: give each"):
        load_folder(LabelledFolder(tmp_path / "images", tmp_path / "labels"), "train")


def test_images_that_all_look_like_label_maps_are_named(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(FileNotFoundError, match=r"all its 2 images end in '\.png', as label maps do"):
        LabelledFolder(tmp_path, tmp_path).records()


def test_a_config_follows_the_class_names(shapes):
    cfg = setup_cfg(TINY, ["DATASETS.FOLDER.ROOT", str(shapes)], device="cpu")
    assert cfg.DATASETS.FOLDER.NAMES == ("table", "disc", "square", "triangle")
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 4
    assert Trainer.build_model(cfg).texts.class_texts == ("table", "disc", "square", "triangle", "none")
    train, val = get_records(["folder_train"]), get_records(["folder_val"])
    assert (len(train), len(val)) == (24, 8)
    assert train[3] == {
        "file_name": str(shapes / "images/train/0003.jpg"),
        "image_id": "0003",
        "sem_seg_file_name": str(shapes / "labels/train/0003.png"),
        "label_format": "train_ids",
    }
    assert MetadataCatalog.get("folder_val").stuff_classes == ["table", "disc", "square", "triangle"]


def test_a_class_may_have_synonyms(shapes, tmp_path):
    (tmp_path / "names.txt").write_text("table; desk\ndisc\nsquare\ntriangle\n", encoding="utf-8")
    keys = ["DATASETS.FOLDER.ROOT", str(shapes), "DATASETS.FOLDER.CLASSES", str(tmp_path / "names.txt")]
    cfg = setup_cfg(TINY, [*keys, "MODEL.MTACLIP.TEXT.SYNONYMS", "alternatives"], device="cpu")
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 4
    assert Palette.from_config(cfg).names == ("table", "disc", "square", "triangle")
    texts = Trainer.build_model(cfg).texts
    assert texts.num_prompts == 2 * cfg.MODEL.MTACLIP.TEXT.NUM_CONTEXTS


def test_another_config_replaces_the_folder(shapes, tmp_path):
    touch(tmp_path, "pictures/x.png", "masks/x.png")
    (tmp_path / "names.txt").write_text("\ufeffroof\nroad\n", encoding="utf-8")
    own = ["DATASETS.FOLDER.ROOT", str(tmp_path), "DATASETS.FOLDER.CLASSES", "names.txt"]
    own += ["DATASETS.FOLDER.IMAGES", "pictures", "DATASETS.FOLDER.LABELS", "masks"]
    first = setup_cfg(TINY, ["DATASETS.FOLDER.ROOT", str(shapes)], device="cpu")
    second = setup_cfg(TINY, [*own, "DATASETS.FOLDER.LABEL_FORMAT", "ade20k"], device="cpu")
    (record,) = get_records(["folder_val"])
    assert (record["file_name"], record["label_format"]) == (str(tmp_path / "pictures/x.png"), "ade20k")
    assert second.DATASETS.FOLDER.NAMES == ("roof", "road")  # without the byte-order mark
    assert MetadataCatalog.get("folder_val").prediction_format == "ade20k"
    # What a model predicts is in its own config, whatever is registered.
    assert Palette.from_config(first).names == ("table", "disc", "square", "triangle")
    assert Palette.from_config(second).names == ("roof", "road")


def test_names_in_a_config_need_no_file(tmp_path):
    config = tmp_path / "model.yaml"
    config.write_text(f'_BASE_: "{TINY}"\nDATASETS:\n  FOLDER:\n    ROOT: "nowhere"\n    NAMES: ["roof", "road"]\n')
    cfg = setup_cfg(config, device="cpu")
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2


def test_a_folder_that_no_dataset_names_changes_no_model(shapes):
    cfg = setup_cfg(ROOT / "configs/miniature/mtaclip_tiny.yaml", ["DATASETS.FOLDER.ROOT", str(shapes)], device="cpu")
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 19
    assert len(get_records(["folder_train"])) == 24


def test_other_datasets_must_have_the_same_classes(shapes):
    options = ["DATASETS.FOLDER.ROOT", str(shapes), "DATASETS.TEST", "('cityscapes_sem_seg_val',)"]
    with pytest.raises(ValueError, match="NUM_CLASSES is 4 but dataset 'cityscapes_sem_seg_val' has 19"):
        setup_cfg(TINY, options, device="cpu")


def test_a_test_split_needs_no_labels(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    touch(tmp_path, "images/test/x.png")
    setup_cfg(TINY, ["DATASETS.FOLDER.ROOT", str(tmp_path)], device="cpu")
    assert get_records(["folder_test"]) == [{"file_name": str(tmp_path / "images/test/x.png"), "image_id": "x"}]
    touch(tmp_path, "labels/test/y.png")
    with pytest.raises(FileNotFoundError, match=r"images/test/x\.png has no label file: looked for .*labels/test/x\.p"):
        get_records(["folder_test"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("table\ndisc\ntable\nsquare\n", ["classes.txt, line 3", "'table' is also line 1"]),
        ("table\n\ndisc\n", ["classes.txt, line 2 is empty"]),
        ("table\n", ["single class 'table'"]),
        ("# nothing\n", ["classes.txt holds no class name"]),
        ("\n".join(map(str, range(300))), ["DATASETS.FOLDER", "254", "300"]),
        (None, ["classes.txt does not exist"]),
        (b"stra\xdfe\nhaus", ["classes.txt is not UTF-8"]),
    ],
)
def test_wrong_class_names_are_one_sentence(tmp_path, content, words):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "classes.txt").write_bytes(data)
    with pytest.raises((ValueError, OSError)) as error:
        setup_cfg(TINY, ["DATASETS.FOLDER.ROOT", str(tmp_path)], device="cpu")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["DATASETS.FOLDER.ROOT", ""], ["DATASETS.FOLDER.ROOT is empty", "folder_train", "docs/custom_dataset.md"]),
        (["DATASETS.FOLDER.LABEL_FORMAT", "rgb"], ["DATASETS.FOLDER.LABEL_FORMAT is 'rgb'", "train_ids"]),
        (["DATASETS.FOLDER.LABEL_FORMAT", "cityscapes_label_ids"], ["LABEL_FORMAT", "19 classes, not 4"]),
        (["DATASETS.FOLDER.NAMES", "('a', 'a')"], ["DATASETS.FOLDER.NAMES, name 2: 'a' is also name 1"]),
        (["DATASETS.FOLDER.NAMES", "(1, 2)"], ["DATASETS.FOLDER.NAMES: 1", "quotes"]),
        (["DATASETS.TRAIN", "('folder_all',)"], ["'folder_all' is not registered", "folder_train"]),
    ],
)
def test_wrong_keys_are_one_sentence(shapes, opts, words):
    with pytest.raises(ValueError) as error:
        setup_cfg(TINY, ["DATASETS.FOLDER.ROOT", str(shapes), *opts], device="cpu")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_model_without_the_folder_needs_another_vocabulary():
    cityscapes = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19"]
    with pytest.raises(ValueError, match=r"VOCABULARY is 'folder', but DATASETS\.FOLDER\.NAMES has 0 class names"):
        Trainer.build_model(setup_cfg(TINY, cityscapes, device="cpu"))


@pytest.mark.parametrize(
    ("folder", "message"), [("images/train", "holds no image"), (".", "images/train does not exist")]
)
def test_empty_folders_are_named(tmp_path, folder, message):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    setup_cfg(TINY, ["DATASETS.FOLDER.ROOT", str(tmp_path)], device="cpu")
    with pytest.raises(FileNotFoundError, match=message):
        get_records(["folder_train"])


def test_classes_counted_from_one_are_trained_on(tmp_path):
    """Label 0 is ignored and label k becomes train id k - 1."""
    touch(tmp_path, "images/train/x.png", "labels/train/x.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "images/train/x.png")
    Image.fromarray(np.tile(np.uint8([0, 1, 2, 2]), (64, 16))).save(tmp_path / "labels/train/x.png")
    options = ["DATASETS.FOLDER.ROOT", str(tmp_path), "DATASETS.FOLDER.LABEL_FORMAT", "ade20k"]
    options += ["INPUT.CROP.ENABLED", "False", "INPUT.SCALE_RANGE", "(1.0, 1.0)", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    cfg = setup_cfg(TINY, [*options, "DATALOADER.NUM_WORKERS", "0", "INPUT.RANDOM_FLIP", "none"], device="cpu")
    sample = next(iter(build_train_loader(cfg)))[0]
    assert sample["sem_seg"][0, :4].tolist() == [255, 0, 1, 1]
