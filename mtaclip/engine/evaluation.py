"""What evaluates a dataset, and keeps its label maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, verify_results
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtaclip.data.datasets import EVALUATOR_TYPE, get_records
from mtaclip.data.vocabulary import load_test_vocabulary, same_text
from mtaclip.evaluation import SemanticEvaluator
from mtaclip.evaluation.prediction_folder import PredictionFolder
from mtaclip.evaluation.predictions import PredictionWriter, SavedPredictions
from mtaclip.evaluation.snapshots import SnapshotEvaluator


def build_evaluator(cfg: CfgNode, dataset_name: str, weights: str | None = None) -> DatasetEvaluator:
    """Streaming scores of a dataset; `scores_<dataset>.json` and the report go into OUTPUT_DIR. Without labels, none.

    The report is `report.html` and `report.md`; of several test datasets, `report_<dataset>.html` and `.md`. Beside the
    scores, TEST.SNAPSHOTS images are drawn.

    Args:
        cfg: DATASETS.TEST, TEST and OUTPUT_DIR are read.
        dataset_name: one of DATASETS.TEST.
        weights: digest of the weights that are evaluated, for `scores_<dataset>.json`.

    Raises:
        ValueError: the dataset asks for another evaluator; TEST.VOCABULARY names other classes; or no image has labels,
            and TEST.SAVE_PREDICTIONS is off or scores are expected.
        FileNotFoundError: files of the dataset are missing.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind != EVALUATOR_TYPE:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name!r} has evaluator_type {kind!r}; this project evaluates datasets with "
            f'"{EVALUATOR_TYPE}", as mtaclip/data/ registers them.'
        )
    _check_classes(cfg, dataset_name)
    records = get_records([dataset_name])
    if any(record.get("sem_seg_file_name") for record in records):
        report = "report" if len(cfg.DATASETS.TEST) == 1 else f"report_{dataset_name}"
        scores = SemanticEvaluator(
            dataset_name,
            output_dir=cfg.OUTPUT_DIR,
            boundary_iou=cfg.TEST.BOUNDARY_IOU,
            report=report,
            weights=weights,
        )
        folder = Path(cfg.OUTPUT_DIR) / "snapshots" / dataset_name
        return DatasetEvaluators([SnapshotEvaluator(dataset_name, records, cfg.TEST.SNAPSHOTS, folder), scores])
    if not cfg.TEST.SAVE_PREDICTIONS:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name!r} has no labels and cannot be scored: take a split with labels, or set "
            "TEST.SAVE_PREDICTIONS True, which writes its predictions."
        )
    if cfg.TEST.EXPECTED_RESULTS:
        raise ValueError(
            f"TEST.EXPECTED_RESULTS: {dataset_name!r} of DATASETS.TEST has no labels and will have no scores: take "
            "the expected ones away, or a split with labels."
        )
    return DatasetEvaluators([])


def _check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Refuse classes of TEST.VOCABULARY that are not those of a dataset, in its order."""
    classes = load_test_vocabulary(cfg.TEST.VOCABULARY)
    if classes is None:
        return
    wanted = MetadataCatalog.get(dataset_name).get("stuff_classes", [])
    if [same_text(texts[0]) for texts in classes] != [same_text(name) for name in wanted]:
        raise ValueError(
            f"TEST.VOCABULARY has {len(classes)} classes that are not the {len(wanted)} of {dataset_name!r} in their "
            f"order ({', '.join(wanted[:2])}, ...), so that labels cannot be compared: begin each line with the "
            "dataset's name of the class, or take demo.py."
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, with the main process's buffers, as a checkpoint has them; called by all processes.

    A wrapper for several processes would make them meet at their first image, and not all have one.
    """
    if not isinstance(model, DistributedDataParallel):
        return model
    for buffer in model.module.buffers():
        dist.broadcast(buffer, src=0)
    return model.module


def saved_predictions(
    cfg: CfgNode, model: nn.Module, dataset_name: str, prints: dict[str, str] | None
) -> tuple[nn.Module, Sequence[DatasetEvaluator]]:
    """Keep the label maps of a dataset in OUTPUT_DIR, if TEST.SAVE_PREDICTIONS; called by all processes.

    Args:
        cfg: TEST.SAVE_PREDICTIONS and OUTPUT_DIR are read.
        model: as it is evaluated.
        dataset_name: the dataset.
        prints: `mtaclip.evaluation.fingerprint.fingerprint` of both, on the main process.

    Returns:
        a model that computes what is not there yet, and evaluators that write it; else the model, and none.

    Raises:
        ValueError, OSError: see `PredictionFolder`.
    """
    if not cfg.TEST.SAVE_PREDICTIONS:
        return model, ()
    place = Path(cfg.OUTPUT_DIR) / "predictions" / dataset_name
    folder = PredictionFolder(place, dataset_name, get_records([dataset_name]))
    folder.prepare(prints)
    return SavedPredictions(model, folder), (PredictionWriter(folder),)


def check_expected(cfg: CfgNode, results: Mapping[str, Mapping]) -> None:
    """End the process with exit status 1 if a score is not what TEST.EXPECTED_RESULTS says.

    Args:
        cfg: rows are [task, score, expected value, tolerance]; the task is "sem_seg", and with several test datasets
            "<dataset>/sem_seg".
        results: of `mtaclip.engine.Trainer.test`.

    Raises:
        ValueError: there is no such task.
    """
    tasks = results
    if len(cfg.DATASETS.TEST) > 1:
        tasks = {f"{name}/{task}": scores for name, found in results.items() for task, scores in found.items()}
    for task, *_ in cfg.TEST.EXPECTED_RESULTS:
        if task not in tasks:
            raise ValueError(f"TEST.EXPECTED_RESULTS: no scores are called {task!r}; there are {sorted(tasks)}.")
    verify_results(cfg, tasks)
