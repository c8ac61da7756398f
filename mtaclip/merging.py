"""Putting configs together, and one sentence on what does not belong into one."""

from collections.abc import Sequence

import yaml
from detectron2.config import CfgNode, get_cfg

from mtaclip.config import add_mtaclip_config
from mtaclip.problems import first_line

# What libraries raise for a text that is no config, or one with other keys or types of values.
REFUSALS = (yaml.YAMLError, AttributeError, KeyError, AssertionError, TypeError, ValueError, RecursionError)


def default_config() -> CfgNode:
    """Detectron2's keys and this project's, with their defaults."""
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    return cfg


def merge_text(cfg: CfgNode, text: str, source: str) -> None:
    """Override keys by those of a YAML text, which runs no code.

    Args:
        cfg: changed in place.
        text: of a whole config or a part of one.
        source: where it comes from, for the message.

    Raises:
        ValueError: it is no such text, or has an unknown key or a value of the wrong type.
    """
    try:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
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
    except REFUSALS as error:
        raise refusal(source, error) from error


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
