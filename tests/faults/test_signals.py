"""Runs that are told to stop: Ctrl-C and SIGTERM, in a training and in an evaluation."""

import os
import signal
import time

import pytest

from tests.faults.runs import assert_same_weights, check_files, partial_files, written_from_now

pytestmark = pytest.mark.slow
SLOW_EVALUATION = (
    "DATASETS.TEST", "('cityscapes_sem_seg_train',)",
    "TEST.AUG.ENABLED", "True",
    "TEST.AUG.MIN_SIZES", "(64,96,128,256)",
)  # fmt: skip


def check_all_ended(run):
    """Nobody is left of its processes, data workers included."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(run.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("processes are left")


def check_interrupted(run, go_on=""):
    """One sentence is the last word, of Python's helpers too, and no process shows where it was."""
    assert run.last_line() == f"train_net.py: interrupted: the files that were written are complete{go_on}."
    assert "Traceback" not in run.said(), run.said()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_in_a_training(undisturbed, start, tmp_path, row, processes):
    """In the middle of steps, of a checkpoint and of an evaluation, one after the other."""
    output = tmp_path / "run"
    for moment in ("last_checkpoint", ".model_0000029.*", "predictions/*/*.png"):
        run = start(output, before=("--resume", "--num-processes", processes))
        assert run.wait_until(written_from_now(output, moment)), run.said()
        run.signal(signal.SIGINT)
        assert run.end(timeout=60) == 130, run.said()
        check_all_ended(run)
        check_interrupted(run, "; --resume goes on from the last checkpoint")
        check_files(output)
        assert not partial_files(output)
    run = start(output, before=("--resume", "--num-processes", processes))
    assert run.end() == 0, run.said()
    if processes == "1":
        assert_same_weights(output, undisturbed)
    row(
        "faults",
        "Ctrl-C in a training",
        f"in steps, in a checkpoint, in an evaluation; processes: {processes}",
        "one sentence, exit 130, all processes ended; `--resume` went on"
        + (" to the undisturbed run's weights" if processes == "1" else ""),
    )


def test_sigterm_in_a_training(undisturbed, start, tmp_path, row):
    output = tmp_path / "run"
    for moment in ("last_checkpoint", "predictions/*/*.png"):
        run = start(output, before=("--resume",))
        assert run.wait_until(written_from_now(output, moment)), run.said()
        run.signal(signal.SIGTERM)
        assert run.end(timeout=60) == 75, run.said()
        assert "exit status 75: run it again with --resume" in run.said() and "Traceback" not in run.said()
        check_all_ended(run)
        check_files(output)
    run = start(output, before=("--resume",))
    assert run.end() == 0, run.said()
    assert_same_weights(output, undisturbed)
    row(
        "faults",
        "SIGTERM in a training",
        "in steps, in an evaluation",
        "a checkpoint, one sentence, exit 75; `--resume` went on to the undisturbed run's weights",
    )


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_evaluation(undisturbed, start, tmp_path, row, number, processes):
    output = tmp_path / "run"
    weights = ("MODEL.WEIGHTS", str(undisturbed / "model_final.pth"))
    before = ("--eval-only", "--num-processes", processes)
    run = start(output, *weights, *SLOW_EVALUATION, before=before)
    assert run.wait_until(written_from_now(output, "predictions/*/*.png")), run.said()
    run.signal(number)
    status = run.end(timeout=60)
    check_all_ended(run)
    if number == signal.SIGINT:
        assert status == 130, run.said()
        check_interrupted(run)
        outcome = "one sentence, exit 130"
    else:
        assert status == -signal.SIGTERM if processes == "1" else status == 1, run.said()
        outcome = "ended by it (143 in a shell)" if processes == "1" else "one sentence, exit 1"
    check_files(output)
    there = len(list(output.glob("predictions/*/*.png")))
    again = start(output, *weights, *SLOW_EVALUATION, before=before)
    assert again.end() == 0, again.said()
    assert f"{there} of 8 predictions are there and are not computed again" in again.said()
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    row(
        "faults",
        f"{name} in an evaluation",
        f"`--eval-only`; processes: {processes}",
        f"{outcome}; the same command went on with the label maps that were there",
    )
