"""Output folders that cannot be written into, vanish, have unusual names, or are another run's."""

import shutil
import signal
import subprocess

import pytest

from mtaclip.checkpoint.loading import read_checkpoint
from tests.faults.runs import assert_same_weights, check_files
from tests.faults.test_disks import check_refused

pytestmark = pytest.mark.slow
SHORT = ("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2")


def test_a_folder_that_cannot_be_written_into(start, disk, tmp_path, row):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "run")
    (disk / "old").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    cases = {
        disk / "new": "Read-only file system",
        disk / "old": "Read-only file system",
        tmp_path / "file": "is no folder",
        tmp_path / "file" / "run": "Not a directory",
        tmp_path / "link": "is no folder",
    }
    for folder, words in cases.items():
        for before in ((), ("--resume",), ("--eval-only",)):
            check_refused(start(folder, before=before), f"OUTPUT_DIR {folder} ", words, "name")
    row(
        "faults",
        "Output folder that cannot be used",
        f"{len(cases)} (read-only file system, a file, below a file, a link to nothing), each in a training, with "
        "`--resume` and `--eval-only`",
        "one sentence each, exit 1",
    )


def test_read_only_in_a_training(undisturbed, start, disk, row):
    """As a file system becomes after an error of its disk."""
    output = disk / "run"
    run = start(output)
    assert run.wait_until(lambda: (output / "last_checkpoint").exists()), run.said()
    run.signal(signal.SIGSTOP)
    mount(disk, tries=100, run=run)
    check_refused(run, output / "model_final.pth", "Read-only file system", "--resume")
    assert read_checkpoint(output / (output / "last_checkpoint").read_text())["iteration"] < 59
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    again = start(output, before=("--resume",))
    assert again.end() == 0, again.said()
    assert_same_weights(output, undisturbed)
    row(
        "faults",
        "Output folder read-only in a training",
        "behind the first checkpoint",
        "exit 1 with a sentence; writable again, `--resume` went on to the undisturbed run's weights",
    )
