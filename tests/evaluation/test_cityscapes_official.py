"""The scores must be those of Cityscapes' own evaluation script, on files in the official format."""

import logging
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import torch
from cityscapesscripts.helpers.labels import id2label, trainId2label
from detectron2.data import MetadataCatalog
from PIL import Image
from pytest import approx

from mtaclip.evaluation import SemanticEvaluator
from mtaclip.evaluation.instances import AVERAGE_SIZES

NUM_CLASSES = 19
LABELS = [trainId2label[train_id] for train_id in range(NUM_CLASSES)]
LABEL_IDS = np.array([label.id for label in LABELS], dtype=np.uint8)
DATASET = "evaluation_test_cityscapes"


def draw_tree(root: Path, num_images: int) -> list[tuple[Path, Path, np.ndarray]]:
    """Label file, prediction file and predicted train ids of images with all 34 label ids, ignored ones included.

    Trains (train id 16) are neither drawn nor predicted; caravans of the ground truth are ignored; bicycles (18) are
    predicted but not drawn.
    """
    rng = np.random.default_rng(7)
    train, bicycle = LABEL_IDS[16], LABEL_IDS[18]
    drawn = np.setdiff1d(np.arange(34, dtype=np.uint8), [train, bicycle])
    predictable = np.setdiff1d(np.arange(NUM_CLASSES), [16])
    images = []
    for i in range(num_images):
        stem = f"aachen_{i:06d}_000019"
        truth_file = root / "gtFine" / "val" / "aachen" / f"{stem}_gtFine_labelIds.png"
        prediction_file = root / "results" / f"{stem}_pred.png"
        truth = np.kron(rng.choice(drawn, (8, 16)), np.ones((4, 4), np.uint8))
        labelled = np.isin(truth, LABEL_IDS)
        right = np.searchsorted(LABEL_IDS, truth).clip(max=NUM_CLASSES - 1)
        wrong = rng.choice(predictable, truth.shape)
        prediction = np.where(labelled & (rng.random(truth.shape) < 0.6), right, wrong)
        for file, pixels in ((truth_file, truth), (prediction_file, LABEL_IDS[prediction])):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(file)
        instance_file = Path(str(truth_file).replace("labelIds", "instanceIds"))
        Image.fromarray(instance_ids(truth, rng)).save(instance_file)
        images.append((truth_file, prediction_file, prediction))
    return images


