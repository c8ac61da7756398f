"""What a training reads goes away under it, so do the processes that read, and the clock is set: one sentence each."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.trainings import Training, children

pytestmark = pytest.mark.slow
LIMIT = 150.0  # seconds that a training may take to end
IMAGES = Path("cityscapes/leftImg8bit")
LABELS = Path("cityscapes/gtFine")
MOMENTS = ["training", "evaluation"]


@pytest.fixture
def data(drawn, tmp_path):
    """A copy that may be harmed."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


@pytest.fixture
def training(data, tmp_path):
    """A training, ended behind the test."""
    run = Training(tmp_path / "run", data)
    yield run
    run.kill()


def reach(run: Training, moment: str) -> None:
    """Start a training and wait until it is in the middle of a moment."""
    run.start(TEST__EVAL_PERIOD="4" if moment == "evaluation" else "0")
    run.wait_for_checkpoint()
    if moment == "evaluation":
        run.wait_for_words("Start inference on")
    time.sleep(random.uniform(0, 0.3))


def workers(run: Training) -> list[int]:
    return children(run.processes[0].pid)


def ends_with(run: Training, *words: str) -> tuple[str, float]:
    statuses, seconds = run.end(LIMIT)
    assert statuses == [1], run.said("stdout")
    said = run.sentence()
    assert all(word in said for word in words), said
    return said, seconds


def test_data_workers_killed(training, row):
    """As the system does when memory runs out."""
    longest = 0.0
    for moment in MOMENTS:
        reach(training, moment)
        for number in workers(training):
            os.kill(number, signal.SIGKILL)
        _, seconds = ends_with(training, "DATALOADER.NUM_WORKERS", "memory ran out", "--resume")
        longest = max(longest, seconds)
    training.resume()
    row(
        "faults",
        "the process that reads data is killed",
        f"SIGKILL in {' and '.join(MOMENTS)}",
        f"ended after {longest:.0f} s at most, one sentence with the key; each time resumed",
    )


def test_shared_memory_full(training, row):
    """Data workers die of SIGBUS where a container has a small /dev/shm."""
    wrap = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=100k none /dev/shm && exec "$@"', "sh")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted")
    training.start(wrap=wrap, INPUT__CROP__SIZE="(512,1024)", INPUT__MIN_SIZE_TRAIN="(512,)")
    statuses, seconds = training.end(300)
    assert statuses == [1] and "/dev/shm" in training.sentence()
    row("faults", "shared memory is full", "/dev/shm of 100 kB", "one sentence with what to enlarge")


def hide_folder(data: Path, split: str) -> Path:
    (data / IMAGES).rename(data / "away")
    return data / IMAGES


def show_folder(data: Path) -> None:
    (data / "away").rename(data / IMAGES)


def some_files(data: Path, split: str) -> list[Path]:
    """In training, all images, so that one is met soon; in evaluation, the last image."""
    files = sorted((data / IMAGES / split).rglob("*.png"))
    return files if split == "train" else files[-1:]


def remove_files(data: Path, split: str) -> None:
    shutil.copytree(data, data.with_name("copy"))
    for file in some_files(data, split):
        file.unlink()


