"""The scores must be those of Cityscapes' own evaluation script, on files in the official format."""

from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import torch
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import MetadataCatalog
from PIL import Image
from pytest import approx

from mtaclip.evaluation import SemanticEvaluator

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
        images.append((truth_file, prediction_file, prediction))
    return images


def official_scores(images: list[tuple[Path, Path, np.ndarray]], monkeypatch) -> dict:
    for key, value in {"evalInstLevelScore": False, "JSONOutput": False, "quiet": True}.items():
        monkeypatch.setattr(official.args, key, value)
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
