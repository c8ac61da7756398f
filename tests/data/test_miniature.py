"""The miniature: laid out like the real datasets, reproducible, and not to be solved by colour alone."""

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import pytest
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from cityscapesscripts.helpers.labels import id2label, name2label
from PIL import Image

from mtaclip.data.datasets import get_records
from mtaclip.data.image_files import read_image
from mtaclip.data.labels import read_label_map
from mtaclip.data.vocabulary import load_vocabulary

SCRIPTS = Path(__file__).parents[2] / "datasets"
TRAIN, VAL, TEST = 60, 60, 2  # as many for validation as by default
NUM_CLASSES = 19


def make(root, *options):
    command = [sys.executable, str(SCRIPTS / "make_miniature.py"), "--root", str(root), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files_below(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A miniature of both datasets, drawn once."""
    root = tmp_path_factory.mktemp("data") / "miniature"
    run = make(root, "--train", TRAIN, "--val", VAL, "--test", TEST)
    assert run.returncode == 0, run.stderr
    assert f"DETECTRON2_DATASETS={root}" in run.stdout
    return root


@pytest.fixture
def records(root, monkeypatch):
    """Lists the images of a registered dataset of the miniature."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return lambda name: get_records([name])


def read_split(records):
    images = np.stack([read_image(record["file_name"]) for record in records])
    labels = np.stack([read_label_map(r["sem_seg_file_name"], r["label_format"]) for r in records])
    return images, labels


@pytest.fixture
def cityscapes(records):
    return {split: read_split(records(f"cityscapes_sem_seg_{split}")) for split in ("train", "val")}


def mean_iou(truth, prediction):
    valid = truth != 255
    pairs = truth[valid].astype(np.int64) * NUM_CLASSES + prediction[valid]
    matrix = np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
    hits = np.diag(matrix)
    return float(np.mean(hits / (matrix.sum(0) + matrix.sum(1) - hits)))


def test_registered_datasets_find_everything(records):
    counts = {"cityscapes_sem_seg_train": TRAIN, "cityscapes_sem_seg_val": VAL, "cityscapes_sem_seg_test": TEST}
    counts |= {"ade20k_150_sem_seg_train": TRAIN, "ade20k_150_sem_seg_val": VAL}
    for name, count in counts.items():
        found = records(name)
        assert len(found) == count
        assert read_image(found[0]["file_name"]).shape == (128, 256, 3)


def test_cityscapes_names_files_and_cities(root):
    files = sorted((root / "cityscapes" / "leftImg8bit").rglob("*.png"))
    cities = {}
    for file in files:
        info = getCsFileInfo(str(file))
        assert (info.city, info.type, info.ext) == (file.parent.name, "leftImg8bit", "png")
        cities.setdefault(file.parent.parent.name, set()).add(info.city)
        label = root / "cityscapes" / "gtFine" / file.parent.parent.name / info.city / file.name
        for kind in ("labelIds", "instanceIds"):
            assert Path(str(label).replace("leftImg8bit.png", f"gtFine_{kind}.png")).is_file()
    assert all(len(cities[split]) >= 2 for split in ("train", "val", "test"))
    assert not cities["train"] & cities["val"]


def test_instance_ids_are_officially_encoded(records):
    counted_pixels = 0
    for record in records("cityscapes_sem_seg_val")[:10]:
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        instances = np.array(Image.open(record["sem_seg_file_name"].replace("labelIds", "instanceIds"))).astype(int)
        counted = np.isin(labels, [label for label in np.unique(labels) if id2label[int(label)].hasInstances])
        assert (instances[~counted] == labels[~counted]).all()
        assert (instances[counted] // 1000 == labels[counted]).all()
        counted_pixels += counted.sum()
    assert counted_pixels > 1000


def test_the_official_evaluation_accepts_the_labels(records, monkeypatch):
    truth = [record["sem_seg_file_name"] for record in records("cityscapes_sem_seg_val")[:4]]
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the script calls it by a name that NumPy 2.4 removed
    for key, value in {"evalInstLevelScore": True, "JSONOutput": False, "quiet": True}.items():
        monkeypatch.setattr(official.args, key, value)
    scores = official.evaluateImgLists(truth, truth, official.args)
    assert scores["averageScoreClasses"] == 1.0
    assert scores["averageScoreInstClasses"] == 1.0


def test_every_class_is_in_enough_pictures(cityscapes):
    for split in ("train", "val"):
        labels = cityscapes[split][1]
        for train_id in range(NUM_CLASSES):
            pixels = (labels == train_id).sum(axis=(1, 2))
            assert (pixels >= 30).mean() >= 0.15, (split, train_id)
            assert pixels.sum() / labels.size >= 0.004, (split, train_id)
        assert 0.01 < (labels == 255).mean() < 0.15


def test_nearest_mean_colour_fails(cityscapes):
    (images, labels), (val_images, val_labels) = cityscapes["train"], cityscapes["val"]
    means = np.stack([images[labels == train_id].mean(axis=0) for train_id in range(NUM_CLASSES)])
    # |x - m|^2 = |x|^2 - 2 x.m + |m|^2, and |x|^2 is the same for all classes
    distance = (means**2).sum(1) - 2.0 * val_images.astype(np.float32) @ means.T
    assert mean_iou(val_labels, distance.argmin(-1)) < 0.35


@pytest.mark.parametrize("bits", [3, 4, 5])
@pytest.mark.parametrize("balanced", [False, True])
def test_looking_up_colours_fails(cityscapes, bits, balanced):
    # The most frequent class of every colour, colours being quantised to `bits` bits per channel.
    (images, labels), (val_images, val_labels) = cityscapes["train"], cityscapes["val"]

    def colour(pixels):
        red, green, blue = np.moveaxis(pixels.astype(np.int64) >> (8 - bits), -1, 0)
        return (red << 2 * bits) | (green << bits) | blue

    valid = labels != 255
    pairs = colour(images)[valid] * NUM_CLASSES + labels[valid]
    counts = np.bincount(pairs, minlength=NUM_CLASSES << 3 * bits).reshape(-1, NUM_CLASSES).astype(float)
    if balanced:
        counts /= counts.sum(axis=0)
    assert mean_iou(val_labels, counts.argmax(1)[colour(val_images)]) < 0.35


def test_ade20k_shows_the_same_scenes(records):
    city, ade = records("cityscapes_sem_seg_val"), records("ade20k_150_sem_seg_val")
    names = load_vocabulary("ade20k", 150)
    sky, car = names.index("sky"), names.index("car")
    for city_record, ade_record in zip(sorted(city, key=scene_number)[:10], ade, strict=False):
        ids = np.array(Image.open(city_record["sem_seg_file_name"]))
        labels = read_label_map(ade_record["sem_seg_file_name"], ade_record["label_format"])
        assert np.array_equal(labels == sky, ids == name2label["sky"].id)
        assert np.array_equal(labels == car, ids == name2label["car"].id)


def scene_number(record):
    return int(Path(record["file_name"]).name.split("_")[1])


def test_kinds_have_names_that_both_datasets_know():
    spec = importlib.util.spec_from_file_location("miniature_kinds", SCRIPTS / "miniature_kinds.py")
    kinds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kinds)
    ade20k = load_vocabulary("ade20k", 150)
    assert set(kinds.NAMES) == set(kinds.Kind)
    assert {id2label[int(value)].trainId for value in kinds.cityscapes_table()} == {*range(NUM_CLASSES), 255}
    for kind, value in zip(kinds.Kind, kinds.ade20k_table(ade20k), strict=True):
        name = kinds.NAMES[kind][1]
        assert (value == 0) if name is None else ade20k[value - 1] == name


def test_images_depend_on_their_number_and_the_seed_alone(root, tmp_path):
    assert make(tmp_path / "few", "--train", 2, "--val", 1, "--test", 0, "--dataset", "cityscapes").returncode == 0
    few = files_below(tmp_path / "few" / "cityscapes")
    many = files_below(root / "cityscapes")
    pictures = [name for name in few if name.endswith(".png")]
    assert len(pictures) == 3 * 3
    assert all(few[name] == many[name] for name in pictures)
    assert make(tmp_path / "other", "--train", 1, "--val", 0, "--dataset", "cityscapes", "--seed", 2).returncode == 0
    other = files_below(tmp_path / "other" / "cityscapes")
    assert not any(other[name] == many[name] for name in other if name in many)


def test_sizes_other_than_the_default(tmp_path):
    assert make(tmp_path, "--train", 1, "--val", 0, "--test", 0, "--size", 96, 96).returncode == 0
    for file in tmp_path.rglob("*.png"):
        assert Image.open(file).size == (96, 96)


def test_what_is_complete_is_not_drawn_again_and_what_differs_is(tmp_path):
    options = ("--val", 0, "--test", 0, "--dataset", "ade20k")
    assert make(tmp_path, "--train", 1, *options).returncode == 0
    image = next(tmp_path.rglob("*.jpg"))
    drawn = image.stat().st_mtime_ns
    assert make(tmp_path, "--train", 1, *options).returncode == 0
    assert image.stat().st_mtime_ns == drawn
    assert make(tmp_path, "--train", 2, *options).returncode == 0
    assert len(list(tmp_path.rglob("*.jpg"))) == 2


def wait_for_pictures(folder, process, count=3):
    while len(list(folder.glob(".cityscapes.unfinished/**/*.png"))) < count:
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_half_dataset(tmp_path, how):
    options = ["--dataset", "cityscapes", "--val", "0", "--test", "0"]
    command = [sys.executable, str(SCRIPTS / "make_miniature.py"), "--root", str(tmp_path), *options]
    process = subprocess.Popen(
        [*command, "--train", "500"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells make background jobs ignore it
    )
    wait_for_pictures(tmp_path, process)
    process.send_signal(how)
    message = process.communicate(timeout=20)[1]
    assert process.returncode != 0
    assert not (tmp_path / "cityscapes").exists()
    if how == signal.SIGINT:
        assert "interrupted; no half-drawn dataset was left behind" in message
        assert list(tmp_path.iterdir()) == []
    assert make(tmp_path, *options, "--train", 1).returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["cityscapes"]
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_data_of_others_are_not_touched(tmp_path):
    (tmp_path / "cityscapes").mkdir()
    (tmp_path / "cityscapes" / "precious.png").touch()
    run = make(tmp_path, "--train", 1, "--val", 0, "--test", 0)
    assert run.returncode != 0
    assert "this script did not draw it: choose another folder with --root" in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["cityscapes", "precious.png"]


def test_impossible_options_are_explained(tmp_path):
    assert "at least 64 pixels" in make(tmp_path, "--size", 32, 256).stderr
    assert "cannot be negative" in make(tmp_path, "--train", -1).stderr
