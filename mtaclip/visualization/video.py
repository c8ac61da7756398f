"""Videos and cameras read and written by OpenCV, as RGB frames."""

import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_USUAL_FRAME_RATE = 25.0  # of a source that does not say its own
_HIGHEST_FRAME_RATE = 1000.0
# Opens a window, and imports nothing from the working directory, whose files may be anybody's.
_PROBE = "import sys; sys.path = [p for p in sys.path if p]; import cv2; cv2.namedWindow('t'); cv2.destroyAllWindows()"
_PROBE_SECONDS = 30
_CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))  # the first that this OpenCV can write is used
_END_KEYS = (27, ord("q"))  # Esc
_SILENT = "-8"  # FFmpeg's level that says nothing

logger = logging.getLogger(__name__)


class VideoReader:
    """A video file, a network stream or a camera.

    Attributes:
        name: as it is called in messages.
        frame_rate: frames per second; 25 where the source does not say.
        frame_count: frames that the file's header announces; None where it does not, and for cameras.
    """

    def __init__(self, source: str | Path | int) -> None:
        """Open a source.

        Args:
            source: file, address of a stream, or number of a camera.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: OpenCV cannot open it.
        """
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"video {source} does not exist.")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            reason = "there is none, or another program uses it" if isinstance(source, int) else "it is no video"
            raise ValueError(f"{self.name} cannot be opened: {reason}, or OpenCV does not know its kind.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if math.isfinite(rate) and 0 < rate <= _HIGHEST_FRAME_RATE else _USUAL_FRAME_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if isinstance(source, Path) and 0 < count < math.inf else None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames, (H, W, 3) uint8 RGB, once.

        Raises:
            ValueError: no frame can be decoded, or the frames end more than half a second before the announced end
                (headers of some formats are estimates); raised after the last frame that could be decoded.
        """
        count = 0
        while True:
            found, frame = self._capture.read()
            if not found:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if count == 0:
            raise ValueError(f"{self.name}: no frame can be decoded.")
        if self.frame_count is not None and self.frame_count - count > self.frame_rate / 2:
            raise ValueError(f"{self.name} is damaged: only {count} of its {self.frame_count} frames can be decoded.")


class VideoWriter:
    """Writes frames to `<stem>.mp4` (MPEG-4), or to `<stem>.avi` (Motion JPEG) where OpenCV cannot write the first.

    The file is made with the first frame and is complete when the writer is closed, however early.

    Attributes:
        file: the file that is written; None before the first frame.
    """

    def __init__(self, stem: str | Path, frame_rate: float) -> None:
        """Take note; nothing is written yet.

        Args:
            stem: path without suffix.
            frame_rate: frames per second.
        """
        self.file: Path | None = None
        self._stem, self._frame_rate = Path(stem), frame_rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._num_frames = 0

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8 RGB, of the size of the first one. The codecs know even sizes only: a last odd row or
                column is left out.

        Raises:
            OSError: OpenCV can write no video there.
            ValueError: the frame has another size than the first.
        """
        height, width = frame.shape[:2]
        if self._writer is None:
            self._size = (width, height)
            self._writer = self._open()
        if (width, height) != self._size:
            raise ValueError(
                f"{self.file}: a frame of {width} x {height} pixels cannot follow frames of "
                f"{self._size[0]} x {self._size[1]}."
            )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._num_frames += 1

    def close(self) -> None:
        """Complete the file.

        Raises:
            OSError: it does not hold all frames; OpenCV does not say that a disk is full.
        """
        if self._writer is None:
            return
        self._writer.release()
        written = cv2.VideoCapture(str(self.file)).get(cv2.CAP_PROP_FRAME_COUNT)
        if written < self._num_frames:
            raise OSError(f"{self.file} holds {max(written, 0):.0f} of {self._num_frames} frames: is the disk full?")

    def _open(self) -> cv2.VideoWriter:
        if self._size[0] % 2 or self._size[1] % 2:
            logger.warning(
                "%s: %d x %d pixels lose their last odd row or column, as codecs need.", self._stem, *self._size
            )
        for suffix, codec in _CODECS:
            self.file = self._stem.with_name(self._stem.name + suffix)
            writer = cv2.VideoWriter(str(self.file), cv2.VideoWriter_fourcc(*codec), self._frame_rate, self._size)
            if writer.isOpened():
                return writer
            logger.warning("%s: this OpenCV cannot write the codec %s there.", self.file, codec)
        raise OSError(f"{self._stem}: OpenCV can write no video there; is the folder writable, the disk not full?")


class Window:
    """A window that shows frames; only where `can_show_windows`, and from one thread."""

    def __init__(self, title: str) -> None:
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def show(self, frame: NDArray[np.uint8]) -> bool:
        """Show a frame, (H, W, 3) uint8 RGB; returns False once the user has closed the window or typed q or Esc."""
        cv2.imshow(self._title, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        typed = cv2.waitKey(1) & 0xFF
        return typed not in _END_KEYS and self._is_open()

    def _is_open(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # an OpenCV with Qt has nothing left to ask once its last window is closed
            return False


def quiet_codecs() -> None:
    """Keep OpenCV and FFmpeg from writing to the terminal; call it before the first video is opened."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _SILENT)
    if hasattr(cv2, "setLogLevel"):  # before OpenCV 4.13
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def can_show_windows() -> bool:
    """Whether OpenCV can open a window here.

    Another process tries, because OpenCV may end a process that has no display.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    command = [sys.executable, "-c", _PROBE]
    try:
        return subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False
