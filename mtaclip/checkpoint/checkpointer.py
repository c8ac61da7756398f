"""Checkpoints of a training run: read safely, loaded completely, never half written."""

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from mtaclip.checkpoint.loading import load_state, read_checkpoint


class Checkpointer(FvcoreCheckpointer):
    """Saves and restores a model and what trains it in an output folder.

    Args:
        model: the model, wrapped for several processes or not.
        save_dir: folder of the files; only the main process writes.
        **checkpointables: objects with a state, such as `optimizer` and `scheduler`.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.path_manager = PathManager

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write `<name>.pth`, on the main process.

        The file appears complete under its name or not at all.

        Args:
            name: file name without its ending.
            tag: name the file in `last_checkpoint`, so that a resumed run starts from it.
            **kwargs: plain values to store beside the state, such as `iteration`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        data |= kwargs
        target = Path(self.save_dir) / f"{name}.pth"
        partial = target.with_name(f"{target.name}.partial")
        try:
            torch.save(data, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        if tag:
            self.tag_last_checkpoint(target.name)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Restore the model and the named checkpointables.

        Args:
            path: a checkpoint; "" leaves everything as it is.
            checkpointables: names to restore; None restores all.

        Returns:
            What else the file holds.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, does not fit the model, or lacks something that is to be restored.
        """
        if not path:
            return {}
        checkpoint = read_checkpoint(self.path_manager.get_local_path(path))
        names = list(self.checkpointables) if checkpointables is None else checkpointables
        absent = [name for name in names if name not in checkpoint]
        if absent:
            raise ValueError(
                f"{path} cannot be resumed from: it holds no {' and no '.join(absent)}; "
                "start from its weights instead (MODEL.WEIGHTS, without --resume)."
            )
        load_state(self.model, checkpoint.pop("model"), path)
        for name in names:
            self.checkpointables[name].load_state_dict(checkpoint.pop(name))
        return checkpoint
