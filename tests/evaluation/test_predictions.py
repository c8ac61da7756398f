"""TEST.SAVE_PREDICTIONS: files in the benchmarks' formats, and an evaluation that goes on from those that are there."""

import logging
import shutil
import subprocess
from pathlib import Path
from zlib import crc32

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pytest import approx

from mtaclip.engine import Trainer, setup_cfg
from mtaclip.evaluation import SemanticEvaluator

VAL, TEST, ADE20K = "cityscapes_sem_seg_val", "cityscapes_sem_seg_test", "ade20k_150_sem_seg_val"


class Brightness(torch.nn.Module):
    """The class of a pixel is how bright its red is, plus a learned number; `seen` counts the images."""

    def __init__(self, offset: int = 0, num_classes: int = 19) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(float(offset)))
        self.num_classes = num_classes
        self.seen = 0

    def forward(self, inputs: list[dict]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        self.seen += len(inputs)
        return [{"labels": self.labels(x["image"])} for x in inputs]

    def labels(self, image: torch.Tensor) -> torch.Tensor:
        return ((image[0].int() + int(self.offset)) % self.num_classes).to(torch.uint8)


@pytest.fixture
def evaluate(miniature, config_path, tmp_path):
    """A function from a model, options and a folder to the results; images have their original size."""

    def run(model, *options, dataset=VAL, out=tmp_path / "out", save=True, evaluators=None):
        base = ["INPUT.MIN_SIZE_TEST", "0", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(out)]
        base += ["DATASETS.TEST", f"('{dataset}',)", "TEST.SAVE_PREDICTIONS", str(save)]
        cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), [*base, *options], device="cpu")
        return Trainer.test(cfg, model, evaluators)

    return run


@pytest.fixture
def said(caplog, monkeypatch):
    """A function that returns what was logged since its last call."""
    monkeypatch.setattr(logging.getLogger("mtaclip"), "propagate", True)
    caplog.set_level(logging.INFO, "mtaclip")

    def text() -> str:
        found = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("mtaclip"))
        caplog.clear()
        return found

    return text


def predictions(out: Path, dataset: str = VAL) -> list[Path]:
    return sorted((out / "predictions" / dataset).glob("*.png"))


