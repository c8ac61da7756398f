import argparse
import contextlib
import io
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import Tensor, nn

from projects.MTACLIP import demo

DATASET = "demo_test_sem_seg"
ROOT = Path(__file__).parents[2]
COMMON = ROOT / "configs" / "bases" / "common.yaml"


@META_ARCH_REGISTRY.register()
class DemoTestModel(nn.Module):
    """Predicts the class whose colour channel, weighted, is brightest."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(3))

    def forward(self, inputs: list[dict]) -> list[dict[str, Tensor]]:
        images = [item["image"].float() * self.weights[:, None, None] for item in inputs]
        sizes = [(item["height"], item["width"]) for item in inputs]
        resize = nn.functional.interpolate
        scores = [resize(x[None], size=size)[0] for x, size in zip(images, sizes, strict=True)]
        wanted = [item["scores"] for item in inputs]
        return [
            {"labels": x.argmax(0).to(torch.uint8)} | ({"sem_seg": x} if keep else {})
            for x, keep in zip(scores, wanted, strict=True)
        ]


@pytest.fixture
def command(tmp_path):
    """Arguments of a working model, without --input; the dataset's colours are those of the image channels."""
    DatasetCatalog.register(DATASET, list)
    MetadataCatalog.get(DATASET).set(
        stuff_classes=["red", "green", "blue"],
        stuff_colors=[(255, 0, 0), (0, 255, 0), (0, 0, 255)],
        ignore_label=255,
        evaluator_type="mtaclip_sem_seg",
    )
    torch.save({"model": {"weights": torch.ones(3)}}, tmp_path / "model.pth")
    config = tmp_path / "model.yaml"
    config.write_text(
        f"""\
_BASE_: {COMMON}
MODEL:
  META_ARCHITECTURE: DemoTestModel
  DEVICE: cpu
  SEM_SEG_HEAD: {{NUM_CLASSES: 3}}
DATASETS: {{TRAIN: [{DATASET}], TEST: [{DATASET}]}}
INPUT: {{MIN_SIZE_TEST: 32, MAX_SIZE_TEST: 64}}
"""
    )
    yield [
        "--config-file",
        str(config),
        "--output",
        str(tmp_path / "out"),
        "MODEL.WEIGHTS",
        str(tmp_path / "model.pth"),
    ]
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def refused(capsys):
    """A function of a command line: runs it, and returns the sentence that it ends with."""

    def run(arguments: list[str]) -> str:
        with pytest.raises(SystemExit, match="2"):
            demo.main(arguments)
        return capsys.readouterr().err.splitlines()[-1].partition("error: ")[2]

    return run


def write_image(file: Path, colour: tuple[int, int, int]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32), colour).save(file)
    return file


def stripes() -> np.ndarray:
    """A pure red, a pure green and a pure blue stripe of 32 columns each, (64, 96, 3) RGB; classes 0, 1 and 2."""
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    for channel in range(3):
        image[:, 32 * channel : 32 * (channel + 1), channel] = 255
    return image


def write_video(file: Path, count: int, frame_rate: float = 10.0, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*codec), frame_rate, (96, 64))
    for _ in range(count):
        writer.write(stripes()[..., ::-1])
    writer.release()
    return file


def read_video(file: Path) -> tuple[float, list[np.ndarray]]:
    """Frame rate and RGB frames."""
    capture = cv2.VideoCapture(str(file))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return capture.get(cv2.CAP_PROP_FPS), frames


def ids(folder: Path, stem: str) -> set[int]:
    return set(np.unique(np.array(Image.open(folder / f"{stem}_ids.png"))).tolist())


def test_files_folders_and_patterns_are_segmented(command, log, tmp_path):
    write_image(tmp_path / "one.jpg", (250, 0, 0))
    write_image(tmp_path / "folder" / "deep" / "two.PNG", (0, 250, 0))
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    write_image(tmp_path / "shots" / "three.png", (0, 0, 250))
    inputs = [tmp_path / "one.jpg", tmp_path / "folder", tmp_path / "shots" / "*.png"]
    assert demo.main(["--input", *map(str, inputs), *command]) == 0
    out = tmp_path / "out"
    kinds = ("colours", "ids", "legend", "overlay")
    assert sorted(file.name for file in out.iterdir()) == [
        f"{stem}_{kind}.png" for stem in ("one", "three", "two") for kind in kinds
    ]
    assert [ids(out, stem) for stem in ("one", "two", "three")] == [{0}, {1}, {2}]
    assert Image.open(out / "two_colours.png").getpixel((0, 0)) == (0, 255, 0)
    assert log[-1] == f"3 of 3 files segmented; the results are in {out}"


