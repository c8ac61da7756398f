"""Writing converted checkpoints, after a check against the model that they are for."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from mtaclip.checkpoint.checkpointer import save_atomically
from mtaclip.checkpoint.deduction import facts_of, guesses_of
from mtaclip.checkpoint.loading import load_state
from mtaclip.checkpoint.renaming import Conversion, Keys
from mtaclip.data.folder import FOLDER_VOCABULARY
from mtaclip.data.vocabulary import split_texts
from mtaclip.engine.setup import check_cfg, setup_cfg
from mtaclip.merging import default_config, merge_options
from mtaclip.modeling.build import build_model
from mtaclip.problems import is_out_of_memory

_VOCABULARY = "MODEL.MTACLIP.TEXT.VOCABULARY"


def check_target(source: Path, target: Path, *, with_config: bool = False, overwrite: bool = False) -> None:
    """Refuse to write where something would be lost.

    Args:
        source: what is converted.
        target: the file to write.
        with_config: a `.json` of the same name is written, too.
        overwrite: files may be replaced.

    Raises:
        ValueError: the target is a folder, is or lies in the source, is its own `.json`, or is there already.
    """
    config = target.with_suffix(".json")
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name the file to write.")
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise ValueError(f"{target} is, or lies in, what is to be converted: name a file elsewhere.")
    if with_config and target == config:
        raise ValueError(f"{target}: the model config has this name: let that of the weights end in .pth.")
    there = [file for file in (target, config) if file.exists() and (with_config or file == target)]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is there already: name another file, or replace it (--overwrite).")


def write_converted(
    conversion: Conversion,
    source: str | Path,
    target: str | Path,
    *,
    config_file: str | Path | None = None,
    opts: Sequence[str] = (),
) -> None:
    """Check a conversion against the model that its config builds, and write both to a checkpoint.

    Args:
        conversion: what to write; `notes` gets what is to be said about it.
        source: where it comes from, for messages.
        target: the file; it appears complete or not at all.
        config_file: a config for all that the checkpoint does not decide; without one, guesses hold.
        opts: config keys and values in turn, which win over everything else.

    Raises:
        FileNotFoundError: no such config file.
        ValueError: tensors are missing or do not fit, or a config key is unknown.
        OSError: the file system refuses the file.
    """
    target = Path(target)
    try:
        facts = facts_of(conversion.state) | conversion.facts
        guesses = guesses_of(conversion.state, conversion.classes) | conversion.guesses
    except (IndexError, ValueError) as error:
        raise ValueError(f"{source}: not a complete model of this kind, {error}.") from error
    if config_file is not None:
        cfg = setup_cfg(config_file).clone()
        cfg.defrost()
    else:
        cfg = default_config()
        _set(cfg, guesses)
        if guesses["DATASETS.TEST"] and not conversion.classes:
            conversion.notes.append(
                f"Its {facts['MODEL.SEM_SEG_HEAD.NUM_CLASSES']} classes are taken for those of "
                f"{guesses['DATASETS.TEST'][0]}; --config-file can say otherwise."
            )
    _set(cfg, facts | {"MODEL.WEIGHTS": "", "MODEL.CLIP.PRETRAINED": ""})
    merge_options(cfg, opts)
    check_cfg(cfg)
    if config_file is None and not cfg.DATASETS.TEST:
        _name_classes(cfg, conversion, keep_vocabulary=_VOCABULARY in opts)
    model = _build(cfg, source)
    load_state(model, conversion.state, str(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_atomically({"model": model.state_dict(), "config": cfg.dump()}, target)


def _build(cfg: CfgNode, source: str | Path) -> nn.Module:
    on_cpu = cfg.clone()
    on_cpu.MODEL.DEVICE = "cpu"
    try:
        return build_model(on_cpu)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{source}: its model cannot be built ({' '.join(str(error).split()).rstrip('.')})."
        ) from error


def _name_classes(cfg: CfgNode, conversion: Conversion, *, keep_vocabulary: bool) -> None:
    """Put class names that belong to no known dataset into the config, where nothing but they is looked up."""
    names = tuple(conversion.classes)
    try:
        texts = split_texts(names, "class names", "name")
    except ValueError:
        texts = []
    if len(texts) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES or any(len(group) > 1 for group in texts):
        conversion.notes.append("The config names no classes: the checkpoint has no names for them that differ.")
        return
    _set(cfg, {"DATASETS.FOLDER.NAMES": names, "DATASETS.TEST": ("folder_val",)})
    if not keep_vocabulary:
        _set(cfg, {_VOCABULARY: FOLDER_VOCABULARY})


def _set(cfg: CfgNode, keys: Keys) -> None:
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