def state(files: list[Path]) -> list[tuple]:
    """Changes whenever a file is written."""
    return [(file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in files]


def expected_labels(model: Brightness, dataset: str) -> dict[str, np.ndarray]:
    """Train ids by the stem of the image."""
    images = {Path(record["file_name"]) for record in DatasetCatalog.get(dataset)}
    pixels = {file.stem: np.array(Image.open(file).convert("RGB")) for file in images}
    return {stem: model.labels(torch.from_numpy(rgb).permute(2, 0, 1)).numpy() for stem, rgb in pixels.items()}


def test_the_official_script_finds_the_files_and_scores_them_the_same(evaluate, miniature, tmp_path, monkeypatch):
    model = Brightness()
    scores = evaluate(model)["sem_seg"]
    assert scores == approx(evaluate(Brightness(), out=tmp_path / "unsaved", save=False)["sem_seg"], nan_ok=True)
    assert not (tmp_path / "unsaved" / "predictions").exists()
    expected = expected_labels(model, VAL)
    assert [file.stem for file in predictions(tmp_path / "out")] == sorted(expected)
    label_ids = np.array([trainId2label[train_id].id for train_id in range(19)])
    for file in predictions(tmp_path / "out"):
        with Image.open(file) as image:
            assert image.mode == "L"
            assert (np.array(image) == label_ids[expected[file.stem]]).all()

    for key, value in {"JSONOutput": False, "quiet": True, "evalInstLevelScore": False}.items():
        monkeypatch.setattr(official.args, key, value)
    monkeypatch.setattr(official.args, "predictionPath", str(tmp_path / "out" / "predictions"))
    monkeypatch.setattr(official.args, "predictionWalk", None)
    truths = sorted(map(str, (miniature / "cityscapes" / "gtFine" / "val").glob("*/*_labelIds.png")))
    found = [official.getPrediction(official.args, truth) for truth in truths]
    official_scores = official.evaluateImgLists(found, truths, official.args)
    assert scores["mIoU"] / 100 == approx(official_scores["averageScoreClasses"], abs=1e-9)


def test_ade20k_counts_from_one(evaluate, tmp_path):
    model = Brightness(num_classes=150)
    options = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150", "DATASETS.TRAIN", "('ade20k_150_sem_seg_train',)"]
    first = evaluate(model, *options, dataset=ADE20K)
    files, expected = predictions(tmp_path / "out", ADE20K), expected_labels(model, ADE20K)
    assert [file.stem for file in files] == sorted(expected) and len(files) == model.seen > 0
    for file in files:
        assert (np.array(Image.open(file)) == expected[file.stem].astype(int) + 1).all()
    assert evaluate(model, *options, dataset=ADE20K)["sem_seg"] == approx(first["sem_seg"], nan_ok=True)
    assert model.seen == len(files), "all of them were read"


@pytest.fixture
def own_dataset(tmp_path):
    """A dataset of two images and 19 classes, without `prediction_format`; yields its records, to be changed."""
    name = "predictions_test_own"
    records = []
    for stem, value in (("a", 3), ("b", 17)):
        for file in (f"{stem}.png", f"{stem}_labels.png"):
            Image.fromarray(np.full((6, 8), value, np.uint8)).save(tmp_path / file)
        labels = {"sem_seg_file_name": str(tmp_path / f"{stem}_labels.png"), "label_format": "train_ids"}
        records.append({"file_name": str(tmp_path / f"{stem}.png"), "image_id": stem} | labels)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        stuff_classes=[f"class {i}" for i in range(19)], ignore_label=255, evaluator_type="mtaclip_sem_seg"
    )
    yield name, records
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_other_datasets_get_train_ids(evaluate, own_dataset, tmp_path):
    name, _ = own_dataset
    assert evaluate(Brightness(), dataset=name)["sem_seg"]["mIoU"] == 100.0
    assert [int(np.unique(Image.open(file)).item()) for file in predictions(tmp_path / "out", name)] == [3, 17]


def test_two_images_of_one_stem_are_refused(evaluate, own_dataset, tmp_path):
    name, records = own_dataset
    other = tmp_path / "other" / "a.png"
    other.parent.mkdir()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(other)
    records.append(records[0] | {"file_name": str(other)})
    model = Brightness()
    with pytest.raises(ValueError) as error:
        evaluate(model, dataset=name)
    assert all(word in str(error.value) for word in (name, "a.png", str(other), records[0]["file_name"]))
    assert model.seen == 0


def test_what_is_there_is_not_computed_again(evaluate, said, tmp_path):
    whole = evaluate(Brightness())["sem_seg"]
    files = predictions(tmp_path / "out")
    for file in files[:2]:
        file.unlink()
    left_over = files[0].with_name(f".{files[0].name}.0.partial")
    left_over.write_bytes(b"half a file")
    kept = state(files[2:])
    said()
    model = Brightness()
    assert (
        evaluate(model, "TEST.BOUNDARY_IOU", "True", "MODEL.WEIGHTS", "renamed.pth")["sem_seg"]["mIoU"]
        == (whole["mIoU"])
    )
    assert model.seen == 2 and state(files[2:]) == kept
    assert predictions(tmp_path / "out") == files and not left_over.exists()
    text = said()
    assert "2 of 4 predictions are there and are not computed again" in text
    assert f"4 of 4 predictions are in {files[0].parent} as label ids, ready" in text


