"""The commands in the documents that show a model's results are run as they are written.

They run in a folder that looks like a clone of the project with everything that they name: inputs of their own, a tiny
random model for every config and checkpoint, and a video in place of a camera.
"""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from projects.MTACLIP import alignment, app, demo

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "projects" / "MTACLIP" / "README.md"
SECTIONS = ("Pictures and videos", "A page in the browser", "Seeing the alignment")
SCRIPTS = {f"projects/MTACLIP/{module.__name__.rpartition('.')[2]}.py": module for module in (alignment, app, demo)}
SCRIPTS["demo.py"] = demo
WEIGHTS = (
    "model.pth",
    "output/cityscapes/mtaclip_R50/model_best.pth",
    "output/cityscapes/mtaclip_R50/model_final.pth",
    "output/miniature/mtaclip_tiny/model_final.pth",
)
IMAGES = ("photo.jpg", "photo.png", "street.jpg", "street.png", "folder/a.jpg", "photos/new.jpg", "shots/b.png")
VIDEOS = ("clip.mp4", "drive.mp4", "stream.mp4")


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def sections() -> str:
    """The text below the headings of SECTIONS."""
    parts = re.split(r"^##+ (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return "\n".join(found[name] for name in SECTIONS)


def commands() -> list[str]:
    """All commands of the sections; those of README.md and of the programs' help that call these programs."""
    blocks = code_blocks(sections(), "bash")
    others = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "bash")
    others += [module.__doc__ for module in SCRIPTS.values()]
    blocks += re.findall(r"^.*(?:demo|alignment|app)\.py --(?:.*\\\n)*.*$", "\n".join(others), re.M)
    lines = [line.strip() for line in "\n".join(blocks).replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, run_script) -> Path:
    """A small Cityscapes with the image that the commands name."""
    root = tmp_path_factory.mktemp("drawn")
    sizes = ("--train", 1, "--val", 11, "--test", 1, "--size", 64, 128)
    run_script("datasets/make_miniature.py", "--root", root, "--dataset", "cityscapes", *sizes).check_returncode()
    return root


@pytest.fixture
def clone(tmp_path, tiny_checkpoint, drawn) -> Path:
    """A folder with all that the commands name."""
    for name in ("demo.py", "projects", "configs/bases", "configs/miniature"):
        link(tmp_path / name, ROOT / name)
    link(tmp_path / "datasets" / "miniature", drawn)
    for name in WEIGHTS:
        link(tmp_path / name, tiny_checkpoint("mtaclip"))
    config = tmp_path / "configs" / "cityscapes" / "mtaclip_R50.yaml"
    config.parent.mkdir()
    config.write_text("_BASE_: ../miniature/mtaclip_tiny.yaml\n")
    (tmp_path / "last_run").touch()
    os.utime(tmp_path / "last_run", (0, 0))
    for name in IMAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 32), (90, 120, 60)).save(tmp_path / name)
    for name in VIDEOS:
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (96, 64))
        for _ in range(3):
            writer.write(np.full((64, 96, 3), 128, np.uint8))
        writer.release()
    return tmp_path


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


@pytest.fixture
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def without_camera(command: str) -> str:
    """The same with a video, which is saved, in place of a camera."""
    return re.sub(r"--webcam(?: \d+)?(?= )", "--webcam stream.mp4 --output pictures/", command)


def split(command: str) -> tuple[str, dict[str, str], str, list[str]]:
    """What is piped into a program, its environment variables, the script and its arguments."""
    piped, _, program = command.rpartition(" | ")
    words = shlex.split(program, comments=True)
    variables = {}
    while "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    assert words[0] == "python" and words[1] in SCRIPTS, f"this test does not know how to run: {command}"
    return piped, variables, words[1], words[2:]


def check_results(clone: Path, script: str, arguments: list[str]) -> None:
    """Whatever the command writes is there."""
    output = clone / SCRIPTS[script].make_parser().parse_args(arguments).output
    assert any(output.iterdir())


def test_the_documents_have_commands_of_every_program():
    called = {script for script in SCRIPTS if any(f"python {script}" in command for command in commands())}
    assert called == set(SCRIPTS) - {"projects/MTACLIP/demo.py"}
    assert len(commands()) >= 14


def test_an_unknown_command_is_refused():
    with pytest.raises(AssertionError, match="does not know how to run: python other.py"):
        split("python other.py --input x.png")


@pytest.mark.parametrize("command", commands())
def test_documented_commands_work(clone, monkeypatch, no_display, command):
    monkeypatch.chdir(clone)
    piped, variables, script, arguments = split(without_camera(command))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if piped:
        lines = subprocess.run(piped, shell=True, check=True, capture_output=True, text=True).stdout
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    if SCRIPTS[script] is app:
        models = app.load_models(app.make_parser().parse_args(arguments))  # without the page
        assert all(models.viewer(file).views for file in models.files)
        return
    assert SCRIPTS[script].main(arguments) == 0
    check_results(clone, script, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_documented_commands_work_in_a_shell(clone, no_display, command):
    command = without_camera(command)
    _, _, script, arguments = split(command)
    (clone / "bin").mkdir()
    python = clone / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -u "$@"\n')
    python.chmod(0o755)
    variables = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    if SCRIPTS[script] is app:
        pytest.importorskip("gradio", reason="gradio is not installed")
    program = subprocess.Popen(
        command, shell=True, cwd=clone, env=variables, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = []
    for line in program.stdout:
        lines.append(line)
        if "The page is at" in line:
            os.killpg(program.pid, signal.SIGTERM)
    code = program.wait(timeout=60)
    if SCRIPTS[script] is app:
        assert "The page has ended." in lines[-1], "".join(lines)
        return
    assert code == 0, "".join(lines)
    check_results(clone, script, arguments)


@pytest.mark.parametrize("block", code_blocks(sections(), "python"))
def test_documented_python_works(clone, monkeypatch, block):
    monkeypatch.chdir(clone)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, str(PAGE), "exec"), {})
    assert printed.getvalue()
