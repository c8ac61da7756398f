"""Checkpoints of a training run: read safely, loaded completely, never half written.

A file is written under a hidden name that ends in `.partial`, flushed to the disk and only then given its name;
`last_checkpoint`, which names the file that a run resumes from, is written the same way and after it. A run that is
killed at any moment therefore leaves complete checkpoints and at most one `.partial` file, which the next run removes.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from mtaclip.checkpoint.loading import compare_classes, load_state, read_checkpoint
from mtaclip.checkpoint.starting import load_start
from mtaclip.files import not_written, remove_partial_files, replace_file

_logger = logging.getLogger(__name__)
_TAG = "last_checkpoint"


class Checkpointer(FvcoreCheckpointer):
    """Saves and restores a model and what trains it in an output folder.

    Args:
        model: the model, wrapped for several processes or not.
        save_dir: folder of the files; only the main process writes.
        config: what the model is built from; it is stored too, so that the file is enough for a `Predictor`.
        class_names: of the training data; they are stored, and compared with those of what is loaded.
        **checkpointables: objects with a state, such as `optimizer` and `scheduler`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        config: CfgNode | None = None,
        class_names: Sequence[str] = (),
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.path_manager = PathManager
        self._config = None if config is None else config.dump()
        self._class_names = list(class_names)

    def save(self, name: str, *, tag: bool = True, required: bool = True, **kwargs: Any) -> bool:
        """Write `<name>.pth`, on the main process.

        The file appears complete under its name or not at all.

        Args:
            name: file name without its ending.
            tag: name the file in `last_checkpoint`, so that a resumed run starts from it.
            required: raise where the file system refuses the file (a full disk); else it is logged as an error.
            **kwargs: plain values to store beside the state, such as `iteration`.

        Returns:
            Whether the file is there now; False on processes that do not write.

        Raises:
            OSError: the file system refuses the file, and it is required.
        """
        if not self.save_dir or not self.save_to_disk:
            return False
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        data |= {} if self._config is None else {"config": self._config}
        data |= {"class_names": self._class_names} if self._class_names else {}
        data |= kwargs
        target = Path(self.save_dir) / f"{name}.pth"
        try:
            save_atomically(data, target)
            if tag:
                self.tag_last_checkpoint(target.name)
        except OSError as error:
            message = not_written(target, error)
            if required:
                raise OSError(f"{message}; remove the cause and go on with --resume.") from error
            _logger.error("%s; training goes on and tries again with the next checkpoint.", message)
            return False
        return True

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file of `save_dir` that a resumed run starts from."""
        replace_file(Path(self.save_dir) / _TAG, last_filename_basename.encode(), durable=True)

    def remove_partial_files(self) -> None:
        """Remove what a run that was killed in the middle of a write left in `save_dir`, on the main process."""
        if not self.save_dir or not self.save_to_disk:
            return
        remove_partial_files(Path(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """The file that `last_checkpoint` names, there or not; "" if it names none."""
        try:
            name = (Path(self.save_dir) / _TAG).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""
        return str(Path(self.save_dir) / name) if name else ""

    def has_checkpoint(self) -> bool:
        """Whether `save_dir` holds files of a run, complete or not."""
        folder = Path(self.save_dir)
        return bool(self.save_dir) and ((folder / _TAG).is_file() or any(folder.glob("model_*.pth")))

    def resume_or_load(
        self, path: str, *, resume: bool = True, allow_pickle: bool = False, reinit: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Restore everything from the newest complete checkpoint of `save_dir`, or only the weights from a file.

        Args:
            path: weights to start from where nothing is resumed.
            resume: take the file that `last_checkpoint` names, if `has_checkpoint`; where it is missing or damaged,
                that of the latest iteration among the complete ones, with a warning; clocks are not relied on.
            allow_pickle, reinit: see `load`; a checkpoint that is resumed from must fit as it is.

        Returns:
            What else the file holds.

        Raises:
            FileNotFoundError, ValueError: see `load`; also, no checkpoint of `save_dir` is complete.
        """
        if resume and self.has_checkpoint():
            return self.load(str(self._newest_complete()))
        return self.load(path, checkpointables=[], allow_pickle=allow_pickle, reinit=reinit)

    def load(
        self,
        path: str,
        checkpointables: list[str] | None = None,
        *,
        allow_pickle: bool = False,
        reinit: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Restore the model and the named checkpointables.

        Args:
            path: a checkpoint; "" leaves everything as it is.
            checkpointables: names to restore; None restores all.
            allow_pickle: see `read_checkpoint`.
            reinit: parts of the model that need not fit and start anew, see `load_start`.

        Returns:
            What else the file holds.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, does not fit the model, or lacks something that is to be restored.
        """
        if not path:
            return {}
        checkpoint = read_checkpoint(path, allow_pickle=allow_pickle)
        names = list(self.checkpointables) if checkpointables is None else checkpointables
        absent = [name for name in names if name not in checkpoint]
        if absent:
            raise ValueError(
                f"{path} cannot be resumed from: it holds no {' and no '.join(absent)}; "
                "start from its weights instead (MODEL.WEIGHTS, without --resume)."
            )
        if "classes" not in reinit:
            compare_classes(checkpoint, self._class_names, path)
        if reinit:
            load_start(self.model, checkpoint.pop("model"), path, reinit)
        else:
            load_state(self.model, checkpoint.pop("model"), path)
        for name in names:
            try:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path} cannot be resumed from: its {name} does not fit this run "
                    f"({type(error).__name__}: {error}); take the config it was trained with, or start from its "
                    "weights (MODEL.WEIGHTS, without --resume)."
                ) from error
        return checkpoint

    def _newest_complete(self) -> Path:
        folder, tag = Path(self.save_dir), Path(self.save_dir) / _TAG
        tagged = self.get_checkpoint_file()
        problems = [] if tagged else [f"{tag}: {'empty' if tag.is_file() else 'missing'}"]
        for path in self._candidates(tagged):
            problem = _damage(path)
            if problem is None:
                if problems:
                    _logger.warning("--resume: %s; going on from %s instead.", "; ".join(problems), path)
                return path
            problems.append(f"{path}: {problem}")
        raise ValueError(
            f"--resume: {folder} holds no complete checkpoint ({'; '.join(problems)}); put a copy of one there, or "
            "start anew, without --resume or with another OUTPUT_DIR."
        )

    def _candidates(self, tagged: str) -> Iterator[Path]:
        """The tagged file, then the others, later iterations first; those behind the tagged one are of another run."""
        if tagged:
            yield Path(tagged)
        last = _iteration(Path(tagged)) if tagged else -1
        others = (path for path in Path(self.save_dir).glob("model_*.pth") if path != Path(tagged))
        found = [(_iteration(path), path) for path in others]
        found.sort(key=lambda item: (last < 0 or item[0] <= last, *item), reverse=True)
        yield from (path for _, path in found)


def _iteration(path: Path) -> int:
    """Which iteration a checkpoint is of; -1 if that cannot be read."""
    numbered = re.fullmatch(r"model_(\d+)", path.stem)
    if numbered:
        return int(numbered[1])
    try:
        return int(read_checkpoint(path)["iteration"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def _damage(path: Path) -> str | None:
    """What is wrong with a file of `torch.save`, by its table of contents and checksums; None if nothing is."""
    if not os.path.isfile(path):  # no error for what cannot be a name
        return "missing"
    try:
        with ZipFile(path) as archive:
            return None if archive.testzip() is None else "damaged"
    except (BadZipFile, EOFError, NotImplementedError):
        return "damaged or incomplete"


def save_atomically(data: dict[str, Any], target: Path) -> None:
    """`torch.save` to a file that appears complete, on the disk, or not at all.

    Raises:
        OSError: the file system refuses it.
    """

    def save(file: BinaryIO) -> None:
        try:
            torch.save(data, file)
        except RuntimeError as error:  # PyTorch trips over the incomplete file while it handles another error
            if isinstance(error.__context__, OSError | KeyboardInterrupt):
                raise error.__context__ from None
            raise

    replace_file(target, save, durable=True)
