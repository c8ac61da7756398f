"""Trainings of the miniature by train_net.py, in one process or several, for things to happen to."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "SEED": "7",
    "SOLVER.IMS_PER_BATCH": "3",
    "SOLVER.MAX_ITER": "100000",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "SOLVER.WARMUP_ITERS": "2",
    **dict(zip(tiny.SIZES[::2], tiny.SIZES[1::2], strict=True)),
    "DATALOADER.NUM_WORKERS": "1",
    "TEST.EVAL_PERIOD": "0",
}


class Training:
    """One training and its `processes`, which write what they say to files in `folder`.

    Args:
        folder: its OUTPUT_DIR is `folder / "out"`.
        data: DETECTRON2_DATASETS.
        apart: number of processes that are started one by one, as torchrun would; 0 starts a single program.
    """

    def __init__(self, folder: Path, data: Path, apart: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.output, self._data, self._apart = folder, folder / "out", data, apart
        self.processes: list[subprocess.Popen] = []
        self._tag = ""  # last_checkpoint when it was started

    def start(self, *arguments: str, wrap: tuple[str, ...] = (), rank_env: dict | None = None, **options: str) -> None:
        """Start it, or go on; `options` are config keys with `__` for the dot, `rank_env` the last process's own
        variables."""
        self._tag = self._read_tag()
        keys = OPTIONS | {key.replace("__", "."): value for key, value in options.items()}
        config = ["--config-file", "configs/miniature/mtaclip_tiny.yaml", "--num-gpus", "0", "--resume"]
        command = [*wrap, sys.executable, "train_net.py", *config, *arguments]
        for item in (keys | {"OUTPUT_DIR": str(self.output)}).items():
            command += item
        places = [{}] if not self._apart else [self._place(rank) for rank in range(self._apart)]
        places[-1] |= rank_env or {}
        self.processes = [self._popen(command, rank, place) for rank, place in enumerate(places)]

    def _place(self, rank: int) -> dict[str, str]:
        """What torchrun tells a process."""
        size, port = str(self._apart), str(20000 + os.getpid() % 10000)
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def _popen(self, command: list[str], rank: int, place: dict[str, str]) -> subprocess.Popen:
        variables = {**os.environ, "DETECTRON2_DATASETS": str(self._data), "OMP_NUM_THREADS": "1", **place}
        with open(self.folder / f"{rank}.stdout", "w") as out, open(self.folder / f"{rank}.stderr", "w") as err:
            return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=out, stderr=err, start_new_session=True)

    def said(self, stream: str, rank: int = 0) -> str:
        return (self.folder / f"{rank}.{stream}").read_text()

    def sentence(self, rank: int = 0) -> str:
        """The only error on stderr; there is no traceback, neither there nor in the log."""
        for stream in ("stdout", "stderr"):
            assert "Traceback" not in self.said(stream, rank), self.said(stream, rank)
        lines = self.said("stderr", rank).splitlines()
        (error,) = [line for line in lines if line.startswith("train_net.py: error: ")]
        return error

    def wait_for(self, condition: Callable[[], object], seconds: float = 600) -> None:
        """Wait until something is so, while all processes run."""
        deadline = time.monotonic() + seconds
        while not condition():
            for rank, process in enumerate(self.processes):
                assert process.poll() is None, self.said("stdout", rank) + self.said("stderr", rank)
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def wait_for_checkpoint(self) -> int:
        """Wait for one of this start; the iteration that this began with, which follows the last start's."""
        self.wait_for(lambda: self._read_tag() != self._tag)
        return self.first_iteration()

    def first_iteration(self) -> int:
        """The iteration that this start began with, checked to follow the checkpoint that there was."""
        first = int(re.search(r"Starting training from iteration (\d+)", self.said("stdout"))[1])
        assert first == (int(re.search(r"\d+", self._tag)[0]) + 1 if self._tag else 0)
        return first

    def _read_tag(self) -> str:
        file = self.output / "last_checkpoint"
        return file.read_text() if file.is_file() else ""

    def wait_for_words(self, words: str) -> None:
        self.wait_for(lambda: words in self.said("stdout"))

    def end(self, seconds: float, but: int | None = None) -> tuple[list[int], float]:
        """Wait for the end of all processes but one; their exit statuses, and the seconds that took."""
        start = time.monotonic()
        waited = [process for rank, process in enumerate(self.processes) if rank != but]
        try:
            statuses = [process.wait(max(0.1, start + seconds - time.monotonic())) for process in waited]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self.said("stdout") + self.said("stderr")) from None
        return statuses, time.monotonic() - start

    def members(self) -> list[int]:
        """Ids of the launched processes, by rank."""
        return sorted(number for number in children(self.processes[0].pid) if "spawn_main" in command_line(number))

    def everyone(self) -> set[int]:
        """Ids of all processes of the training, data workers included."""
        found, new = set(), {process.pid for process in self.processes}
        while new:
            found |= new
            new = {child for parent in new for child in children(parent)} - found
        return found

    def kill(self) -> None:
        """End what is left of it."""
        for number in self.everyone():
            if runs(number):
                os.kill(number, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def resume(self, *arguments: str, more: int = 4) -> int:
        """Go on for a few iterations, to the end; the iteration that this began with."""
        last = int(re.search(r"\d+", self._read_tag())[0])
        self.start(*arguments, SOLVER__MAX_ITER=str(last + 1 + more))
        statuses, _ = self.end(900)
        assert statuses == [0] * len(statuses), self.said("stdout") + self.said("stderr")
        assert (self.output / "model_final.pth").is_file()
        return self.first_iteration()


def children(number: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{number}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def command_line(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_text()
    except OSError:
        return ""


def runs(number: int) -> bool:
    """Whether there is such a process, and it is more than a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def survivors(numbers: set[int], seconds: float) -> tuple[set[int], float]:
    """Which of these processes still run after so many seconds at most, and the seconds that were waited."""
    start = time.monotonic()
    while (left := {number for number in numbers if runs(number)}) and time.monotonic() - start < seconds:
        time.sleep(0.1)
    return left, time.monotonic() - start
