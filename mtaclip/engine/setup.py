"""From a YAML file and command-line options to a checked configuration."""

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from mtaclip.checkpoint.starting import check_parts
from mtaclip.data.build import check_dataset
from mtaclip.data.datasets import check_registered
from mtaclip.data.folder import use_folder
from mtaclip.engine.optimizer import check_solver
from mtaclip.merging import default_config, merge_file, merge_options
from mtaclip.publishing.folder import is_published_config, read_folder


def setup_cfg(config_file: str | Path, opts: Sequence[str] = (), *, device: str | None = None) -> CfgNode:
    """Read, override and check a configuration, and register the datasets of DATASETS.FOLDER.

    Args:
        config_file: a YAML file, whose `_BASE_` is read first, or the config of a published model, whose weights
            MODEL.WEIGHTS then names.
        opts: keys and values in turn, as on Detectron2's command lines.
        device: takes the place of MODEL.DEVICE.

    Returns:
        The frozen configuration.

    Raises:
        FileNotFoundError, OSError: no such file, or no class-name file of DATASETS.FOLDER.
        ValueError: an unknown key or name, a value of the wrong type, or values that do not fit together.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"--config-file: there is no file {str(config_file)!r}.")
    cfg = default_config()
    _merge_file(cfg, config_file)
    merge_options(cfg, opts)
    if device is not None:
        cfg.MODEL.DEVICE = device
    use_folder(cfg)
    check_cfg(cfg)
    cfg.freeze()
    return cfg


def _merge_file(cfg: CfgNode, config_file: str | Path) -> None:
    if is_published_config(config_file):
        cfg.merge_from_other_cfg(read_folder(Path(config_file).parent))
    else:
        merge_file(cfg, config_file)


def check_cfg(cfg: CfgNode) -> None:
    """Refuse names that nothing answers to and values that contradict each other.

    Raises:
        ValueError: the message names the key.
    """
    _check_name("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    _check_name("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)
    for key, names in (("DATASETS.TRAIN", cfg.DATASETS.TRAIN), ("DATASETS.TEST", cfg.DATASETS.TEST)):
        for name in names:
            check_registered(name, key)
            check_dataset(name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    check_parts(cfg.MODEL.WEIGHTS_REINIT)
    if cfg.MODEL.WEIGHTS_REINIT and not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS_REINIT names what does not come from MODEL.WEIGHTS, which is empty.")
    check_solver(cfg)


def _check_name(key: str, name: str, registry) -> None:
    if name not in registry:
        raise ValueError(f"{key}: {name!r} is not registered; known are {sorted(dict(registry))}.")


def pick_device(num_gpus: int | None, configured: str = "cuda") -> str:
    """MODEL.DEVICE for a number of GPUs per machine: "cpu" for none.

    Args:
        num_gpus: as asked for; None asks for none if MODEL.DEVICE is the CPU, else for one.
        configured: MODEL.DEVICE of the configuration.

    Raises:
        ValueError: this machine has fewer.
    """
    if num_gpus == 0 or (num_gpus is None and torch.device(configured).type == "cpu"):
        return "cpu"
    available = torch.cuda.device_count()
    if (num_gpus or 1) > available:
        raise ValueError(
            f"--num-gpus {num_gpus or 1}: this machine has {available} GPU(s) that PyTorch can use; "
            + ("ask for that many, or " if available else "")
            + "train on the CPU with --num-gpus 0."
        )
    return configured if num_gpus is None else "cuda"
