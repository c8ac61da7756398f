"""The models that users name on command lines."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from mtaclip.demo.views import Viewer
from mtaclip.engine import setup_cfg
from mtaclip.predictor import Predictor

_MOST_MODELS = 2  # in memory

logger = logging.getLogger(__name__)


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


class Models:
    """The models of several checkpoints; the last ones that were asked for are kept.

    Attributes:
        files: the checkpoints, and folders of published models.
    """

    def __init__(
        self, files: Sequence[Path], config_file: str | None = None, device: str | None = None, opts: Sequence[str] = ()
    ) -> None:
        """Load the first.

        Args:
            files: at least one; see `load_predictor`, also for what follows.
            config_file: of all models.
            device: of all models.
            opts: of all models.

        Raises:
            FileNotFoundError: there is no such checkpoint or config.
            ValueError: they do not fit together, or the device is not there.
        """
        self.files: tuple[Path, ...] = tuple(dict.fromkeys(files))
        for file in self.files:
            check_there(file)
        self._load = lru_cache(_MOST_MODELS)(
            lambda file: _viewer(load_predictor(file, config_file, device, opts), file)
        )
        self.viewer(self.files[0])

    def viewer(self, checkpoint: Path) -> Viewer:
        """The model of one of the files.

        Raises:
            FileNotFoundError, ValueError: the file is none of them, has gone, or does not fit.
        """
        if checkpoint not in self.files:
            raise ValueError(f"{checkpoint} is none of the checkpoints of this page.")
        return self._load(checkpoint)


def _viewer(predictor: Predictor, checkpoint: Path) -> Viewer:
    viewer = Viewer(predictor)
    if viewer.limitation:
        views = ", ".join(viewer.views)
        logger.info("%s: only these views: %s. The others are missing: %s", checkpoint, views, viewer.limitation)
    return viewer