def test_an_unreadable_file_is_named_the_rest_goes_on_and_the_exit_code_is_1(command, log, tmp_path):
    bad = tmp_path / "a_broken.png"
    bad.write_bytes(b"not a picture")
    good = write_image(tmp_path / "b_good.png", (0, 0, 250))
    assert demo.main(["--input", str(bad), str(good), str(tmp_path / "absent.png"), *command]) == 1
    assert ids(tmp_path / "out", "b_good") == {2}
    assert sum("a_broken.png" in message for message in log) == 1
    assert sum("absent.png" in message for message in log) == 1
    assert log[-1].startswith("1 of 2 files segmented")


def test_images_of_the_same_name_do_not_overwrite_each_other(command, tmp_path):
    write_image(tmp_path / "a" / "x.png", (250, 0, 0))
    write_image(tmp_path / "b" / "x.png", (0, 250, 0))
    write_image(tmp_path / "b" / "y.png", (0, 0, 250))
    assert demo.main(["--input", str(tmp_path / "a"), str(tmp_path / "b"), *command]) == 0
    assert [ids(tmp_path / "out", stem) for stem in ("a_x", "b_x", "y")] == [{0}, {1}, {2}]


def test_no_input_is_one_sentence_and_exit_code_2(command, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "--input: no image or video found in" in refused(
        ["--input", str(tmp_path / "empty"), str(tmp_path / "*.gif"), *command]
    )
    assert not (tmp_path / "out").exists()


def test_options_may_follow_opts_and_errors_of_the_config_are_one_sentence(command, refused, tmp_path):
    image = write_image(tmp_path / "x.png", (250, 0, 0))
    with_opts = [*command[:4], "--opts", *command[4:]]
    assert demo.main(["--input", str(image), *with_opts]) == 0
    assert "none.pth" in refused(["--input", str(image), *command, "MODEL.WEIGHTS", str(tmp_path / "none.pth")])


def test_opacity_is_used_and_checked(command, tmp_path):
    image = write_image(tmp_path / "x.png", (0, 100, 0))
    for opacity, colour in (("0", (0, 100, 0)), ("1", (0, 255, 0))):
        assert demo.main(["--input", str(image), "--opacity", opacity, *command]) == 0
        assert Image.open(tmp_path / "out" / "x_overlay.png").getpixel((3, 3)) == colour
    with pytest.raises(SystemExit) as ended:
        demo.main(["--input", str(image), "--opacity", "1.5", *command])
    assert ended.value.code == 2
    with pytest.raises(argparse.ArgumentTypeError, match="1.5 does not lie between 0 and 1"):
        demo.share("1.5")


def test_results_do_not_become_inputs(command, refused, log, tmp_path):
    write_image(tmp_path / "x.png", (250, 0, 0))
    for _ in range(2):
        assert demo.main(["--input", str(tmp_path), *command]) == 0
    assert log[-1].startswith("1 of 1 files")
    assert "is an input folder, too" in refused(["--input", str(tmp_path / "out"), *command])


def test_red_green_and_blue_come_out_exactly_as_they_should(command, tmp_path):
    Image.fromarray(stripes()).save(tmp_path / "x.png")
    kinds = ["overlay", "colours", "ids", "side-by-side", "confidence"]
    assert demo.main(["--input", str(tmp_path / "x.png"), "--save", *kinds, *command]) == 0
    pictures = {kind: np.array(Image.open(tmp_path / "out" / f"x_{kind}.png")) for kind in kinds}
    truth = np.arange(3, dtype=np.uint8).repeat(32)[None].repeat(64, axis=0)
    assert np.array_equal(pictures["ids"], truth)
    assert np.array_equal(pictures["colours"], stripes())
    # Enlarged eight times; pure image and pure colour of the class are the same here, names are in the middle.
    assert pictures["overlay"].shape == (512, 768, 3)
    assert [pictures["overlay"][20, 256 * i + 128].tolist() for i in range(3)] == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
    ]
    assert pictures["side-by-side"].shape == (512, 2 * 768 + 8, 3)
    assert pictures["side-by-side"][20, 128].tolist() == pictures["side-by-side"][20, 768 + 8 + 128].tolist()
    assert pictures["confidence"][32, 48].tolist() == [254, 232, 56]  # the only score that is not 0: cividis' yellow