def truncate_files(data: Path, split: str) -> None:
    shutil.copytree(data, data.with_name("copy"))
    for file in some_files(data, split):
        os.truncate(file, file.stat().st_size // 2)


def truncate_labels(data: Path, split: str) -> None:
    shutil.copytree(data, data.with_name("copy"))
    files = sorted((data / LABELS / split).rglob("*_labelIds.png"))
    for file in files if split == "train" else files[-1:]:
        os.truncate(file, file.stat().st_size // 2)


def restore(data: Path) -> None:
    shutil.rmtree(data)
    data.with_name("copy").rename(data)


@pytest.mark.parametrize(
    ("fault", "harm", "mend", "words"),
    [
        ("the folder of the images is renamed", hide_folder, show_folder, "leftImg8bit.png does not exist"),
        ("images are removed", remove_files, restore, "leftImg8bit.png does not exist"),
        ("images are truncated", truncate_files, restore, "leftImg8bit.png cannot be read"),
        ("label maps are truncated", truncate_labels, restore, "labelIds.png cannot be read"),
    ],
)
def test_files_that_change(training, data, row, fault, harm, mend, words):
    longest = 0.0
    for moment, split in zip(MOMENTS, ("train", "val"), strict=True):
        reach(training, moment)
        harm(data, split)
        said, seconds = ends_with(training, str(data))
        listed = harm is hide_folder and "was not found: looked for" in said  # an evaluation was about to list them
        assert listed or (words in said and said.count(".png") == 1), said
        longest = max(longest, seconds)
        mend(data)
    training.resume()
    row(
        "faults",
        fault,
        f"in {' and '.join(MOMENTS)}",
        f"ended after {longest:.0f} s at most, one sentence with the file; each time resumed",
    )


def test_a_file_system_that_is_unmounted(drawn, tmp_path, row):
    place = tmp_path / "mounted"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted")
    run = Training(tmp_path / "run", place)
    try:
        shutil.copytree(drawn, place, dirs_exist_ok=True)
        reach(run, "training")
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        _, seconds = ends_with(run, "leftImg8bit.png does not exist")
        subprocess.run(mount, check=True)
        shutil.copytree(drawn, place, dirs_exist_ok=True)
        first = run.resume()
    finally:
        run.kill()
        subprocess.run(["umount", "--lazy", str(place)], check=False)
    row(
        "faults",
        "the file system of the data is unmounted",
        "in training",
        f"ended after {seconds:.0f} s, one sentence with the file; resumed at iteration {first}",
    )


JUMPY = """
import os, time
now = time.time
def jumpy():
    file = os.environ["CLOCK"]
    return now() + (float(open(file).read() or 0) if os.path.exists(file) else 0)
if "CLOCK" in os.environ:
    time.time = jumpy
"""


@pytest.mark.parametrize("days", [-400, 4000])
def test_the_clock_is_set(training, tmp_path, monkeypatch, row, days):
    """In the middle of a training; the times of its files are set as well, and the tag is lost."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CLOCK", str(tmp_path / "clock"))
    training.start(SOLVER__MAX_ITER="60", TEST__EVAL_PERIOD="30")
    training.wait_for_checkpoint()
    (tmp_path / "clock").write_text(str(days * 86400))
    statuses, _ = training.end(600)
    assert statuses == [0], training.said("stdout") + training.said("stderr")
    log = training.said("stdout")
    remaining = re.findall(r"eta: (\S.*?)  iter", log)
    assert remaining and all(re.fullmatch(r"0:0\d:\d\d", text) for text in remaining), remaining
    assert re.search(r"Overall training speed: 5\d iterations in 0:0\d:\d\d", log)
    iterations = [
        int(number) for number in re.findall(r'"iteration": (\d+)', (training.output / "metrics.json").read_text())
    ]
    assert iterations == sorted(iterations) and iterations[-1] == 60  # the last evaluation, behind iteration 59
    assert "mIoU" in (training.output / "report.md").read_text()
    files = sorted(training.output.glob("model_*.pth"))
    for age, file in enumerate(files):
        os.utime(file, (age, age) if days > 0 else (-age, -age))
    (training.output / "model_final.pth").unlink()
    (training.output / "last_checkpoint").unlink()
    training.start(SOLVER__MAX_ITER="62")
    statuses, _ = training.end(600)
    assert statuses == [0] and "Starting training from iteration 60" in training.said("stdout")
    row(
        "faults",
        f"the clock is set {'back' if days < 0 else 'forward'}",
        f"by {abs(days)} days in training; times of files, tag lost",
        "remaining time, metrics and report in order; resumed from the latest iteration",
    )
