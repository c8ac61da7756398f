"""Videos: what is read and what is written, through real files."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtaclip.visualization import Painter, Palette, Segmented
from mtaclip.visualization.film import Film
from mtaclip.visualization.painter import KINDS
from mtaclip.visualization.video import VideoReader, VideoWriter, can_show_windows, quiet_codecs

PALETTE = Palette(("red", "green", "blue"), np.eye(3, dtype=np.uint8) * 255)
SIZE = (64, 96)  # height, width
TOLERANCE = 6  # of a colour, after MPEG-4 and its way from RGB and back


@pytest.fixture(autouse=True)
def quiet():
    quiet_codecs()


def write(stem: Path, frames, frame_rate: float = 10.0) -> Path:
    writer = VideoWriter(stem, frame_rate)
    for frame in frames:
        writer.write(frame)
    writer.close()
    assert writer.file is not None
    return writer.file


def noise(count: int):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def stripes() -> np.ndarray:
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    for channel in range(3):
        image[:, 32 * channel : 32 * (channel + 1), channel] = 255
    return image


@pytest.mark.parametrize("frame_rate", [10.0, 25.0, 30000 / 1001])
def test_three_seconds_keep_rate_count_size_and_colours(tmp_path, frame_rate):
    count = round(3 * frame_rate)
    file = write(tmp_path / "clip", [stripes()] * count, frame_rate)
    assert file == tmp_path / "clip.mp4"
    with VideoReader(file) as video:
        assert video.frame_rate == pytest.approx(frame_rate, abs=0.001)
        assert video.frame_count == count
        frames = list(video.frames())
    assert len(frames) == count
    assert all(frame.shape == (*SIZE, 3) and frame.dtype == np.uint8 for frame in frames)
    for frame in (frames[0], frames[-1]):
        for column, colour in ((16, (255, 0, 0)), (48, (0, 255, 0)), (80, (0, 0, 255))):
            assert np.abs(frame[32, column].astype(int) - colour).max() <= TOLERANCE


def test_where_mp4_cannot_be_written_avi_is_used(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    file = write(tmp_path / "clip", [stripes()] * 5)
    assert file == tmp_path / "clip.avi"
    with VideoReader(file) as video:
        assert (video.frame_rate, video.frame_count) == (10.0, 5)
        assert np.abs(next(video.frames())[32, 80].astype(int) - (0, 0, 255)).max() <= TOLERANCE
    with pytest.raises(OSError, match="no video there"):
        write(tmp_path / "absent" / "clip", [stripes()])


def test_frames_of_another_size_are_refused(tmp_path):
    writer = VideoWriter(tmp_path / "clip", 10.0)
    writer.write(stripes())
    with pytest.raises(ValueError, match="20 x 10 pixels cannot follow frames of 96 x 64"):
        writer.write(np.zeros((10, 20, 3), dtype=np.uint8))
    writer.close()


def test_what_comes_before_a_break_is_read_and_the_file_is_named(tmp_path):
    (tmp_path / "clip.mp4").mkdir()  # AVI keeps its frame count at the beginning
    file = write(tmp_path / "clip", noise(30))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    count = 0
    with (
        VideoReader(file) as video,
        pytest.raises(ValueError, match=r"clip\.avi is damaged: only \d+ of its 30 frames"),
    ):
        for _ in video.frames():
            count += 1
    assert 10 < count < 20


def test_files_that_are_no_video_are_named(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be opened"):
        VideoReader(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4 does not exist"):
        VideoReader(tmp_path / "absent.mp4")


def test_a_missing_camera_is_named():
    with pytest.raises(ValueError, match="camera 63 cannot be opened: there is none"):
        VideoReader(63)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems need no DISPLAY")
def test_without_a_display_there_are_no_windows(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not can_show_windows()
    monkeypatch.setenv("DISPLAY", ":987")  # of a server that is not there
    assert not can_show_windows()


def test_a_file_of_the_working_directory_is_no_opencv(monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", ":987")
    can_show_windows()
    assert not (tmp_path / "ran").exists()


def test_a_film_has_videos_ids_and_one_legend_for_all_frames(tmp_path):
    labels = np.arange(3, dtype=np.uint8).repeat(32)[None].repeat(64, axis=0)
    certain = np.ones(SIZE, dtype=np.float32)
    with Film(tmp_path, "clip", Painter(PALETTE, opacity=1.0), 10.0, KINDS) as film:
        film.write(Segmented(stripes(), labels, certain))
        film.write(Segmented(stripes(), np.zeros_like(labels), certain))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "clip_colours.mp4",
        "clip_confidence.mp4",
        "clip_ids",
        "clip_legend.png",
        "clip_overlay.mp4",
        "clip_side-by-side.mp4",
    ]
    ids = [np.array(Image.open(file)) for file in sorted((tmp_path / "clip_ids").iterdir())]
    assert np.array_equal(ids[0], labels) and not ids[1].any() and len(ids) == 2
    with VideoReader(tmp_path / "clip_colours.mp4") as video:
        assert np.abs(next(video.frames())[32, 48].astype(int) - (0, 255, 0)).max() <= TOLERANCE
    with VideoReader(tmp_path / "clip_side-by-side.mp4") as video:
        assert next(video.frames()).shape == (64, 200, 3)
    legend = np.array(Image.open(tmp_path / "clip_legend.png"))
    assert all((legend == colour).all(axis=2).any() for colour in PALETTE.colours)  # also those of the first frame


class CountingPainter(Painter):
    """Counts what it draws."""

    drawn = 0

    def frame(self, *arguments):
        type(self).drawn += 1
        return super().frame(*arguments)


def test_a_frame_that_is_repeated_is_drawn_once(tmp_path):
    segmented = Segmented(stripes(), np.zeros(SIZE, dtype=np.uint8))
    with Film(tmp_path, "webcam", CountingPainter(PALETTE), 10.0, ["overlay", "ids"]) as film:
        film.write_until(segmented, 5.0)
    assert CountingPainter.drawn == 1 and len(list((tmp_path / "webcam_ids").iterdir())) == 50
    assert cv2.VideoCapture(str(tmp_path / "webcam_overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 50


def test_a_live_film_lasts_as_long_as_what_was_seen(tmp_path):
    segmented = Segmented(stripes(), np.zeros(SIZE, dtype=np.uint8))
    with Film(tmp_path, "webcam", Painter(PALETTE), 10.0, ["overlay"]) as film:
        for seconds in (0.0, 0.5, 2.0):
            film.write_until(segmented, seconds)
    assert cv2.VideoCapture(str(tmp_path / "webcam_overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 20
