"""Processes of a training that are killed or hang: the others end in time, say who is missing, and can be resumed."""

import os
import random
import signal
import time

import pytest

from tests.faults.trainings import Training, children, survivors

pytestmark = pytest.mark.slow
SIZE = 3
LAUNCHED = ("--num-processes", str(SIZE))
KILLED_LIMIT = 150.0  # seconds that the others may take to end when one was killed
TIMEOUT = 45.0  # seconds, of --timeout
HUNG_LIMIT = TIMEOUT + 150.0


@pytest.fixture
def training(tmp_path, drawn):
    """A function from the number of processes that are started one by one to a training, ended behind the test."""
    made = []

    def make(apart=0):
        made.append(Training(tmp_path / "run", drawn, apart))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def reach(run: Training, moment: str) -> int:
    """Wait for a moment of a training; the iteration that this has begun with."""
    first = run.wait_for_checkpoint()
    if moment == "step":
        time.sleep(random.uniform(0, 0.5))
    elif moment == "checkpoint":
        run.wait_for(lambda: list(run.output.glob(".model_*.partial")))
    else:
        run.wait_for_words("Start inference on")
        time.sleep(random.uniform(0, 0.2))
    return first


def options(moment: str) -> dict[str, str]:
    return {"TEST__EVAL_PERIOD": "4"} if moment == "evaluation" else {}


def test_killed_under_the_launcher(training, row):
    """One training, gone on with after each of the faults."""
    run, tried = training(), {}
    for moment, victim in (("step", 1), ("checkpoint", 0), ("evaluation", 2)):
        run.start(*LAUNCHED, **options(moment))
        reach(run, moment)
        everyone = run.everyone()
        os.kill(run.members()[victim], signal.SIGKILL)
        statuses, seconds = run.end(KILLED_LIMIT)
        assert statuses == [1]
        assert f"Process {victim} of {SIZE} was ended by SIGKILL" in run.sentence()
        left, more = survivors(everyone, 10)
        assert not left
        tried[moment] = seconds + more
    run.resume(*LAUNCHED)
    row(
        "faults",
        f"one of {SIZE} processes killed, started by train_net.py",
        f"SIGKILL in: {', '.join(tried)}",
        f"all ended after {max(tried.values()):.0f} s at most, naming it; no orphans; each time resumed",
    )


def test_killed_without_a_launcher(training, row):
    """As with srun, nobody but the others can notice."""
    run, tried = training(SIZE), {}
    for moment, victim in (("step", 2), ("checkpoint", 0), ("evaluation", 1)):
        run.start(**options(moment))
        reach(run, moment)
        everyone = run.everyone()
        run.processes[victim].kill()
        statuses, seconds = run.end(KILLED_LIMIT)
        assert statuses == [-signal.SIGKILL if rank == victim else 1 for rank in range(SIZE)]
        for rank in {0, 1, 2} - {victim}:
            said = run.sentence(rank)
            assert "exchange with the others failed" in said and f"process {victim}" in said, said
        left, more = survivors(everyone, 10)
        assert not left
        tried[moment] = seconds + more
    run.resume()
    row(
        "faults",
        f"one of {SIZE} processes killed, as under srun",
        f"SIGKILL in: {', '.join(tried)}",
        f"the others ended after {max(tried.values()):.0f} s at most, naming it; no orphans; each time resumed",
    )


def test_stopped_under_the_launcher(training, row):
    run = training()
    run.start(*LAUNCHED, "--timeout", str(TIMEOUT / 60))
    reach(run, "step")
    everyone = run.everyone()
    os.kill(run.members()[2], signal.SIGSTOP)
    statuses, seconds = run.end(HUNG_LIMIT)
    assert statuses == [1]
    assert "process 2" in run.sentence() and "does not answer" in run.sentence()
    left, more = survivors(everyone, 10)
    assert not left
    first = run.resume(*LAUNCHED)
    row(
        "faults",
        f"one of {SIZE} processes hangs, started by train_net.py",
        f"SIGSTOP in a step, --timeout of {TIMEOUT:.0f} s",
        f"all ended after {seconds + more:.0f} s, naming it; no orphans; resumed at iteration {first}",
    )


def test_stopped_without_a_launcher(training, row):
    run, tried = training(SIZE), {}
    for moment, victim in (("step", 0), ("evaluation", 2)):
        run.start("--timeout", str(TIMEOUT / 60), **options(moment))
        reach(run, moment)
        run.processes[victim].send_signal(signal.SIGSTOP)
        statuses, seconds = run.end(HUNG_LIMIT, but=victim)
        assert statuses == [1, 1]
        for rank in {0, 1, 2} - {victim}:
            said = run.sentence(rank)
            assert f"process {victim}" in said and "does not answer" in said, said
        run.kill()
        tried[moment] = seconds
    run.resume()
    row(
        "faults",
        f"one of {SIZE} processes hangs, as under srun",
        f"SIGSTOP in: {', '.join(tried)}; --timeout of {TIMEOUT:.0f} s",
        f"the others ended after {max(tried.values()):.0f} s at most, naming it; each time resumed",
    )


SLEEPY = """
import os, pathlib, time
read = pathlib.Path.read_bytes
def sleepy(path):
    if path.suffix == ".png" and os.path.exists(os.environ["SLEEPY"]):
        time.sleep(1000)
    return read(path)
if "SLEEPY" in os.environ:
    pathlib.Path.read_bytes = sleepy
"""


@pytest.fixture
def sleepy(tmp_path):
    """Variables of processes whose reads of images take 1000 s once the file of the first variable is there."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLEEPY)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    return {"SLEEPY": str(tmp_path / "asleep"), "PYTHONPATH": path}


def test_a_read_that_does_not_return(training, row, sleepy, tmp_path):
    """As of a network file system: the process itself is alive."""
    run = training(SIZE)
    run.start("--timeout", str(TIMEOUT / 60), rank_env=sleepy)
    run.wait_for_checkpoint()
    (tmp_path / "asleep").touch()
    statuses, seconds = run.end(HUNG_LIMIT, but=2)
    assert statuses == [1, 1]
    for rank in (0, 1):
        said = run.sentence(rank)
        assert "process 2 of 3 is at" in said and "mtaclip/data/loader.py" in said and "process 1" not in said, said
    left, _ = survivors(set(children(run.processes[2].pid)), 0)
    assert left
    run.processes[2].kill()
    left, more = survivors(left, 10)
    assert not left, "a data worker outlives its process"
    first = run.resume()
    row(
        "faults",
        f"a read in a data worker of process 2 of {SIZE} does not return",
        f"sleeps 1000 s, --timeout of {TIMEOUT:.0f} s",
        f"others ended after {seconds:.0f} s, naming process and line; resumed at iteration {first}",
    )


@pytest.mark.parametrize("asleep", [False, True])
def test_the_launcher_is_killed(training, row, sleepy, tmp_path, asleep):
    run = training()
    run.start(*LAUNCHED, rank_env=sleepy)
    run.wait_for_checkpoint()
    if asleep:
        (tmp_path / "asleep").touch()
        time.sleep(2)
    everyone = run.everyone()
    run.processes[0].kill()
    left, seconds = survivors(everyone, 80 if asleep else 30)
    assert not left
    (tmp_path / "asleep").unlink(missing_ok=True)
    first = run.resume(*LAUNCHED)
    row(
        "faults",
        "train_net.py killed, which started the processes" + (", while their reads do not return" if asleep else ""),
        "SIGKILL",
        f"all ended after {seconds:.0f} s; resumed at iteration {first}",
    )
