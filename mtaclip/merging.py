"""Putting configs together, and one sentence on what does not belong into one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import yaml
from detectron2.config import CfgNode, get_cfg

from mtaclip.config import add_mtaclip_config
from mtaclip.limits import check_limits
from mtaclip.problems import first_line

# What libraries raise for a text that is no config, or one with other keys or types of values.
REFUSALS = (yaml.YAMLError, AttributeError, KeyError, AssertionError, TypeError, ValueError, RecursionError)

# Values that occur again in a YAML text, and lists or sections within each other; with more, few lines could ask for
# any amount of memory, or of time.
_MOST_ALIASES, _DEEPEST = 20, 50


class _ModestFile(CfgNode):
    """Opens configs of this machine that stay as small in memory as they are on the disk."""

    @classmethod
    def _open_cfg(cls, filename: str) -> TextIO:
        if not Path(filename).is_file():  # Detectron2 would download it, if it is an address
            raise FileNotFoundError(f"There is no config file {filename!r}: a _BASE_ is a file of this machine.")
        file = super()._open_cfg(filename)
        _check_modesty(file, _MOST_ALIASES)
        file.seek(0)
        return file


def _check_modesty(text: str | TextIO, most_aliases: int) -> None:
    """Refuse a YAML text that would become much larger, or take long to read."""
    aliases = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"its values are nested too deeply: {_DEEPEST} levels are allowed")
    if aliases > most_aliases:
        raise ValueError(f"it has {aliases} YAML aliases, {most_aliases} are allowed: write the values out")


def default_config() -> CfgNode:
    """Detectron2's keys and this project's, with their defaults."""
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    return cfg


def merge_file(cfg: CfgNode, file: str | Path) -> None:
    """Override keys by those of a YAML file, whose `_BASE_` is read first; neither runs code.

    Args:
        cfg: changed in place.
        file: of a whole config or a part of one.

    Raises:
        OSError: there is no such file or base.
        ValueError: it is no such file, or has an unknown key or a value of the wrong type.
    """
    try:
        _ModestFile.load_yaml_with_base(str(file), allow_unsafe=False)
        cfg.merge_from_file(str(file), allow_unsafe=False)
        _check_values(cfg)
    except REFUSALS as error:
        raise refusal(file, error) from error


def merge_text(cfg: CfgNode, text: str, source: str, *, most_aliases: int = _MOST_ALIASES) -> None:
    """Override keys by those of a YAML text, which runs no code.

    Args:
        cfg: changed in place.
        text: of a whole config or a part of one.
        source: where it comes from, for the message.
        most_aliases: values that may occur again.

    Raises:
        ValueError: it is no such text, or has an unknown key or a value of the wrong type.
    """
    try:
        _check_modesty(text, most_aliases)
        cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
        _check_values(cfg)
    except REFUSALS as error:
        raise refusal(source, error) from error


def merge_options(cfg: CfgNode, opts: Sequence[str], source: str = "The command line") -> None:
    """Override keys by those of a command line.

    Args:
        cfg: changed in place.
        opts: keys and values in turn.
        source: where they come from, for the message.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or a key without a value.
    """
    if len(opts) % 2:
        raise ValueError(f"{source}: options come in pairs of key and value, the last one, {opts[-1]!r}, has no value.")
    try:
        cfg.merge_from_list(list(opts))
        _check_values(cfg)
    except REFUSALS as error:
        raise refusal(source, error) from error


def _check_values(cfg: CfgNode) -> None:
    """Refuse what yacs lets pass and the checks of the program could not read."""
    _check_kinds(cfg, default_config())
    check_limits(cfg)
    lists = {
        "DATASETS.TRAIN": cfg.DATASETS.TRAIN,
        "DATASETS.TEST": cfg.DATASETS.TEST,
        "MODEL.WEIGHTS_REINIT": cfg.MODEL.WEIGHTS_REINIT,
    }
    for key, names in lists.items():
        other = [name for name in names if not isinstance(name, str)]
        if other:
            raise ValueError(f"{key}: {other[0]!r} is no name; put names in quotes, with commas between them")


def _check_kinds(cfg: CfgNode, default: CfgNode, prefix: str = "") -> None:
    """Refuse nothing in the place of a value, and a section without its keys."""
    for key, value in default.items():
        if key not in cfg:
            raise ValueError(f"{prefix}{key} is missing: set the keys of a section, not the section")
        if isinstance(value, CfgNode):
            _check_kinds(cfg[key], value, f"{prefix}{key}.")
        elif cfg[key] is None and value is not None:
            raise ValueError(f"{prefix}{key} has no value, its default is {value!r}")


def refusal(source: object, error: Exception) -> ValueError:
    """What is wrong with a config, as a sentence.

    Args:
        source: where it comes from.
        error: one of `REFUSALS`.
    """
    if isinstance(error, yaml.YAMLError):
        reason = f"not plain YAML ({' '.join(str(error).split())})"
    elif isinstance(error, UnicodeDecodeError):
        reason = f"not UTF-8 text ({error.reason})"
    elif isinstance(error, RecursionError):
        reason = "its values are nested too deeply, or its _BASE_ leads back to it"
    elif isinstance(error, AttributeError | TypeError):
        reason = "it must hold keys with their values, as 'SEED: 1'"
    else:
        reason = first_line(error)
    hint = "; mtaclip/config.py lists the keys of this project" if "Non-existent" in reason else ""
    return ValueError(f"{source}: {reason}{hint}.")
