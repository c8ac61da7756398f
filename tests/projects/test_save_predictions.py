"""TEST.SAVE_PREDICTIONS as users type it: killed and run again, in two processes, and while training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtaclip.engine import Trainer, setup_cfg

ROOT = Path(__file__).resolve().parents[2]
TINY = "configs/miniature/mtaclip_tiny.yaml"
DATASET = "cityscapes_sem_seg_train"  # eight images
OPTIONS = [
    "TEST.SAVE_PREDICTIONS", "True",
    "DATASETS.TEST", f"('{DATASET}',)",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights, so that a run does not depend on SEED."""
    file = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.manual_seed(0)
    torch.save({"model": Trainer.build_model(setup_cfg(ROOT / TINY, device="cpu")).state_dict()}, file)
    return file


@pytest.fixture
def command(weights):
    """A function from an output folder and options to the arguments of Python."""

    def build(out: Path, *options: str, before: tuple[str, ...] = ()) -> list[str]:
        script = ["train_net.py", "--config-file", TINY, "--num-gpus", "0", "--eval-only", *before]
        return [*script, *OPTIONS, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(out), *options]

    return build


def predictions(out: Path) -> list[Path]:
    return sorted((out / "predictions" / DATASET).glob("*.png"))


def scores(out: Path) -> dict:
    return json.loads((out / f"scores_{DATASET}.json").read_text())


def kill_half_way(arguments: list[str], out: Path, root: Path) -> None:
    """Run a script and kill it with SIGKILL when the first predictions are there."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(root)}
    with open(out.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=variables, stdout=log, stderr=log)
        while len(predictions(out)) < 2:
            assert process.poll() is None, out.with_suffix(".log").read_text()
            time.sleep(0.002)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_scores(command, run_script, miniature_root, tmp_path):
    """Images are enlarged, so that eight of them take long enough to be interrupted."""
    large = ["INPUT.MIN_SIZE_TEST", "384", "INPUT.MAX_SIZE_TEST", "768"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_half_way(command(killed, *large), killed, miniature_root)
    kept = {file.name: file.stat().st_mtime_ns for file in predictions(killed)}
    assert 2 <= len(kept) < 8

    again = run_script(*command(killed, *large), root=miniature_root)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of 8 predictions are there and are not computed again" in again.stdout + again.stderr
    assert "8 of 8 predictions are in" in again.stdout + again.stderr
    assert {file.name: file.stat().st_mtime_ns for file in predictions(killed) if file.name in kept} == kept

    unsaved = command(whole, *large, "TEST.SAVE_PREDICTIONS", "False")
    done = run_script(*unsaved, root=miniature_root)
    assert done.returncode == 0, done.stderr
    assert scores(killed) == scores(whole) and not (whole / "predictions").exists()


def test_two_processes_write_and_read_what_one_does(command, run_script, miniature_root, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    arguments = command(two, before=("--num-processes", "2"))
    for there in (0, 5):
        done = run_script(*arguments, root=miniature_root)
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        assert (f"{there} of 8 predictions are there" in said) == bool(there)
        assert said.count("8 of 8 predictions are in") == 1
        for file in predictions(two)[: 3 * (there == 0)]:  # of the first process two or more
            file.unlink()
    done = run_script(*command(one), root=miniature_root)
    assert done.returncode == 0, done.stderr
    assert scores(two) == scores(one)
    assert {file.name: file.read_bytes() for file in predictions(two)} == {
        file.name: file.read_bytes() for file in predictions(one)
    }


def test_what_is_in_the_way_is_told_once_in_one_sentence(command, run_script, miniature_root, tmp_path):
    (tmp_path / "predictions").write_bytes(b"")
    done = run_script(*command(tmp_path, before=("--num-processes", "2")), root=miniature_root)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("train_net.py: error: ")]
    assert len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert said[0].startswith("train_net.py: error: TEST.SAVE_PREDICTIONS: ")
    assert f"{tmp_path / 'predictions' / DATASET}: not written: Not a directory" in said[0]


def test_a_training_replaces_the_predictions_of_earlier_weights(run_script, miniature_root, tmp_path):
    """A split without labels beside one with: the run has scores of the second alone."""
    options = ["SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1", "TEST.SAVE_PREDICTIONS", "True"]
    options += ["DATASETS.TEST", "('cityscapes_sem_seg_val','cityscapes_sem_seg_test')", "OUTPUT_DIR", str(tmp_path)]
    options += ["DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "INPUT.CROP.SIZE", "(64,128)"]
    options += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "128"]
    done = run_script("train_net.py", "--config-file", TINY, "--num-gpus", 0, *options, root=miniature_root)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "4 predictions of other weights are removed" in said
    assert "1 predictions of other weights are removed" in said
    (file,) = (tmp_path / "predictions" / "cityscapes_sem_seg_test").glob("*.png")
    assert np.array(Image.open(file)).shape == (64, 128)
    assert not (tmp_path / "scores_cityscapes_sem_seg_test.json").exists()
    assert (tmp_path / "model_best.pth").is_file()
