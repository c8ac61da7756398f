"""Writing converted checkpoints, after a check against the model that they are for."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from torch import nn

from mtaclip.checkpoint.checkpointer import save_atomically
from mtaclip.checkpoint.conversion import Conversion, Keys
from mtaclip.checkpoint.deduction import facts_of, guesses_of
from mtaclip.checkpoint.loading import load_state
from mtaclip.config import add_mtaclip_config
from mtaclip.engine.setup import check_cfg, merge_options, setup_cfg
from mtaclip.files import replace_file
from mtaclip.modeling.build import build_model


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
        target: the file; it appears complete or not at all. Class names that belong to no known dataset get a
            vocabulary file beside it.
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
    vocabulary = None
    if config_file is not None:
        cfg = setup_cfg(config_file).clone()
        cfg.defrost()
    else:
        cfg = get_cfg()
        add_mtaclip_config(cfg)
        if not guesses["DATASETS.TEST"] and _are_texts(conversion.classes, facts["MODEL.SEM_SEG_HEAD.NUM_CLASSES"]):
            vocabulary = target.with_suffix(".txt")
            guesses["MODEL.MTACLIP.TEXT.VOCABULARY"] = str(vocabulary)
        _set(cfg, guesses)
        if guesses["DATASETS.TEST"] and not conversion.classes:
            conversion.notes.append(
                f"Its {facts['MODEL.SEM_SEG_HEAD.NUM_CLASSES']} classes are taken for those of "
                f"{guesses['DATASETS.TEST'][0]}; --config-file can say otherwise."
            )
    _set(cfg, facts | {"MODEL.WEIGHTS": "", "MODEL.CLIP.PRETRAINED": ""})
    merge_options(cfg, opts)
    check_cfg(cfg)
    model = _build(cfg, source)
    load_state(model, conversion.state, str(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    if vocabulary is not None:
        replace_file(vocabulary, "".join(f"{name}\n" for name in conversion.classes).encode())
        conversion.notes.append(f"The class names are in {vocabulary}, as MODEL.MTACLIP.TEXT.VOCABULARY takes them.")
    save_atomically({"model": model.state_dict(), "config": cfg.dump()}, target)


def _build(cfg: CfgNode, source: str | Path) -> nn.Module:
    on_cpu = cfg.clone()
    on_cpu.MODEL.DEVICE = "cpu"
    try:
        return build_model(on_cpu)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f"{source}: its model cannot be built ({' '.join(str(error).split())}).") from error


def _are_texts(names: Sequence[str], classes: int) -> bool:
    """Whether names can be a vocabulary's lines."""
    lines = {
        name
        for name in names
        if name == name.strip() and name.isprintable() and not name.startswith("#") and ";" not in name
    }
    return len(names) == len(lines - {""}) == classes


def _set(cfg: CfgNode, keys: Keys) -> None:
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
