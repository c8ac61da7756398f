"""Trainings and evaluations as processes of their own, and what they leave in their folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from PIL import Image

from mtaclip.checkpoint.loading import read_checkpoint
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 60
SMALL = [
    "SEED", "7",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", str(ITERATIONS),
    "SOLVER.CHECKPOINT_PERIOD", "10",
    "SOLVER.WARMUP_ITERS", "2",
    *tiny.SIZES,
    "DATALOADER.NUM_WORKERS", "1",
    "TEST.EVAL_PERIOD", "20",
    "TEST.SAVE_PREDICTIONS", "True",
]  # fmt: skip


class Run:
    """`train_net.py` with an output folder and options; what it says goes into a file."""

    def __init__(self, log: Path, root: Path, output: Path | str, *options: str, before: tuple[str, ...] = ()) -> None:
        command = [sys.executable, "train_net.py", "--config-file", "configs/miniature/mtaclip_tiny.yaml"]
        self._log = log
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [*command, "--num-gpus", "0", *before, *SMALL, "OUTPUT_DIR", str(output), *options],
                cwd=ROOT,
                env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def last_line(self) -> str:
        return self.said().strip().splitlines()[-1]

    def wait_until(self, ready: Callable[[], bool], timeout: float = 300) -> bool:
        """Whether something happened before the process ended."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if ready():
                return True
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.0005)
        return False

    def end(self, timeout: float = 300) -> int:
        """Exit status; a process that does not end is killed, and an error."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"no end within {timeout} s:\n{self.said()}") from None

    def signal(self, number: int, *, group: bool = True) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)


def check_refused(run: Run, *words: object) -> None:
    """The run has failed, and its last line says what and where, and what to do."""
    assert run.end() == 1, run.said()
    last = run.last_line()
    assert last.startswith("train_net.py: error: ") and all(str(word) in last for word in words), run.said()


def check_files(output: Path) -> int:
    """Open every file of an output folder whose name is not that of an interrupted write; returns their number."""
    files = [path for path in output.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for file in files:
        match file.suffix:
            case ".pth":
                assert torch.isfinite(next(iter(read_checkpoint(file)["model"].values()))).all()
            case ".png":
                with Image.open(file) as image:
                    image.load()
            case ".html":
                assert file.read_text().rstrip().endswith("</html>")
            case ".yaml":
                yaml.safe_load(file.read_text())
            case ".json" if file.name == "metrics.json":
                for line in file.read_text().splitlines()[:-1]:
                    json.loads(line)
            case ".json":
                json.loads(file.read_text())
    if (output / "last_checkpoint").exists():
        assert (output / (output / "last_checkpoint").read_text()).is_file()
    return len(files)


def written_from_now(output: Path, *patterns: str) -> Callable[[], bool]:
    """A function that says whether a file of one of these names has been written since."""
    since = time.time()
    return lambda: any(_written(path) > since for pattern in patterns for path in output.glob(pattern))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # in between, it has got its name
        return 0.0


def partial_files(output: Path) -> list[Path]:
    """What interrupted writes have left."""
    return list(output.rglob(".*.partial"))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(output / "model_final.pth")["model"]


def assert_same_weights(first: Path, second: Path) -> None:
    """To the last bit."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def fill(disk: Path, room: int = 0) -> Path:
    """Take all room of a file system but some bytes; returns the file that has it."""
    ballast = disk / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for size in (2**20, 4096):
            with suppress(OSError):
                while shutil.disk_usage(disk).free >= room + size:
                    file.write(bytes(size))
    return ballast
