"""Data loaders, and the check that a dataset and the config agree."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm

from mtaclip.data.datasets import get_records
from mtaclip.data.labels import IGNORE_LABEL
from mtaclip.data.loader import SampleLoader, TrainingLoader
from mtaclip.data.mapper import SemanticMapper
from mtaclip.data.sampling import BatchNumbers, TrainingSamples
from mtaclip.data.workers import StopSignals


def build_train_loader(cfg: CfgNode, *, seed: int = 0, start: int = 0) -> TrainingLoader:
    """Build the endless, shuffled loader of DATASETS.TRAIN.

    Args:
        cfg: DATASETS.TRAIN, SOLVER.IMS_PER_BATCH (over all processes), SOLVER.ACCUMULATE, DATALOADER.NUM_WORKERS,
            DATALOADER.TOLERATE_BROKEN and INPUT are read.
        seed: of the run, the same in all processes; it fixes the order of the images and their augmentations.
        start: iteration to start at.

    Returns:
        Loader of lists of what `SemanticMapper` returns, SOLVER.ACCUMULATE lists per iteration, each
        SOLVER.IMS_PER_BATCH / processes / SOLVER.ACCUMULATE long. Its `broken` names the files that were replaced.

    Raises:
        ValueError: the images of an iteration cannot be shared equally, or a negative number of broken files is
            tolerated; see also `check_dataset`, `SemanticMapper`.
        FileNotFoundError: see `get_records`.
    """
    total, parts, processes = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE, comm.get_world_size()
    if parts < 1 or total < 1 or total % (parts * processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {total} must be a positive multiple of SOLVER.ACCUMULATE {parts} times {processes} "
            "process(es)."
        )
    tolerate = cfg.DATALOADER.TOLERATE_BROKEN
    if tolerate < 0:
        raise ValueError(f"DATALOADER.TOLERATE_BROKEN is {tolerate}: it must be a number of files, 0 or more.")
    signals = StopSignals()
    loader = SampleLoader(
        TrainingSamples(_checked_records(cfg, list(cfg.DATASETS.TRAIN)), SemanticMapper(cfg, True), seed, tolerate),
        batch_sampler=BatchNumbers(total, comm.get_rank(), processes, parts, start),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        worker_init_fn=signals,
    )
    return TrainingLoader(loader, tolerate, signals)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> SampleLoader:
    """Build the loader of one dataset for evaluation: every image once, in order.

    Args:
        cfg: DATALOADER.NUM_WORKERS, TEST.IMS_PER_BATCH, TEST.AUG.ENABLED, MODEL.DEVICE and INPUT are read.
        dataset_name: a registered dataset.

    Returns:
        Loader whose batches are lists of samples without labels. With several processes each gets its share.

    Raises:
        ValueError, FileNotFoundError: TEST.IMS_PER_BATCH is not positive; see also `get_records`, `check_dataset` and
            `SemanticMapper`.
    """
    if cfg.TEST.IMS_PER_BATCH < 1:
        raise ValueError(f"TEST.IMS_PER_BATCH must be positive, got {cfg.TEST.IMS_PER_BATCH}.")
    records = _checked_records(cfg, [dataset_name])
    return SampleLoader(
        MapDataset(DatasetFromList(records, copy=False), SemanticMapper(cfg, False)),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
        worker_init_fn=StopSignals(),
    )


def check_dataset(dataset_name: str, num_classes: int, ignore_value: int) -> None:
    """Raise if a dataset's metadata and the config disagree.

    Args:
        dataset_name: a registered dataset; its metadata need `stuff_classes` and `ignore_label`.
        num_classes: MODEL.SEM_SEG_HEAD.NUM_CLASSES.
        ignore_value: MODEL.SEM_SEG_HEAD.IGNORE_VALUE.

    Raises:
        ValueError: class names or ignore label are missing or differ from the config, or there is a single class.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names, ignore_label = metadata.get("stuff_classes"), metadata.get("ignore_label")
    if names is None or ignore_label is None:
        missing = "stuff_classes" if names is None else "ignore_label"
        raise ValueError(
            f"dataset '{dataset_name}' has no '{missing}' in its metadata: register the dataset, or set '{missing}' "
            "with MetadataCatalog.get(name).set(...)."
        )
    if len(names) != num_classes:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes} but dataset '{dataset_name}' has {len(names)} classes: "
            "set the key to the dataset's number."
        )
    if num_classes < 2:
        raise ValueError(
            f"dataset '{dataset_name}' has the single class '{names[0]}', so that every prediction would be that "
            "class: add the background as a class of its own."
        )
    if not ignore_label == ignore_value == IGNORE_LABEL:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {ignore_value} and dataset '{dataset_name}' ignores label "
            f"{ignore_label}, but ignored pixels are {IGNORE_LABEL} in every label format: set both to {IGNORE_LABEL}."
        )


def _checked_records(cfg: CfgNode, names: list[str]) -> list[dict[str, Any]]:
    records = get_records(names)
    for name in names:
        check_dataset(name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    return records
