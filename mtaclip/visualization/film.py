"""A segmented video on disk: videos of its pictures, train ids frame by frame, one legend for all."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mtaclip.visualization.painter import FILMED_KINDS, Painter, Segmented
from mtaclip.visualization.save import save_picture
from mtaclip.visualization.video import VideoWriter

VIDEO_KINDS = ("overlay", "legend")  # what is written unless something else is asked for


class Film:
    """Writes the results of a video frame by frame; close it, however early, and what is written is complete.

    `<stem>_<kind>.mp4` (or .avi) has one frame per frame of the source; `<stem>_ids/000000.png` and so on are its train
    ids; `<stem>_legend.png` shows the classes of all frames with their share of all pixels.
    """

    def __init__(
        self, folder: str | Path, stem: str, painter: Painter, frame_rate: float, kinds: Sequence[str] = VIDEO_KINDS
    ) -> None:
        """Take note; files are made with the first frame.

        Args:
            folder: where to write; it is there.
            stem: beginning of the file names.
            painter: the style.
            frame_rate: of the source, frames per second.
            kinds: which results, of `mtaclip.visualization.painter.KINDS`.
        """
        self._base, self._painter, self._frame_rate = Path(folder) / stem, painter, frame_rate
        self._kinds = kinds
        self._writers = {kind: VideoWriter(self._path(kind), frame_rate) for kind in kinds if kind in FILMED_KINDS}
        self._num_frames = 0
        self._pixels = np.zeros(256, dtype=np.int64)

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            for writer in self._writers.values():
                closing.callback(writer.close)
        if "legend" in self._kinds and self._pixels.any():
            save_picture(self._painter.legend(self._pixels), self._path("legend.png"))

    def write(self, segmented: Segmented, times: int = 1) -> None:
        """Append a frame.

        Args:
            segmented: frame and prediction.
            times: how often; it is drawn once.

        Raises:
            OSError: a file cannot be written.
            ValueError: the frame has another size than the first, or its labels do not fit the palette.
        """
        for kind, writer in self._writers.items():
            picture = self._painter.frame(kind, segmented)
            for _ in range(times):
                writer.write(picture)
        if "ids" in self._kinds:
            self._path("ids").mkdir(exist_ok=True)
            picture = self._painter.ids(segmented)
            for number in range(self._num_frames, self._num_frames + times):
                save_picture(picture, self._path("ids") / f"{number:06d}.png")
        self._pixels += times * self._painter.count(segmented)
        self._num_frames += times

    def write_until(self, segmented: Segmented, seconds: float) -> None:
        """Repeat the frame of a live source so often that the film lasts to a moment, at least once.

        Args:
            segmented: frame and prediction.
            seconds: from the beginning of the film.

        Raises:
            OSError, ValueError: see `write`.
        """
        self.write(segmented, max(1, math.floor(seconds * self._frame_rate) - self._num_frames))

    def _path(self, ending: str) -> Path:
        return self._base.with_name(f"{self._base.name}_{ending}")
