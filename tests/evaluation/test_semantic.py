import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image
from pytest import approx

from mtaclip.evaluation import SemanticEvaluator

DATASET = "evaluation_test_three_classes"
NAMES = ["road", "path", "sky"]


@pytest.fixture
def dataset():
    MetadataCatalog.get(DATASET).set(
        stuff_classes=NAMES, stuff_categories=["flat", "flat", "sky"], ignore_label=255, stuff_colors=[(0, 0, 0)] * 3
    )
    yield DATASET
    MetadataCatalog.remove(DATASET)


def write_labels(folder: Path, name: str, labels: np.ndarray) -> dict[str, str]:
    """Write a map of train ids and return its dataset record."""
    file = folder / f"{name}.png"
    Image.fromarray(labels.astype(np.uint8)).save(file)
    return {"file_name": f"{name}.jpg", "sem_seg_file_name": str(file), "label_format": "train_ids"}


def scores_of(prediction: np.ndarray, num_classes: int = 3) -> dict[str, torch.Tensor]:
    """Model output whose largest score is at the given classes."""
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(prediction, dtype=torch.int64), num_classes)
    return {"sem_seg": one_hot.permute(2, 0, 1).float() - 0.5}


def test_two_images_give_the_scores_of_their_pixels_together(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset, tmp_path / "out")
    first = write_labels(tmp_path, "a", np.array([[0, 0, 1], [1, 1, 255]]))
    second = write_labels(tmp_path, "b", np.array([[0, 0]]))
    outputs = [scores_of(np.array([[0, 1, 1], [1, 0, 2]])), scores_of(np.array([[0, 2]]))]
    evaluator.process([first, second], outputs)
    # truth 0: predicted 0, 1, 0, 2; truth 1: predicted 1, 1, 0; the ignored pixel is left out.
    # class 0: 2 right, union 4 + 3 - 2 = 5; class 1: 2 right, union 3 + 3 - 2 = 4; class 2: union 1, none right.
    result = evaluator.evaluate()["sem_seg"]
    assert result["IoU-road"] == approx(100 * 2 / 5)
    assert result["IoU-path"] == approx(100 * 2 / 4)
    assert result["IoU-sky"] == 0.0
    assert result["mIoU"] == approx(100 * (2 / 5 + 2 / 4 + 0) / 3)
    assert result["pACC"] == approx(100 * 4 / 7)
    # Category flat: 6 of 7 pixels right and no other pixel called flat.
    assert result["IoU-category-flat"] == approx(100 * 6 / 7)

    written = json.loads((tmp_path / "out" / f"scores_{dataset}.json").read_text())
    assert written["num_images"] == 2
    assert written["class_names"] == NAMES
    assert written["confusion_matrix"] == [[2, 1, 1], [1, 2, 0], [0, 0, 0]]
    assert written["scores_percent"]["mIoU"] == result["mIoU"]
    assert written["scores_percent"]["ACC-sky"] is None  # JSON has no nan
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"scores_{dataset}.json",
        "report.html",
        "report.md",
    }


def test_reset_forgets_earlier_images(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset)
    record = write_labels(tmp_path, "a", np.array([[0, 1]]))
    evaluator.process([record], [scores_of(np.array([[1, 0]]))])
    evaluator.reset()
    evaluator.process([record], [scores_of(np.array([[0, 1]]))])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100.0


def test_labels_of_a_record_without_format_are_train_ids(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset)
    record = write_labels(tmp_path, "a", np.array([[0, 1, 2, 255]]))
    del record["label_format"]
    evaluator.process([record], [scores_of(np.array([[0, 1, 2, 0]]))])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100.0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Detectron2's evaluator
def test_agrees_with_detectron2_on_the_means(dataset, tmp_path, monkeypatch):
    for name, value in (("int", int), ("float", float)):  # the 0.6 release uses names that NumPy has dropped
        if not hasattr(np, name):
            monkeypatch.setattr(np, name, value, raising=False)
    rng = np.random.default_rng(3)
    truth = [rng.choice([0, 1, 255], (8, 9)) for _ in range(2)]  # class 2 is predicted but never true
    records = [write_labels(tmp_path, f"{i}", labels) for i, labels in enumerate(truth)]
    outputs = [scores_of(rng.integers(0, 3, (8, 9))) for _ in truth]
    DatasetCatalog.register(dataset, lambda: records)
    try:
        theirs = SemSegEvaluator(dataset, distributed=False)
    finally:
        DatasetCatalog.remove(dataset)
    ours = SemanticEvaluator(dataset)
    for evaluator in (ours, theirs):
        evaluator.reset()
        evaluator.process(records, outputs)
    expected, result = theirs.evaluate()["sem_seg"], ours.evaluate()["sem_seg"]
    for key in ("mIoU", "fwIoU", "mACC", "pACC", "IoU-road", "IoU-path", "ACC-road", "ACC-path", "ACC-sky"):
        assert result[key] == approx(expected[key], nan_ok=True), key
    assert np.isnan(expected["IoU-sky"])
    assert result["IoU-sky"] == 0.0  # the one difference, documented in mtaclip.evaluation.scores


def test_labels_of_the_model_are_taken_as_they_are(dataset, tmp_path):
    record = write_labels(tmp_path, "a", np.array([[0, 1, 2, 255]]))
    labels = np.array([[0, 1, 1, 0]], np.uint8)
    results = []
    for output in ({"labels": torch.from_numpy(labels)}, scores_of(labels)):
        evaluator = SemanticEvaluator(dataset)
        evaluator.process([record], [output])
        results.append(evaluator.evaluate()["sem_seg"])
    assert results[0] == approx(results[1], nan_ok=True)
    with pytest.raises(ValueError, match=r"a\.jpg.*'labels'.*int64.*uint8"):
        SemanticEvaluator(dataset).process([record], [{"labels": torch.from_numpy(labels.astype(np.int64))}])


