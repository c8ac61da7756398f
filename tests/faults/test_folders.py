"""Output folders that cannot be written into, vanish, have unusual names, or are another run's."""

import signal
import subprocess
from itertools import cycle

import pytest

from tests.faults.runs import check_files, check_refused

pytestmark = pytest.mark.slow


def test_a_folder_that_cannot_be_written_into(start, disk, tmp_path, row):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "run")
    (disk / "old").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    cases = {
        disk / "new": "Read-only file system",
        disk / "old": "Read-only file system",
        tmp_path / "file": "is a file, or a link to nothing",
        tmp_path / "file" / "run": "Not a directory",
        tmp_path / "link": "is a file, or a link to nothing",
    }
    ways = cycle(((), ("--resume",), ("--eval-only",)))
    for (folder, words), before in zip(cases.items(), ways, strict=False):
        check_refused(start(folder, before=before), f"OUTPUT_DIR {folder} ", words, "name")
    row(
        "faults",
        "Output folder that cannot be used",
        f"{len(cases)} (read-only file system, a file, below a file, a link to nothing), in a training, with "
        "`--resume` or `--eval-only`",
        "one sentence each, exit 1",
    )


def test_a_folder_that_vanishes_in_a_training(start, tmp_path, row):
    """As if its disk were unmounted."""
    output = tmp_path / "run"
    run = start(output, "DATASETS.TEST", "()")
    assert run.wait_until((output / "last_checkpoint").exists), run.said()
    output.rename(tmp_path / "elsewhere")
    check_refused(run, f"{output / 'model_final.pth'}: not written: No such file or directory", "--resume")
    check_files(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(output)
    again = start(output, "DATASETS.TEST", "()", before=("--resume",))
    assert again.end() == 0 and "Starting training from iteration 10" in again.said(), again.said()
    row(
        "faults",
        "Output folder that vanishes in a training",
        "behind the first checkpoint",
        "one sentence, exit 1; back again, `--resume` went on from that checkpoint",
    )


@pytest.mark.parametrize("name", ["with spaces", "Größe 漢字 ß", "quo'te \"[0-9]* {x} $HOME"])
def test_names_of_folders(undisturbed, start, tmp_path, row, name):
    output = tmp_path / name / "run"
    run = start(output, "SOLVER.MAX_ITER", "20")
    assert run.end() == 0, run.said()
    again = start(output, before=("--resume",))
    assert again.end() == 0 and "Starting training from iteration 20" in again.said(), again.said()
    check_files(output)
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    evaluation = start(tmp_path / name / "evaluation", *weights, before=("--eval-only",))
    assert evaluation.end() == 0, evaluation.said()
    row("faults", "Output folder with an unusual name", f"`{name}`", "trained, resumed, evaluated")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_two_runs_in_one_folder(undisturbed, start, tmp_path, row, processes):
    """Also two that begin at the same time."""
    output = tmp_path / "run"
    first, second = (start(output, "SOLVER.MAX_ITER", "20", before=("--num-processes", processes)) for _ in range(2))
    statuses = sorted((first.end(), second.end()))
    assert statuses == [0, 1], first.said() + second.said()
    run = start(output, before=("--resume",))
    assert run.wait_until((output / "model_0000029.pth").exists), run.said()
    run.signal(signal.SIGSTOP)
    others = ((), ("--resume",), ("--eval-only",))
    for before in others:
        other = start(output, before=(*before, "--num-processes", processes))
        check_refused(other, f"OUTPUT_DIR {output} is in use by another run", "wait until it ends", "another folder")
        assert other.said().count("train_net.py: error") == 1
    run.signal(signal.SIGCONT)
    assert run.end() == 0, run.said()
    check_files(output)
    row(
        "faults",
        "Two runs in one folder",
        f"two trainings at once; into a running one another, `--resume` and `--eval-only`; processes: {processes}",
        "the later one refused with a sentence, exit 1; the first one ended well",
    )