def instance_ids(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Countable classes have two objects of an image, some of one pixel only, and groups that are not counted."""
    counted = np.isin(truth, [label for label, entry in id2label.items() if entry.hasInstances])
    number = rng.choice([0, 1], truth.shape, p=[0.8, 0.2])
    group = np.kron(rng.random((8, 16)) < 0.2, np.ones((4, 4))).astype(bool)
    return np.where(counted & ~group, truth.astype(np.uint16) * 1000 + number, truth).astype(np.uint16)


def official_scores(images: list[tuple[Path, Path, np.ndarray]], monkeypatch) -> dict:
    for key, value in {"evalInstLevelScore": True, "JSONOutput": False, "quiet": True}.items():
        monkeypatch.setattr(official.args, key, value)
    if not hasattr(np, "in1d"):  # NumPy 2.4 has dropped a name that the official script uses
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    truths, predictions = [str(truth) for truth, _, _ in images], [str(file) for _, file, _ in images]
    return official.evaluateImgLists(predictions, truths, official.args)


def our_scores(images: list[tuple[Path, Path, np.ndarray]]) -> dict[str, float]:
    MetadataCatalog.get(DATASET).set(
        stuff_classes=[label.name for label in LABELS],
        stuff_categories=[label.category for label in LABELS],
        ignore_label=255,
    )
    try:
        evaluator = SemanticEvaluator(DATASET)
    finally:
        MetadataCatalog.remove(DATASET)
    for truth_file, _, prediction in images:
        record = {
            "file_name": "x.png",
            "sem_seg_file_name": str(truth_file),
            "label_format": "cityscapes_label_ids",
        }
        scores = torch.nn.functional.one_hot(torch.from_numpy(prediction), NUM_CLASSES).permute(2, 0, 1).float()
        evaluator.process([record], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


def test_class_and_category_scores_are_the_official_ones(tmp_path, monkeypatch):
    images = draw_tree(tmp_path, num_images=3)
    expected, result = official_scores(images, monkeypatch), our_scores(images)
    for label in LABELS:
        assert result[f"IoU-{label.name}"] / 100 == approx(expected["classScores"][label.name], abs=1e-9, nan_ok=True)
    assert np.isnan(result["IoU-train"])
    assert result["IoU-bicycle"] == 0.0
    assert result["mIoU"] / 100 == approx(expected["averageScoreClasses"], abs=1e-9)
    assert result["mIoU"] > 20  # the drawn predictions are mostly right, so agreement is not about zeros

    categories = {name: score for name, score in expected["categoryScores"].items() if name != "void"}
    assert len(categories) == 7
    for name, score in categories.items():
        assert result[f"IoU-category-{name}"] / 100 == approx(score, abs=1e-9)
    assert result["category mIoU"] / 100 == approx(expected["averageScoreCategories"], abs=1e-9)

    for name, score in expected["classInstScores"].items():
        if not np.isnan(score) or name in AVERAGE_SIZES:
            assert result[f"iIoU-{name}"] / 100 == approx(score, abs=1e-9, nan_ok=True), name
    assert len([key for key in result if key.startswith("iIoU-") and "category" not in key]) == 8
    of_categories = {name: score for name, score in expected["categoryInstScores"].items() if not np.isnan(score)}
    assert set(of_categories) == {"human", "vehicle"}
    for name, score in of_categories.items():
        assert result[f"iIoU-category-{name}"] / 100 == approx(score, abs=1e-9)
    assert result["iIoU"] / 100 == approx(expected["averageScoreInstClasses"], abs=1e-9)
    assert result["category iIoU"] / 100 == approx(expected["averageScoreInstCategories"], abs=1e-9)
    assert abs(result["iIoU-car"] - result["IoU-car"]) > 0.1  # weights matter


def test_the_average_sizes_are_the_official_ones():
    evaluated = {name: size for name, size in official.args.avgClassSize.items() if name not in ("caravan", "trailer")}
    assert evaluated == AVERAGE_SIZES


def test_scores_of_the_miniature_are_the_official_ones(miniature, tmp_path, monkeypatch):
    """Files as the dataset has them, and predictions that mistake a quarter of the 4 x 4 blocks."""
    rng = np.random.default_rng(0)
    table = np.full(256, 255, np.uint8)
    table[LABEL_IDS] = np.arange(NUM_CLASSES)
    images = []
    for truth_file in sorted((miniature / "cityscapes" / "gtFine" / "val").glob("*/*_labelIds.png")):
        truth = table[np.array(Image.open(truth_file))]
        wrong = np.kron(rng.random((truth.shape[0] // 4, truth.shape[1] // 4)) < 0.25, np.ones((4, 4))).astype(bool)
        prediction = np.where(wrong | (truth == 255), rng.integers(0, NUM_CLASSES, truth.shape), truth)
        prediction_file = tmp_path / truth_file.name
        Image.fromarray(LABEL_IDS[prediction]).save(prediction_file)
        images.append((truth_file, prediction_file, prediction))
    assert len(images) == 4
    expected, result = official_scores(images, monkeypatch), our_scores(images)
    for ours, theirs in {
        "mIoU": "averageScoreClasses",
        "iIoU": "averageScoreInstClasses",
        "category mIoU": "averageScoreCategories",
        "category iIoU": "averageScoreInstCategories",
    }.items():
        assert result[ours] / 100 == approx(expected[theirs], abs=1e-9), ours


def test_without_some_instance_maps_there_is_no_iiou_and_a_warning(tmp_path, caplog, monkeypatch):
    images = draw_tree(tmp_path, num_images=2)
    Path(str(images[0][0]).replace("labelIds", "instanceIds")).unlink()
    monkeypatch.setattr(logging.getLogger("mtaclip"), "propagate", True)
    result = our_scores(images)
    assert not any(key.startswith("iIoU") for key in result)
    assert "1 of 2 images have no *_instanceIds.png" in caplog.text
