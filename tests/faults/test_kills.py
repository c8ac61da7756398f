"""Trainings that are killed again and again, or told to stop."""

import random
import signal
import time

import pytest

from mtaclip.visualization.curves import read_metrics
from tests.faults.runs import ITERATIONS, assert_same_weights, check_files, partial_files, written_from_now

pytestmark = pytest.mark.slow
KILLS = 30
SEED = 20


def writes_checkpoint(output):
    return any(output.glob(".model_*.partial"))


EVALUATION = ("scores_*.json", "report.html", "curves.png", "predictions/*/*.png", "snapshots/*/*")


def test_killed_at_any_moment(undisturbed, start, tmp_path, row):
    """What is there after every kill can be read, and what a run ends with is what it would have been."""
    chance = random.Random(SEED)
    moments = [kind for kind in ("in a checkpoint", "in an evaluation", "at any time") for _ in range(KILLS // 3)]
    chance.shuffle(moments)
    hits = dict.fromkeys(moments, 0)
    torn = most_partial = complete = files = lost = 0
    output = tmp_path / "run_0"
    while moments:
        run = start(output, before=("--resume",))
        kind = moments.pop()
        if kind == "in a checkpoint":
            running = run.wait_until(lambda output=output: writes_checkpoint(output))
            time.sleep(chance.choice((0.0, 0.005, 0.02)))
        elif kind == "in an evaluation":
            running = run.wait_until(written_from_now(output, *EVALUATION))
            time.sleep(chance.choice((0.0, 0.01, 0.03)))
        else:
            deadline = time.monotonic() + chance.uniform(2.0, 14.0)
            running = run.wait_until(lambda deadline=deadline: time.monotonic() > deadline)
        run.signal(signal.SIGKILL)
        status = run.end()
        assert status in (0, -signal.SIGKILL), run.said()
        if not running or status == 0:  # it was done first; the same moment is tried in another run
            assert status == 0
            moments.append(kind)
            complete += 1
            lost += assert_whole(output, undisturbed)
            output = tmp_path / f"run_{complete}"
            continue
        hits[kind] += 1
        files += check_files(output)
        torn += bool(partial_files(output))
        most_partial = max(most_partial, len(partial_files(output)))
    run = start(output, before=("--resume",))
    assert run.end() == 0, run.said()
    lost += assert_whole(output, undisturbed)
    assert most_partial <= 3, "one for each folder"
    where = ", ".join(f"{count} {kind}" for kind, count in hits.items())
    print(f"seed {SEED}: {where}")
    row(
        "faults",
        "SIGKILL of a training",
        f"{sum(hits.values())} kills ({where}), each followed by `--resume`; {torn} hit a write",
        f"{complete + 1} runs completed with the undisturbed run's weights to the bit and its scores; all "
        f"{files} files that the kills left could be read; {lost} lines of losses in metrics.json were not written: "
        "a kill fell between the checkpoint and the line",
    )


def assert_whole(output, undisturbed) -> int:
    """Weights and scores are those of the undisturbed run and nothing is left over; returns how many lines are lost."""
    assert_same_weights(output, undisturbed)
    assert not partial_files(output)
    check_files(output)
    found, expected = (read_metrics(folder / "metrics.json") for folder in (output, undisturbed))
    assert found["sem_seg/mIoU"] == expected["sem_seg/mIoU"]
    assert found["sem_seg/mIoU"][0] == [19, 39, ITERATIONS]
    assert expected["total_loss"][0] == [19, 39, 59]
    lines = set(found["total_loss"][0])  # values are medians of the steps since the start of the process
    assert 59 in lines and lines <= set(expected["total_loss"][0])
    return len(expected["total_loss"][0]) - len(lines)