def test_an_image_that_comes_again_counts_once(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset, tmp_path / "out")
    records = [write_labels(tmp_path, name, np.array([[0, 1]])) for name in "aba"]
    evaluator.process(records, [scores_of(np.array([[0, 1]])), scores_of(np.array([[0, 0]]))] + [
        scores_of(np.array([[0, 1]]))
    ])  # fmt: skip
    evaluator.evaluate()
    written = json.loads((tmp_path / "out" / f"scores_{dataset}.json").read_text())
    assert written["num_images"] == 2
    assert written["confusion_matrix"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_boundary_iou_on_request(dataset, tmp_path):
    truth = np.zeros((30, 40))
    truth[10:14, 10:14] = 1
    record, output = write_labels(tmp_path, "a", truth), scores_of(np.roll(truth, 1, axis=1))
    evaluator = SemanticEvaluator(dataset, boundary_iou=True)
    evaluator.process([record], [output])
    result = evaluator.evaluate()["sem_seg"]
    assert result["bIoU-path"] == approx(100 * 6 / 18)  # two rings, see test_boundary.py
    assert np.isnan(result["bIoU-sky"])
    assert result["boundary IoU"] == approx((result["bIoU-path"] + result["bIoU-road"]) / 2)


def test_ade20k_is_scored_as_the_challenge_does(miniature, tmp_path):
    """SceneParse150: label 0 counts nowhere; intersections and unions are summed over images, pixels counted right."""
    rng = np.random.default_rng(2)
    records = DatasetCatalog.get("ade20k_150_sem_seg_val")
    evaluator = SemanticEvaluator("ade20k_150_sem_seg_val")
    both, either, right, labelled = np.zeros(151), np.zeros(151), 0, 0
    for record in records:
        truth = np.array(Image.open(record["sem_seg_file_name"]))
        predicted = np.where(rng.random(truth.shape) < 0.6, truth.clip(1), rng.integers(1, 151, truth.shape))
        evaluator.process([record], [{"labels": torch.from_numpy((predicted - 1).astype(np.uint8))}])
        predicted = predicted * (truth > 0)
        for k in range(1, 151):
            both[k] += ((truth == k) & (predicted == k)).sum()
            either[k] += ((truth == k) | (predicted == k)).sum()
        right += ((truth == predicted) & (truth > 0)).sum()
        labelled += (truth > 0).sum()
    assert (either[1:] > 0).all()  # every class was seen, so that the challenge's mean is over the same 150
    result = evaluator.evaluate()["sem_seg"]
    assert result["mIoU"] == approx(100 * (both[1:] / either[1:]).mean())
    assert result["pACC"] == approx(100 * right / labelled)


def test_an_image_without_labels_is_named(dataset):
    record = {"file_name": "berlin_000001.png", "sem_seg_file_name": None, "label_format": "train_ids"}
    with pytest.raises(ValueError, match=r"berlin_000001\.png.*no labels.*DATASETS\.TEST"):
        SemanticEvaluator(dataset).process([record], [scores_of(np.zeros((2, 2)))])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_name_the_image(dataset, tmp_path, bad):
    record = write_labels(tmp_path, "a", np.zeros((2, 2)))
    output = scores_of(np.zeros((2, 2)))
    output["sem_seg"][1, 0, 1] = bad
    with pytest.raises(ValueError, match=r"a\.jpg.*nan or infinite"):
        SemanticEvaluator(dataset).process([record], [output])


def test_a_model_with_another_class_count_is_told_the_key(dataset, tmp_path):
    record = write_labels(tmp_path, "a", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(4, 2, 2\).*3 classes.*NUM_CLASSES"):
        SemanticEvaluator(dataset).process([record], [scores_of(np.zeros((2, 2)), num_classes=4)])


def test_a_prediction_of_another_size_names_the_label_file(dataset, tmp_path):
    record = write_labels(tmp_path, "a", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"a\.png.*2 x 2.*2 x 3"):
        SemanticEvaluator(dataset).process([record], [scores_of(np.zeros((2, 3)))])


def test_an_evaluation_without_images_raises(dataset):
    with pytest.raises(ValueError, match=f"{DATASET}.*no image"):
        SemanticEvaluator(dataset).evaluate()


def test_an_unknown_dataset_raises_at_once():
    try:
        with pytest.raises(ValueError, match="'nowhere' has no 'stuff_classes'"):
            SemanticEvaluator("nowhere")
    finally:
        MetadataCatalog.remove("nowhere")


def test_every_class_is_logged_under_its_name(dataset, tmp_path):
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("mtaclip.evaluation")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        evaluator = SemanticEvaluator(dataset)
        evaluator.process([write_labels(tmp_path, "a", np.array([[0, 0, 1]]))], [scores_of(np.array([[0, 0, 0]]))])
        evaluator.evaluate()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in "\n".join(lines).splitlines() if "|" in line}
    assert [cell.strip() for cell in rows["road"]] == ["66.67", "100.00", "66.67"]  # IoU 2/3, all found, 2 of 3 pixels
    assert [cell.strip() for cell in rows["path"]] == ["0.00", "0.00", "33.33"]
    assert [cell.strip() for cell in rows["sky"]] in (["-", "-", "0.00"], ["-"])  # class row, then category row