def test_labels_that_are_read_are_those_that_are_scored(evaluate, own_dataset, tmp_path):
    name, _ = own_dataset
    evaluate(Brightness(), dataset=name)
    Image.fromarray(np.full((6, 8), 5, np.uint8)).save(predictions(tmp_path / "out", name)[0])
    scores = evaluate(Brightness(), dataset=name)["sem_seg"]
    assert (scores["pACC"], scores["IoU-class 3"], scores["IoU-class 17"]) == (50.0, 0.0, 100.0)


@pytest.mark.parametrize(
    ("offset", "options", "reason"),
    [
        (1, [], "weights"),
        (0, ["TEST.SLIDING_WINDOW.ENABLED", "True"], "settings"),
        (0, ["INPUT.MAX_SIZE_TEST", "300"], "settings"),
        (0, ["SOLVER.AMP.ENABLED", "True"], "settings"),
    ],
)
def test_predictions_of_another_model_are_replaced(evaluate, said, tmp_path, offset, options, reason):
    model = Brightness(offset)
    evaluate(Brightness())
    other = predictions(tmp_path / "out")[0].with_name("notes.png")
    other.write_bytes(b"not ours")
    said()
    evaluate(model, *options)
    assert model.seen == 4
    assert f"4 predictions of other {reason} are removed" in said()
    assert other.read_bytes() == b"not ours"
    expected = expected_labels(model, VAL)
    label_ids = np.array([trainId2label[train_id].id for train_id in range(19)])
    for file in predictions(tmp_path / "out"):
        assert file == other or (np.array(Image.open(file)) == label_ids[expected[file.stem]]).all()


def test_predictions_of_other_images_are_replaced_and_those_of_a_copy_are_kept(evaluate, own_dataset, said, tmp_path):
    name, records = own_dataset
    evaluate(Brightness(), dataset=name)
    copy = Path(shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}_copy"))
    for record in records:
        record["file_name"] = str(copy / Path(record["file_name"]).name)
    model = Brightness()
    evaluate(model, dataset=name)
    assert model.seen == 0
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(records[0]["file_name"])
    evaluate(model, dataset=name)
    assert model.seen == 2 and "2 predictions of other images are removed" in said()


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def claim_to_be_huge(file: Path) -> None:
    """Let the header of a PNG say 100000 x 100000 pixels, with the checksum that belongs to it."""
    content = file.read_bytes()
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + content[24:29]
    file.write_bytes(content[:12] + header + crc32(header).to_bytes(4, "big") + content[33:])


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        claim_to_be_huge,
        lambda file: file.write_bytes(file.read_bytes()[:-40]),
        lambda file: file.write_bytes(b""),
        lambda file: Image.fromarray(np.full((3, 3), 7, np.uint8)).save(file),
        lambda file: Image.fromarray(np.zeros((64, 128), np.uint8)).save(file),
    ],
    ids=["flipped", "huge", "cut off", "empty", "other size", "no class"],
)
def test_a_damaged_file_is_computed_anew(evaluate, said, tmp_path, damage):
    evaluate(Brightness())
    file = predictions(tmp_path / "out")[1]
    before = file.read_bytes()
    damage(file)
    model = Brightness()
    evaluate(model)
    assert model.seen == 1 and file.read_bytes() == before
    assert f"{file}: computed anew" in said()


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"[" * 200_000])
def test_without_its_manifest_a_folder_is_not_trusted(evaluate, said, tmp_path, content):
    evaluate(Brightness())
    manifest = tmp_path / "out" / "predictions" / VAL / "predictions.json"
    before = manifest.read_bytes()
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    model = Brightness()
    evaluate(model)
    assert model.seen == 4 and manifest.read_bytes() == before
    assert "4 predictions of unknown origin" in said()


