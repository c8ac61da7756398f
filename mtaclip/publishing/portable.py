"""Configs that mean the same on another machine, and that may come from anybody."""

import json
import os
from pathlib import Path

import yaml
from detectron2.config import CfgNode

from mtaclip.data.datasets import KNOWN_DATASETS
from mtaclip.data.folder import FOLDER_VOCABULARY
from mtaclip.data.vocabulary import known_vocabularies, read_vocabulary
from mtaclip.merging import default_config, merge_text
from mtaclip.modeling.clip import MODEL_PARTS, missing_parts
from mtaclip.publishing.files import CLIP_MODEL, CONFIG, VOCABULARY, read_text

_OTHER_MODELS = ("hf_", "timm_")  # beginnings of open_clip's keys for towers of other libraries, which they download


class _WithoutAliases(yaml.SafeDumper):
    """Writes a value wherever it occurs."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def config_files(cfg: CfgNode) -> dict[str, bytes]:
    """A config for a published folder, and the files that it names.

    Args:
        cfg: of the model; it is not changed.

    Returns:
        Contents of `config.yaml`, without paths of this machine and datasets that only it knows, and of
        `vocabulary.txt` and `clip_model.json`, where the model needs them.

    Raises:
        ValueError: the vocabulary is missing, or the model is asked for other classes than its own.
        OSError: a file cannot be read.
    """
    if cfg.TEST.VOCABULARY:
        raise ValueError("TEST.VOCABULARY is for whoever uses the model: publish it with the key empty.")
    cfg = cfg.clone()
    cfg.defrost()
    files = {}
    text = cfg.MODEL.MTACLIP.TEXT
    if text.ENABLED:
        files[VOCABULARY] = _vocabulary(cfg)
        text.VOCABULARY = VOCABULARY
    elif text.VOCABULARY not in known_vocabularies():
        text.VOCABULARY = ""
    if cfg.MODEL.CLIP.ARCH.endswith(".json"):
        files[CLIP_MODEL] = Path(cfg.MODEL.CLIP.ARCH).read_bytes()
        cfg.MODEL.CLIP.ARCH = CLIP_MODEL
    _forget_machine(cfg)
    files[CONFIG] = yaml.dump(yaml.safe_load(cfg.dump()), Dumper=_WithoutAliases).encode()
    return files


def _vocabulary(cfg: CfgNode) -> bytes:
    """The content of a file with the class texts of a model."""
    name = cfg.MODEL.MTACLIP.TEXT.VOCABULARY
    return "\n".join(cfg.DATASETS.FOLDER.NAMES).encode() if name == FOLDER_VOCABULARY else read_vocabulary(name)


def read_config(folder: Path) -> CfgNode:
    """The config of a published folder; it can name no file outside of the folder.

    Args:
        folder: of `config_files`.

    Returns:
        A complete config, in which the files of the folder have their paths.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the config is damaged, has other keys, or names other files.
    """
    file = folder / CONFIG
    cfg = default_config()
    text = read_text(file)
    source = f"{file}: not the config of a published model"
    if not text.strip():
        raise ValueError(f"{source}: it is empty.")
    merge_text(cfg, text, source, most_aliases=0)
    _find_files(cfg, folder)
    return cfg


def _find_files(cfg: CfgNode, folder: Path) -> None:
    """Replace the names of the folder's files by their paths, and refuse the names of others."""
    text, arch = cfg.MODEL.MTACLIP.TEXT, cfg.MODEL.CLIP.ARCH
    vocabulary = text.VOCABULARY
    if vocabulary not in (VOCABULARY, "", *known_vocabularies()):
        raise _outside(folder, "MODEL.MTACLIP.TEXT.VOCABULARY", vocabulary, VOCABULARY)
    if arch != CLIP_MODEL and (arch.endswith(".json") or Path(arch).name != arch):
        raise _outside(folder, "MODEL.CLIP.ARCH", arch, CLIP_MODEL)
    _forget_machine(cfg)
    if vocabulary == VOCABULARY:
        read_text(folder / VOCABULARY)
        text.VOCABULARY = str(folder / VOCABULARY)
    if arch == CLIP_MODEL:
        _check_clip_model(folder / CLIP_MODEL)
        cfg.MODEL.CLIP.ARCH = str(folder / CLIP_MODEL)


def _outside(folder: Path, key: str, value: str, own: str) -> ValueError:
    return ValueError(
        f"{folder / CONFIG}: {key} is {value!r}, but a published config may name no file besides its folder's {own!r}."
    )


def _check_clip_model(file: Path) -> None:
    """Refuse what is no model config of open_clip, and models for which open_clip would ask the network."""
    try:
        content = json.loads(read_text(file))
        if missing_parts(content):
            raise ValueError("parts are missing")
        towers = {**content["vision_cfg"], **content["text_cfg"]}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a model config of open_clip, which has {sorted(MODEL_PARTS)}.") from error
    other = [key for key, value in towers.items() if key.startswith(_OTHER_MODELS) and isinstance(value, str)]
    if other:
        raise ValueError(f"{file}: {other[0]} names a model of another library, which a published model may not.")


def _forget_machine(cfg: CfgNode) -> None:
    """Take away what holds for one machine only, and the names of datasets that not every installation knows."""
    default = default_config()
    _blank_paths(cfg)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.WEIGHTS_REINIT = ()
    cfg.MODEL.WEIGHTS_ALLOW_PICKLE = False
    cfg.MODEL.CLIP.PRETRAINED = cfg.MODEL.CLIP.CACHE_DIR = ""
    cfg.MODEL.DEVICE = default.MODEL.DEVICE
    cfg.OUTPUT_DIR = default.OUTPUT_DIR
    for key in ("TRAIN", "TEST"):
        cfg.DATASETS[key] = tuple(name for name in cfg.DATASETS[key] if name in KNOWN_DATASETS)
        cfg.DATASETS[f"PROPOSAL_FILES_{key}"] = ()
    cfg.DATASETS.FOLDER = default.DATASETS.FOLDER
    cfg.TEST.VOCABULARY = ""


def _blank_paths(node: CfgNode) -> None:
    """Make texts empty that can only name a file or folder of a machine."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            _blank_paths(value)
        elif isinstance(value, str) and (os.sep in value or value.startswith("~")):
            node[key] = ""
