"""Where the scalars and pictures of a training go: the log, `metrics.json` and TensorBoard."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from mtaclip.files import not_written

_ROOM = 2**20  # bytes that must be free for another file of events
_logger = logging.getLogger(__name__)


def build_writers(folder: Path, max_iter: int) -> list[EventWriter]:
    """Detectron2's writers, which here outlive a full disk.

    Args:
        folder: OUTPUT_DIR.
        max_iter: number of iterations of the training.
    """
    metrics = folder / "metrics.json"
    drop_incomplete_line(metrics)
    return [
        CommonMetricPrinter(max_iter),
        LenientWriter(JSONWriter(str(metrics)), metrics),
        LenientWriter(RenewedTensorboard(folder), folder / "events.out.tfevents"),
    ]


class LenientWriter(EventWriter):
    """Logs what keeps another writer from writing, such as a full disk, where that would end the training.

    Args:
        writer: writes scalars somewhere.
        file: what it writes, for the message.
    """

    def __init__(self, writer: EventWriter, file: Path) -> None:
        self._writer = writer
        self._file = file

    def write(self) -> None:
        """Write, or log why not."""
        self._try(self._writer.write)

    def close(self) -> None:
        """Close, or log why not."""
        self._try(self._writer.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            _logger.error("%s; training goes on.", not_written(self._file, error))


class RenewedTensorboard(EventWriter):
    """Detectron2's writer for TensorBoard, which cannot write any more once it has failed: another takes its place.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: TensorboardXWriter | None = None

    def write(self) -> None:
        """Write to the file, or to a new one if there is none or it has failed.

        Raises:
            OSError: the file system refuses it.
        """
        try:
            if self._writer is None:
                self._writer = self._make()
            self._writer.write()
        except OSError:
            self._writer = None
            raise

    def close(self) -> None:
        """Write what is waiting, and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _make(self) -> TensorboardXWriter:
        if shutil.disk_usage(self._folder).free < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return TensorboardXWriter(str(self._folder))


def drop_incomplete_line(path: Path) -> None:
    """Cut off what an interrupted write left behind the last line break of a text file, if there is one."""
    if path.is_file():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