def test_a_file_in_place_of_the_folder_is_named(evaluate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions").write_bytes(b"")
    model = Brightness()
    with pytest.raises(OSError) as error:
        evaluate(model)
    folder = tmp_path / "out" / "predictions" / VAL
    assert all(word in str(error.value) for word in ("TEST.SAVE_PREDICTIONS", f"{folder}: not written: ", "MiB"))
    assert model.seen == 0


def test_a_file_that_the_system_refuses_ends_the_evaluation(evaluate, tmp_path):
    evaluate(Brightness())
    file = predictions(tmp_path / "out")[1]
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError) as error:
        evaluate(Brightness())
    for words in (f"{file}: not written: Is a directory (", "MiB free", "same command again", "goes on where it"):
        assert words in str(error.value)
    assert not list(file.parent.glob(".*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_on_a_full_disk_that_gets_room_it_goes_on(evaluate, small_disk):
    """Manifest and pictures take 4 KiB pages; there is room for the manifest and a few pictures."""
    whole = evaluate(Brightness(), "TEST.SNAPSHOTS", "0", out=small_disk)["sem_seg"]
    sizes = [-(-file.stat().st_size // 4096) * 4096 for file in predictions(small_disk)]
    for file in [*predictions(small_disk), predictions(small_disk)[0].with_name("predictions.json")]:
        file.unlink()
    (small_disk / f"scores_{VAL}.json").unlink()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(256 * 1024 - 4096 - sum(sizes[:2]) - 4096))
    model = Brightness()
    with pytest.raises(OSError, match="No space left on device"):
        evaluate(model, "TEST.SNAPSHOTS", "0", out=small_disk)
    written = len(predictions(small_disk))
    assert 1 <= written < 4
    ballast.unlink()
    model = Brightness()
    assert evaluate(model, "TEST.SNAPSHOTS", "0", out=small_disk)["sem_seg"] == approx(whole, nan_ok=True)
    assert model.seen == 4 - written


def test_a_split_without_labels_has_predictions_and_no_scores(evaluate, said, tmp_path):
    model = Brightness()
    assert evaluate(model, dataset=TEST) == {}
    (file,) = predictions(tmp_path / "out", TEST)
    assert f"1 of 1 predictions are in {file.parent} as label ids, ready for the Cityscapes" in said()
    assert not (tmp_path / "out" / f"scores_{TEST}.json").exists()


def test_a_split_without_labels_is_refused_before_any_image_is_computed(evaluate, miniature, config_path, tmp_path):
    model = Brightness()
    with pytest.raises(ValueError, match=rf"{TEST}.*no labels.*TEST\.SAVE_PREDICTIONS True"):
        evaluate(model, "DATASETS.TEST", f"('{VAL}', '{TEST}')", save=False)
    with pytest.raises(ValueError, match=rf"TEST\.EXPECTED_RESULTS: '{TEST}'.*no labels"):
        evaluate(model, "TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 45.0, 0.5]]", dataset=TEST)
    assert model.seen == 0
    options = ["DATASETS.TEST", f"('{TEST}',)", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(ValueError, match=rf"{TEST}.*no labels"):
        Trainer(setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), options, device="cpu"))


def test_several_datasets_each_have_a_folder_and_a_given_evaluator_scores(evaluate, tmp_path):
    both = ["DATASETS.TEST", f"('{VAL}', '{TEST}')"]
    results = evaluate(Brightness(), *both)
    assert list(results) == [VAL, TEST] and results[VAL]["sem_seg"]["mIoU"] > 0 and results[TEST] == {}
    assert len(predictions(tmp_path / "out")) == 4 and len(predictions(tmp_path / "out", TEST)) == 1
    given = evaluate(Brightness(), evaluators=SemanticEvaluator(VAL))
    assert given["sem_seg"] == approx(results[VAL]["sem_seg"], nan_ok=True)


def test_labels_that_are_no_classes_are_refused(evaluate, tmp_path):
    with pytest.raises(ValueError, match=r"class 2\d+.*19 classes"):
        evaluate(Brightness(num_classes=256), dataset=TEST)
    assert not predictions(tmp_path / "out", TEST)


def test_the_mode_of_the_model_is_restored(evaluate):
    for training in (True, False):
        model = Brightness().train(training)
        evaluate(model)
        assert model.training == training
