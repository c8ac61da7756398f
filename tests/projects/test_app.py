import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtaclip.demo.models import Models
from mtaclip.demo.page import Opened, open_picture, show
from projects.MTACLIP.app import load_models, main, make_parser

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint) -> Path:
    return tiny_checkpoint("mtaclip")


@pytest.fixture(scope="module")
def baseline(tiny_checkpoint) -> Path:
    """Of a model without a text side."""
    return tiny_checkpoint("mask2former")


def load(*options: object) -> Models:
    return load_models(make_parser().parse_args(["--device", "cpu", *map(str, options)]))


@pytest.fixture(scope="module")
def opener(checkpoint) -> Callable[[Path | None], Opened]:
    """Opens files with the tiny model."""
    return partial(open_picture, load("--checkpoint", checkpoint), checkpoint)


@pytest.fixture
def street(tmp_path) -> Path:
    """An image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def test_a_picture_becomes_a_view_and_three_files(opener, street, tmp_path):
    shown = show(opener(street), "heat map", "", tmp_path)
    assert shown.message == "" and "<svg" in shown.markup
    assert [file.name for file in shown.files] == ["street_heatmap.svg", "street_ids.png", "street.json"]
    assert np.asarray(Image.open(shown.files[1])).shape == (48, 96)
    assert json.loads(shown.files[2].read_text())["width"] == 96


def test_files_of_two_views_are_kept_apart(opener, street, tmp_path):
    opened = opener(street)
    absent = next(name for label, name in enumerate(opened.look.palette.names) if label not in opened.look.labels)
    first, second = (show(opened, "overlay", names, tmp_path).files for names in ("", absent))
    assert first[0] != second[0] and first[0].read_bytes() != second[0].read_bytes()


def test_an_unknown_class_is_a_message_above_the_picture(opener, street, tmp_path):
    opened = opener(street)
    shown = show(opened, "overlay", "<b>, raod", tmp_path)
    assert shown.message.startswith("<p>Classes to highlight: there is no class &#x27;&lt;b&gt;&#x27;")
    assert shown.markup == show(opened, "overlay", "", tmp_path).markup
    assert "close are: road" in show(opened, "overlay", "raod", tmp_path).message


def test_a_file_that_is_no_image_is_a_message(opener, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    shown = show(opener(tmp_path / "notes.txt"), "overlay", "", tmp_path)
    assert "Image notes.txt cannot be read" in shown.message and str(tmp_path) not in shown.message
    assert shown.markup == "" and shown.files == ()


def test_a_large_picture_is_shown_smaller_with_a_notice(opener, tmp_path):
    Image.new("RGB", (4096, 2000)).save(tmp_path / "wide.png")
    opened = opener(tmp_path / "wide.png")
    assert opened.look.labels.shape == (1000, 2048)
    assert "from 4096 x 2000 to 2048 x 1000 pixels" in show(opened, "segments", "", tmp_path).message


def test_a_picture_that_is_too_narrow_for_the_model_is_a_message(opener, tmp_path):
    Image.new("RGB", (1024, 16)).save(tmp_path / "strip.png")  # seen at 256 x 4, for MAX_SIZE_TEST is 256
    shown = show(opener(tmp_path / "strip.png"), "overlay", "", tmp_path)
    assert "at 256 x 4 pixels" in shown.message and "less narrow" in shown.message


def test_a_picture_that_is_taken_away_leaves_nothing(opener, tmp_path):
    shown = show(opener(None), "overlay", "road", tmp_path)
    assert (shown.message, shown.markup, shown.files) == ("", "", ())
    assert show(Opened(), "overlay", "", tmp_path) == shown


def test_another_checkpoint_may_have_other_views(checkpoint, baseline, street, tmp_path):
    models = load("--checkpoint", checkpoint, baseline)
    assert open_picture(models, checkpoint, None).views == ("overlay", "segments", "heat map", "prompts", "confidence")
    opened = open_picture(models, baseline, street)
    assert opened.views == ("overlay", "confidence")
    assert show(opened, "overlay", "", tmp_path).files[0].name == "street_overlay.png"


def test_only_checkpoints_of_the_command_line_are_read(checkpoint, baseline, street):
    opened = open_picture(load("--checkpoint", checkpoint), baseline, street)
    assert opened.look is None and "none of the checkpoints of this page" in opened.message


def test_a_damaged_checkpoint_is_a_message(checkpoint, street, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(checkpoint.read_bytes()[:1000])
    models = load("--checkpoint", checkpoint, tmp_path / "damaged.pth")
    assert "damaged.pth: not a checkpoint" in open_picture(models, tmp_path / "damaged.pth", street).message
    assert open_picture(models, checkpoint, street).message == ""


def test_a_config_file_takes_the_place_of_that_in_the_checkpoint(checkpoint, config_path, street):
    options = ["--config-file", config_path("miniature/mtaclip_tiny.yaml"), "--checkpoint", checkpoint]
    models = load(*options, "--opts", "INPUT.MIN_SIZE_TEST", 40)
    assert open_picture(models, checkpoint, street).look.predictor.cfg.INPUT.MIN_SIZE_TEST == 40


def test_a_missing_model_is_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mtaclip_tiny/model_final\.pth: `make demo` makes it"):
        load()
    with pytest.raises(FileNotFoundError, match="--checkpoint: there is no file or folder 'other.pth'"):
        load("--checkpoint", checkpoint, "other.pth")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_is_a_number_that_ports_have(capsys, port):
    with pytest.raises(SystemExit, match="2"):
        main([f"--port={port}"])
    assert f"--port: {port} is no number from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["nosuch.invalid", "a" * 64 + ".invalid"])
def test_a_host_that_does_not_exist_is_refused_at_once(capsys, host):
    pytest.importorskip("gradio", reason="gradio is not installed")
    with pytest.raises(SystemExit, match="2"):
        main(["--host", host, "--checkpoint", "none.pth"])
    assert f"--host: '{host}' is no address" in capsys.readouterr().err.splitlines()[-1]


def test_without_gradio_one_sentence_says_how_to_get_it(run_script, checkpoint, tmp_path):
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError")
    result = run_script("projects/MTACLIP/app.py", "--checkpoint", checkpoint, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .endswith('error: the page needs gradio: pip install "mtaclip[demo]", or pip install gradio.')
    )


@pytest.fixture
def address(checkpoint, baseline, free_url) -> Iterator[str]:
    """Address of the page, served by another process that must end well."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = free_url.rpartition(":")[2]
    command = [sys.executable, "projects/MTACLIP/app.py", "--checkpoint", checkpoint, baseline]
    command += ["--device", "cpu", "--port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    for line in server.stdout:
        lines.append(line)
        if "The page is at" in line:
            break
    else:
        pytest.fail("".join(lines))
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    rest = server.communicate(timeout=60)[0]
    assert server.returncode == 0 and "Traceback" not in rest, rest


def test_the_page_answers_this_machine_alone(address):
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert "Classes to highlight" in answer.read().decode()
    port = int(address.strip("/").rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):  # as by the loopback's second address, which 0.0.0.0 would listen at
        socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_gets_a_labelled_picture(address, baseline, street, tmp_path, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    errors, foreign = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: foreign.append(request.url))
        page.goto(address)
        page.set_input_files("input[type=file]", street)
        page.wait_for_selector(".view img")
        assert page.inner_text(".view .legend").count("%") >= 1
        with page.expect_download() as download:
            page.get_by_text("Save the labels (PNG)").click()
        assert np.asarray(Image.open(download.value.path())).shape == (48, 96)
        page.get_by_label("Segments", exact=True).check()
        page.wait_for_selector(".view .segment title", state="attached")
        assert "closest to prompt" in page.text_content(".view .segment title")
        page.get_by_label("Checkpoint").click()
        page.get_by_role("option", name=baseline.name).click()
        page.wait_for_selector(".view img")
        assert page.get_by_label("Segments", exact=True).count() == 0
        assert page.get_by_label("Overlay", exact=True).is_checked()
        page.get_by_label("Classes to highlight").fill("raod")
        page.get_by_label("Classes to highlight").press("Enter")
        page.wait_for_selector(".message p")
        assert "close are: road" in page.inner_text(".message")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        (tmp_path / "notes.txt").write_text("no image")
        page.get_by_label("Clear").click()
        page.wait_for_selector(".view img, .view svg", state="detached")
        page.set_input_files("input[type=file]", tmp_path / "notes.txt")
        page.wait_for_selector("text=Image notes.txt cannot be read")
        browser.close()
    assert errors == []
    assert [url for url in foreign if not url.startswith((address, "data:", "blob:"))] == []
