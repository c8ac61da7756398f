"""Data workers and signals, in real processes.

Run as a script, this file reads data with two workers: `test_workers.py healthy|broken|asleep`; or it answers
signals as a worker does: `test_workers.py signalled`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Numbers:
    """A data set without end; from its 20th sample on it is of another kind."""

    def __init__(self, kind):
        self.kind = kind

    def __getitem__(self, number):
        if self.kind == "broken" and number >= 20:
            raise ValueError("sample 20 is broken")
        if self.kind == "asleep" and number >= 20:
            time.sleep(1000)
        return {"number": number}


def read(kind: str) -> None:
    import mtaclip  # noqa: F401

    # isort: split
    from torch.utils.data import DataLoader

    from mtaclip.data.loader import TrainingLoader
    from mtaclip.data.sampling import BatchNumbers
    from mtaclip.data.workers import StopSignals

    signal.signal(signal.SIGTERM, lambda *_: None)  # as a training that answers at the end of an iteration
    signals = StopSignals()
    loader = DataLoader(
        Numbers(kind), batch_sampler=BatchNumbers(2, 0, 1), num_workers=2, collate_fn=list, worker_init_fn=signals
    )
    for number, _ in enumerate(TrainingLoader(loader, 0, signals)):
        if number == 5:
            print("ready", flush=True)
        if number == 400:
            break
        time.sleep(0.005)
    print("done", flush=True)


def answer() -> None:
    """A signal arrives at every line of the answer to another one; after the release one ends the process."""
    from mtaclip.data.workers import StopSignals

    def signal_again(*_):
        signal.raise_signal(signal.SIGTERM)
        return signal_again

    signals = StopSignals()
    signals(0)
    sys.settrace(signal_again)
    signal.raise_signal(signal.SIGTERM)
    sys.settrace(None)
    print("answered", flush=True)
    signals.release()
    signal.raise_signal(signal.SIGTERM)
    print("not released", flush=True)


def start(kind: str) -> subprocess.Popen:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, __file__, kind],
        env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_signal_while_another_is_answered_blocks_nothing():
    process = start("signalled")
    try:
        said = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert said.splitlines()[-1] == "answered" and process.returncode == 0, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_outlive_a_signal_to_the_whole_group(number):
    process = start("healthy")
    line = process.stdout.readline()
    while line and line != "ready\n":
        line = process.stdout.readline()
    if number == signal.SIGTERM:
        os.killpg(process.pid, number)
    else:  # the reading process itself would end by this one
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        for child in children:
            os.kill(int(child), number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "done" in said, said


def test_an_error_ends_the_process_and_its_workers():
    process = start("broken")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "sample 20 is broken" in said and "done" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_nothing_stays_of_a_loader_that_is_done():
    """An evaluation makes one each time; semaphores are mappings of memory, of which a process has 65,530."""
    from mtaclip.data.workers import StopSignals

    StopSignals()
    before = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(100):
        StopSignals()
    assert len(Path("/proc/self/maps").read_text().splitlines()) < before + 100


def test_workers_that_sleep_in_a_read_end_with_a_killed_process():
    process = start("asleep")
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    children = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)


if __name__ == "__main__":
    answer() if sys.argv[1] == "signalled" else read(sys.argv[1])
