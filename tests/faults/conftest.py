"""What the tests of faults share: an undisturbed training, more images, and small file systems."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Run


@pytest.fixture
def start(tmp_path, miniature_root) -> Callable[..., Run]:
    """A function that starts `train_net.py` with an output folder and options."""
    logs = []

    def run(output: Path | str, *options: str, before: tuple[str, ...] = ()) -> Run:
        logs.append(tmp_path / f"said_{len(logs)}.txt")
        return Run(logs[-1], miniature_root, output, *options, before=before)

    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, miniature_root) -> Path:
    """Output folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = Run(folder / "said.txt", miniature_root, folder / "run")
    assert run.end() == 0, run.said()
    return folder / "run"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory, run_script) -> Path:
    """A miniature with enough images for an evaluation to be met in the middle."""
    root = tmp_path_factory.mktemp("drawn")
    sizes = ["--train", "9", "--val", "150", "--test", "1", "--size", "64", "128"]
    made = run_script("datasets/make_miniature.py", "--root", root, "--dataset", "cityscapes", *sizes)
    assert made.returncode == 0, made.stderr
    return root


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 160 MiB in memory; a checkpoint has 23."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
