"""The models that users name on command lines."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mtaclip.engine import setup_cfg
from mtaclip.predictor import Predictor


def check_there(checkpoint: Path) -> None:
    """Refuse a name of nothing.

    Raises:
        FileNotFoundError: there is neither such a file nor such a folder.
    """
    if not checkpoint.exists():
        raise FileNotFoundError(f"--checkpoint: there is no file or folder {str(checkpoint)!r}.")


def load_predictor(
    checkpoint: Path, config_file: str | None = None, device: str | None = None, opts: Sequence[str] = ()
) -> Predictor:
    """The model of a checkpoint.

    Args:
        checkpoint: a file, or the folder of a published model.
        config_file: YAML file of the model; None takes the config in the checkpoint.
        device: see `Predictor.from_checkpoint`.
        opts: config keys and values in turn.

    Raises:
        FileNotFoundError: there is no such checkpoint or config.
        ValueError: they do not fit together, or the device is not there.
    """
    check_there(checkpoint)
    if config_file is not None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Predictor(setup_cfg(config_file, [*opts, "MODEL.WEIGHTS", str(checkpoint)], device=device))
    if checkpoint.is_dir():
        return Predictor.from_pretrained(checkpoint, device, opts)
    return Predictor.from_checkpoint(checkpoint, device, opts)
