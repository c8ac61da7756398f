"""Videos and cameras in, videos out."""

import logging
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event

from mtaclip.demo.pipeline import pipeline
from mtaclip.demo.problems import attempt, report_problem
from mtaclip.demo.progress import progress
from mtaclip.demo.segmenter import Segmenter
from mtaclip.visualization import Painter, Segmented
from mtaclip.visualization.film import Film
from mtaclip.visualization.painter import FILMED_KINDS
from mtaclip.visualization.video import VideoReader, Window

logger = logging.getLogger(__name__)


def segment_videos(
    files: Sequence[tuple[Path, str]], segmenter: Segmenter, painter: Painter, output: Path, kinds: Sequence[str]
) -> int:
    """Segment videos one after the other; those that cannot be read to their end are named in the log.

    The results of the frames before are complete. Decoding, the model and drawing run side by side.

    Args:
        files: videos, and the beginnings of their output names.
        segmenter: the model.
        painter: the style.
        output: folder of the results; it is there.
        kinds: which results, of `mtaclip.visualization.painter.KINDS`.

    Returns:
        the number of unusable videos.
    """
    failures = 0
    for file, stem in files:

        def segment(file: Path, stem: str = stem) -> None:
            _segment_video(file, stem, segmenter, painter, output, kinds)

        failures += report_problem(file, attempt(segment)(file))
    return failures


def _segment_video(
    file: Path, stem: str, segmenter: Segmenter, painter: Painter, output: Path, kinds: Sequence[str]
) -> None:
    with (
        VideoReader(file) as video,
        Film(output, stem, painter, video.frame_rate, kinds) as film,
        closing(pipeline(video.frames(), segmenter)) as results,
    ):
        for segmented in progress(results, video.frame_count, f"frame of {file.name}"):
            film.write(segmented)


def film_camera(
    video: VideoReader,
    segmenter: Segmenter,
    painter: Painter,
    output: Path | None,
    kinds: Sequence[str],
    with_window: bool,
) -> None:
    """Segment the newest frame of a camera each time, until the window is closed, or Ctrl-C or SIGTERM arrives.

    Args:
        video: the camera.
        segmenter: the model.
        painter: the style.
        output: folder, already there, for a film that lasts as long as what the camera saw; None saves nothing.
        kinds: which results to save; the first that becomes a video is shown in the window.
        with_window: show them; see `mtaclip.visualization.video.can_show_windows`.

    Raises:
        OSError: the results cannot be written.
        ValueError: the camera gives no frame.
    """
    shown = next((kind for kind in kinds if kind in FILMED_KINDS), "overlay")
    with ExitStack() as stack:
        film = stack.enter_context(Film(output, "webcam", painter, video.frame_rate, kinds)) if output else None
        window = stack.enter_context(Window(video.name)) if with_window else None
        stop = stack.enter_context(_stopped_by_signals())
        results = stack.enter_context(closing(pipeline(video.frames(), segmenter, newest_only=True, stop=stop)))
        _follow(progress(results, None, "frame"), film, window, painter, shown)
        if stop.is_set():
            logger.info("Stopped.")


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """An event that Ctrl-C or SIGTERM sets; the second time they do what they did before.

    An exception in their place would be lost where it is raised in a callback, of which drawing has many.
    """
    stop = Event()
    previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _follow(
    results: Iterable[Segmented], film: Film | None, window: Window | None, painter: Painter, shown: str
) -> None:
    """Save and show results until there are none, or the window is closed."""
    start = time.monotonic()
    for segmented in results:
        if film is not None:
            film.write_until(segmented, time.monotonic() - start)
        if window is not None and not window.show(painter.frame(shown, segmented)):
            return
