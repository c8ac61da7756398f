"""Imported before every test module: the package repairs Detectron2 before anything imports it."""

import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

# Some virtual machines announce AMX and then refuse its instructions, which kills bf16 products on the CPU.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
# The processes of pytest-xdist share the cores by themselves. PyTorch reads the variable when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it runs in the background ignore Ctrl-C, and the programs that this starts inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import mtaclip  # noqa: E402, F401

# isort: split
import torch  # noqa: E402

from mtaclip.engine import setup_cfg  # noqa: E402
from mtaclip.modeling.build import build_model  # noqa: E402
from tests.reliability import markdown, replace_table  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
ROWS = pytest.StashKey[dict[str, list[tuple[str, ...]]]]()
HEADERS = {
    "faults": ("Fault", "Tried", "Outcome"),
    "inputs": ("Input", "Cases", "Outcome"),
    "determinism": ("What", "Compared", "Outcome"),
    "leaks": ("Work", "Memory per unit", "Bound", "Objects per unit", "Threads / files / processes"),
}


def pytest_addoption(parser):
    parser.addoption("--write-tables", action="store_true", help="write the tables of docs/reliability.md")


@pytest.fixture
def row(request) -> Callable[..., None]:
    """A function `row(table, *cells)` that adds a line to a table of docs/reliability.md."""
    rows = request.config.stash.setdefault(ROWS, {})
    return lambda table, *cells: rows.setdefault(table, []).append(cells)


def pytest_terminal_summary(terminalreporter, config):
    for name, rows in config.stash.get(ROWS, {}).items():
        table = markdown(HEADERS[name], rows)
        terminalreporter.section(name)
        terminalreporter.write_line(table)
        if config.getoption("--write-tables"):
            replace_table(name, table)


@pytest.fixture(autouse=True)
def propagating_loggers():
    """Undo what programs that run in this process do to loggers, so that every test sees messages once."""
    loggers = [logging.getLogger(name) for name in ("mtaclip", "detectron2")]
    before = [logger.propagate for logger in loggers]
    yield
    for logger, propagate in zip(loggers, before, strict=True):
        logger.propagate = propagate


@pytest.fixture
def log():
    """Messages of the package from INFO on, as they come."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("mtaclip")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def config_path():
    """A function from a path below `configs/` to the file."""
    return lambda name: ROOT / "configs" / name


@pytest.fixture(scope="session")
def miniature_root(tmp_path_factory) -> Path:
    """Root of a small drawn Cityscapes and ADE20K, 64 x 128 pixels."""
    root = tmp_path_factory.mktemp("datasets")
    command = [sys.executable, "datasets/make_miniature.py", "--root", str(root), "--dataset", "both"]
    sizes = ["--train", "8", "--val", "4", "--test", "1", "--size", "64", "128"]
    subprocess.run([*command, *sizes], cwd=ROOT, check=True, capture_output=True)
    return root


@pytest.fixture
def miniature(miniature_root, monkeypatch) -> Path:
    """The same, as DETECTRON2_DATASETS."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(miniature_root))
    return miniature_root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A drawn dataset with four classes, as DATASETS.FOLDER.ROOT: 24 + 8 images of 64 x 96 pixels."""
    root = tmp_path_factory.mktemp("own") / "shapes"
    sizes = ["--train", "24", "--val", "8", "--size", "64", "96"]
    command = [sys.executable, "datasets/make_shapes.py", "--root", str(root), *sizes]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return root


@pytest.fixture(scope="session")
def run_script():
    """A function that runs a script of the project in a process of its own and returns the finished process."""

    def run(*arguments: object, root: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        if root is not None:
            variables["DETECTRON2_DATASETS"] = str(root)
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)

    return run


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, config_path) -> Callable[[str], Path]:
    """A function that returns the checkpoint of a tiny random model, with its config, as a training writes it.

    Its argument is "mtaclip" or "mask2former", which has no text side.
    """

    @cache
    def save(method: str) -> Path:
        cfg = setup_cfg(config_path(f"miniature/{method}_tiny.yaml"), device="cpu")
        torch.manual_seed(0)
        file = tmp_path_factory.mktemp("checkpoint") / f"{method}.pth"
        torch.save({"model": build_model(cfg).state_dict(), "config": cfg.dump()}, file)
        return file

    return save


@pytest.fixture(scope="session")
def bounded_memory() -> None:
    """Skip where the system promises any amount of memory, and kills the process that takes it at its word."""
    try:
        mmap.mmap(-1, 1 << 42).close()
    except OSError:
        return
    pytest.skip("this system promises memory that it does not have")


@pytest.fixture
def free_url() -> str:
    """An address on this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"
