"""Command lines of few words: each ends with exit status 0, 1 or 2, never with a traceback."""

import importlib
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

COMMANDS = {
    "demo": "--config-file config.yaml --input image.png --output new --opacity 0.5 --classes wall",
    "alignment": "--config-file config.yaml --input image.png --output new --view words --limit 2",
    "compare": "run/scores_a.json run --dataset a --html page.html",
    "check_dataset": "--images images --labels labels --classes classes.txt --workers 0 --picture new.png",
    "publish": "--checkpoint weights.pth --config-file config.yaml --output new --class-names classes.txt",
    "export": "--checkpoint weights.pth --config-file config.yaml --format onnx --output new.onnx --height 32",
    "convert_checkpoint": "--from mask2former weights.pth new.pth --config-file config.yaml",
    "tools.draw_curves": "metrics.json --output curves.png",
}
ODD_SCORES = {"dataset": "\ud800", "num_images": 1, "class_names": ["\ud800"], "scores_percent": {"IoU-\ud800": 2}}
FILES = {
    "config.yaml": b"MODEL: {WEIGHTS: weights.pth, DEVICE: cpu}\n",
    "odd.yaml": b"SEED: [",
    "weights.pth": b"PK\x03\x04",
    "classes.txt": b"wall\nsky\n",
    "metrics.json": b'{"iteration": 1, "lr": 0.5}\n{"iteration": 2, "lr": 0.25}\n',
    "broken.json": b"[" * 100_000,
    "broken.png": b"\x89PNG\r\n\x1a\n",
    "scores_odd.json": json.dumps(ODD_SCORES).encode(),
    "run/scores_a.json": b'{"dataset": "a", "num_images": 1, "class_names": ["x"], "scores_percent": {"mIoU": 5}}',
    "run/scores_b.json": b"{}",
}
WORDS = st.sampled_from((*FILES, "image.png", "run", "none", ".", "", "-1", "0", "nan", "1e400", "*", "[", "-", "--"))
VALUES = WORDS | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("run", "images", "labels"):
        (folder / name).mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (8, 6)).save(folder / "image.png")
    Image.new("RGB", (8, 6)).save(folder / "images" / "a.png")
    Image.new("L", (8, 6)).save(folder / "labels" / "a.png")
    return folder


@st.composite
def changed_commands(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A program and a command line for it, of which some words are missing, others or more."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    words = COMMANDS[name].split()
    for _ in range(draw(st.integers(0, 3))):
        place, length = draw(st.integers(0, len(words))), draw(st.integers(0, 2))
        words[place : place + length] = draw(st.lists(VALUES | st.sampled_from(COMMANDS[name].split()), max_size=1))
    return name, words


@example(("compare", ["scores_odd.json", "scores_odd.json"]))
@example(("compare", ["scores_odd.json", "scores_odd.json", "--html", "page.html"]))
@example(("compare", ["broken.json", "broken.json"]))
@example(("tools.draw_curves", ["metrics.json", "--output", "curves.odd"]))
@example(("tools.draw_curves", [""]))
@example(("check_dataset", [*COMMANDS["check_dataset"].split(), "--workers", "100000000"]))
@given(changed_commands())
def test_programs_end_with_an_exit_status(folder, cases, command):
    name, words = command
    program = importlib.import_module(f"projects.MTACLIP.{name}")
    output = io.TextIOWrapper(io.BytesIO(), "utf-8")  # pytest's own would replace what no file can hold
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.chdir(folder)
        try:
            with cases:
                status = program.main(words)
        except SystemExit as end:
            status = end.code
    assert status in (0, 1, 2)