def test_confidence_by_hand(command, tmp_path):
    # Scores are the brightness of the channels: 150 / (150 + 50) = 0.75, row 191 of cividis.
    image = write_image(tmp_path / "x.png", (150, 50, 0))
    assert demo.main(["--input", str(image), "--save", "confidence", *command]) == 0
    picture = np.array(Image.open(tmp_path / "out" / "x_confidence.png"))
    assert picture.shape == (32, 48, 3)
    assert (picture == (187, 173, 109)).all()


def test_classes_hides_the_others_and_refuses_unknown_names(command, refused, tmp_path):
    Image.fromarray(stripes()).save(tmp_path / "x.png")
    options = ["--input", str(tmp_path / "x.png"), "--classes", "blue, Red"]
    assert demo.main([*options, *command]) == 0
    assert ids(tmp_path / "out", "x") == {0, 2, 255}
    assert (
        refused(["--input", str(tmp_path / "x.png"), "--classes", "red,gren", *command])
        == "--classes: there is no class 'gren'; close are: green, red."
    )
    assert refused(["--input", str(tmp_path / "x.png"), "--classes", ",", *command]) == "--classes names no class."


def test_the_colour_blind_palette_and_the_dark_legend_are_used(command, tmp_path):
    image = write_image(tmp_path / "x.png", (250, 0, 0))
    options = ["--palette", "colour-blind", "--legend-background", "dark"]
    assert demo.main(["--input", str(image), *options, *command]) == 0
    assert Image.open(tmp_path / "out" / "x_colours.png").getpixel((0, 0)) == (230, 159, 0)
    assert Image.open(tmp_path / "out" / "x_legend.png").getpixel((0, 0)) == (24, 24, 24)


def test_a_dash_reads_paths_from_standard_input(command, refused, log, tmp_path, monkeypatch):
    files = [write_image(tmp_path / name, (250, 0, 0)) for name in ("a b.png", "c.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{file}\n" for file in files)))
    assert demo.main(["--input", "-", *command]) == 0
    assert log[-1].startswith("2 of 2 files")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert refused(["--input", "-", *command]) == "--input: no image or video found in standard input."


def test_a_video_keeps_rate_count_size_and_colours(command, log, tmp_path):
    video = write_video(tmp_path / "clip.mp4", 30)
    write_image(tmp_path / "photo.png", (0, 250, 0))
    kinds = ["overlay", "colours", "ids", "legend"]
    assert demo.main(["--input", str(video), str(tmp_path / "photo.png"), "--save", *kinds, *command]) == 0
    assert log[-1].startswith("2 of 2 files")
    out = tmp_path / "out"
    for kind in ("overlay", "colours"):
        rate, frames = read_video(out / f"clip_{kind}.mp4")
        assert (rate, len(frames), frames[0].shape) == (10.0, 30, (64, 96, 3))
        for column, colour in ((16, (255, 0, 0)), (48, (0, 255, 0)), (80, (0, 0, 255))):
            if kind == "colours":
                seen = frames[-1][58, column].astype(int)
            else:  # names stand where Matplotlib's version puts them, and cover less than half
                seen = np.median(frames[-1][:, column - 12 : column + 12], axis=(0, 1))
            assert np.abs(seen - colour).max() <= 8  # of MPEG-4, twice
    assert len(list((out / "clip_ids").iterdir())) == 30
    assert np.unique(np.array(Image.open(out / "clip_ids" / "000029.png"))).tolist() == [0, 1, 2]
    assert (out / "clip_legend.png").is_file()
    assert ids(out, "photo") == {1}


