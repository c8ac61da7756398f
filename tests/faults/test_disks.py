"""Disks that are full: before a run, in the middle of it, and while a model is published or exported."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.visualization.curves import read_metrics
from tests.faults.runs import Run, assert_same_weights, check_files, check_refused, fill, partial_files

pytestmark = pytest.mark.slow
SIZES = ("TEST.AUG.MIN_SIZES", "(64,96,128)")
WITHOUT_LABEL_MAPS = ("TEST.SAVE_PREDICTIONS", "False")  # they are what a training cannot go on without


def test_full_before_the_start(start, disk, row):
    ballast = fill(disk)
    check_refused(start(disk / "run"), f"OUTPUT_DIR {disk / 'run'}", "No space left on device", "make room")
    ballast.unlink()
    run = start(disk / "run", "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    assert run.end() == 0, run.said()
    row("faults", "Disk full before the start", "a training", "one sentence, exit 1; with room, the same command ran")


def test_full_in_a_training(undisturbed, start, disk, row):
    """Nothing can be written behind the first checkpoint."""
    output = disk / "run"
    run = start(output, *WITHOUT_LABEL_MAPS)
    assert run.wait_until((output / "last_checkpoint").exists), run.said()
    ballast = fill(disk)
    check_refused(
        run,
        output / "model_final.pth",
        "No space left on device (0.0 MiB free",
        "remove the cause and go on with --resume",
    )
    said = run.said()
    refused = ["model_0000019.pth", "model_best.pth", "metrics.json", "events.out.tfevents", "report.html", "report.md"]
    for name in refused:
        assert f"{name}: not written: No space left" in said, name
    assert "Logging error" not in said
    assert not partial_files(output)
    assert read_checkpoint(output / (output / "last_checkpoint").read_text())["iteration"] == 9
    ballast.unlink()
    again = start(output, *WITHOUT_LABEL_MAPS, before=("--resume",))
    assert again.end() == 0, again.said()
    assert "Starting training from iteration 10" in again.said()
    assert_same_weights(output, undisturbed)
    check_files(output)
    row(
        "faults",
        "Disk full in a training",
        f"filled behind the first checkpoint; {', '.join(f'`{name}`' for name in refused)} and `model_final.pth`",
        "each named in the log; exit 1 at the final checkpoint with a sentence; with room, `--resume` went on from the "
        "first checkpoint to the undisturbed run's weights",
    )


def test_full_for_a_while(undisturbed, start, disk, row):
    """There is room again after the first evaluation."""
    output = disk / "run"
    run = start(output, *WITHOUT_LABEL_MAPS)
    assert run.wait_until((output / "last_checkpoint").exists), run.said()
    ballast = fill(disk)
    assert run.wait_until(lambda: "model_0000029.pth: not written" in run.said()), run.said()
    ballast.unlink()
    assert run.end() == 0, run.said()
    assert_same_weights(output, undisturbed)
    check_files(output)
    found, expected = (read_metrics(folder / "metrics.json") for folder in (output, undisturbed))
    assert found["sem_seg/mIoU"] == expected["sem_seg/mIoU"] and found["total_loss"] == expected["total_loss"]
    steps = {event.step for file in output.glob("events.*") for event in EventFileLoader(str(file)).Load()}
    assert {39, 59} <= steps
    row(
        "faults",
        "Disk full for a while",
        "from the first checkpoint to the third",
        "the training ended well, with the undisturbed run's weights; "
        "`metrics.json` lacks nothing, TensorBoard went on",
    )


@pytest.mark.parametrize(
    ("what", "saved", "until", "refused"),
    [
        ("label maps", "True", "predictions/*/*.png", "predictions/"),
        ("scores and report", "False", "config.yaml", "scores_cityscapes_sem_seg_train.json"),
    ],
)
def test_full_in_an_evaluation(undisturbed, start, disk, row, what, saved, until, refused):
    output = disk / "run"
    options = ["MODEL.WEIGHTS", str(undisturbed / "model_final.pth"), "TEST.SAVE_PREDICTIONS", saved]
    options += ["DATASETS.TEST", "('cityscapes_sem_seg_train',)", "TEST.AUG.ENABLED", saved, *SIZES]

    def evaluation() -> Run:
        return start(output, *options, before=("--eval-only",))

    fill(disk, room=2**20)
    run = evaluation()
    assert run.wait_until(lambda: any(output.glob(until))), run.said()
    ballast = fill(disk)
    check_refused(run, refused, "not written: No space left on device (0.0 MiB free", "run the same command again")
    there = len(list(output.glob("predictions/*/*.png")))
    ballast.unlink()
    run = evaluation()
    assert run.end() == 0, run.said()
    if there:
        assert f"{there} of 8 predictions are there and are not computed again" in run.said()
    assert not partial_files(output)
    (scores,) = output.glob("scores_*.json")
    assert json.loads(scores.read_text())["num_images"] == 8
    row(
        "faults",
        "Disk full in an evaluation",
        what,
        "one sentence, exit 1; with room, the same command "
        + ("went on with the label maps that were there" if there else "wrote them"),
    )


@pytest.mark.parametrize(
    ("script", "options", "name"),
    [("publish.py", [], "model"), ("export.py", ["--format", "torch", "--height", 64, "--width", 128], "model.pt2")],
)
def test_full_for_the_output_of_a_program(run_script, tiny_checkpoint, disk, row, script, options, name):
    command = [f"projects/MTACLIP/{script}", "--checkpoint", tiny_checkpoint("mtaclip"), "--output", disk / name]
    ballast = fill(disk, room=2**21)
    done = run_script(*command, *options)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in (f"{script}: error: ", str(disk), name, "not written: No space left on device", "same command again"):
        assert word in last, done.stderr
    assert [path.name for path in disk.iterdir()] == ["ballast"]
    ballast.unlink()
    assert run_script(*command, *options).returncode == 0
    assert Path(disk / name).exists()
    row("faults", "Disk full", f"`{script}`", "one sentence, exit 2, nothing left; with room, the same command ran")