def test_a_video_that_breaks_in_the_middle_keeps_its_beginning_and_is_named(command, log, tmp_path):
    video = write_video(tmp_path / "broken.avi", 30, codec="MJPG")
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    good = write_video(tmp_path / "good.mp4", 5)
    assert demo.main(["--input", str(video), str(tmp_path / "text.mp4"), str(good), *command]) == 1
    assert sum("broken.avi is damaged" in message for message in log) == 1
    assert sum("text.mp4 cannot be opened" in message for message in log) == 1
    assert log[-1].startswith("1 of 3 files")
    assert 5 < len(read_video(tmp_path / "out" / "broken_overlay.mp4")[1]) < 30
    assert len(read_video(tmp_path / "out" / "good_overlay.mp4")[1]) == 5


def test_results_that_cannot_be_written_are_named_and_the_rest_goes_on(command, log, tmp_path):
    first, second = (write_image(tmp_path / name, (250, 0, 0)) for name in ("a.png", "b.png"))
    (tmp_path / "out" / "a_ids.png").mkdir(parents=True)
    assert demo.main(["--input", str(first), str(second), "--save", "ids", *command]) == 1
    assert sum("a_ids.png cannot be written" in message for message in log) == 1
    assert ids(tmp_path / "out", "b") == {0}


def test_a_camera_without_a_display_is_saved(command, refused, log, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    stream = write_video(tmp_path / "stream.mp4", 20)  # OpenCV reads a network camera as it does a file
    assert demo.main(["--webcam", str(stream), *command]) == 0
    _, frames = read_video(tmp_path / "out" / "webcam_overlay.mp4")
    assert frames
    assert np.abs(frames[0][4, 80].astype(int) - (0, 0, 255)).max() <= 8
    log.clear()
    without_output = [*command[:2], *command[4:]]
    assert "--output" in refused(["--webcam", str(stream), *without_output])
    assert refused(["--webcam", "63", *command]).startswith("camera 63 cannot be opened")


class LiveCamera(BaseHTTPRequestHandler):
    """A network camera: pictures without end, ten a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        picture = cv2.imencode(".jpg", stripes()[..., ::-1])[1].tobytes()
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
        with contextlib.suppress(OSError):  # nobody looks any more
            while True:
                self.wfile.write(head + picture + b"\r\n")
                time.sleep(0.1)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def live_camera():
    """Address of a stream that never ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), LiveCamera)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/live.mjpeg"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_film_completely(command, log, tmp_path, live_camera, monkeypatch, signal_number):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    film = tmp_path / "out" / "webcam_overlay.mp4"

    def stop() -> None:
        while not film.is_file():
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(os.getpid(), signal_number)

    threading.Thread(target=stop, daemon=True).start()
    assert demo.main(["--webcam", live_camera, *command]) == 0
    assert log[-1] == "Stopped."
    _, frames = read_video(film)
    assert len(frames) >= 3
    assert (tmp_path / "out" / "webcam_legend.png").is_file()


def test_files_need_an_output_folder(command, refused, tmp_path):
    assert (
        refused(["--input", str(tmp_path / "x.png"), *command[:2], *command[4:]])
        == "--output is missing: name a folder for the results."
    )


@pytest.mark.usefixtures("bounded_memory")
def test_an_image_that_is_too_large_for_the_memory_is_named(command, log, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (60000, 1)).save(large)  # 2000 x 120,000,000 pixels for the model
    small = write_image(tmp_path / "small.png", (250, 0, 0))
    options = ["INPUT.MIN_SIZE_TEST", "2000", "INPUT.MAX_SIZE_TEST", "1000000000"]
    assert demo.main(["--input", str(large), str(small), *command, *options]) == 1
    assert sum(f"{large}: the memory does not suffice" in message for message in log) == 1
    assert ids(tmp_path / "out", "small") == {0}


@pytest.mark.usefixtures("bounded_memory")
def test_a_camera_whose_frames_are_too_large_for_the_memory_is_one_sentence(command, refused, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    stream = write_video(tmp_path / "stream.mp4", 3)
    options = ["INPUT.MIN_SIZE_TEST", "1000000", "INPUT.MAX_SIZE_TEST", "1000000000"]  # 4.5 TB
    assert refused(["--webcam", str(stream), *command, *options]).startswith("the memory does not suffice")
