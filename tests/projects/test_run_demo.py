"""`make demo` keeps its promise: from nothing to a trained, evaluated model with pictures."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mtaclip", "mask2former"])
def test_demo_learns_the_miniature(run_script, tmp_path, method):
    config = f"configs/miniature/{method}_tiny.yaml"
    drawn, out = tmp_path / "drawn", tmp_path / "out"
    done = run_script(
        "projects/MTACLIP/tools/run_demo.py", "--config-file", config, "--datasets", drawn, "OUTPUT_DIR", out
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((out / "scores_cityscapes_sem_seg_val.json").read_text())["scores_percent"]
    assert scores["mIoU"] >= 55
    assert f"{scores['mIoU'] / 100:.3f}" in done.stdout
    assert (out / "curves.png").stat().st_size > 10_000
    assert len(list((out / "pictures").glob("*_overlay.png"))) == 8

    untrained = run_script(
        "train_net.py", "--config-file", config, "--num-gpus", 0, "--eval-only", "OUTPUT_DIR", tmp_path / "raw",
        root=drawn,
    )  # fmt: skip
    assert untrained.returncode == 0, untrained.stderr
    scores = json.loads((tmp_path / "raw" / "scores_cityscapes_sem_seg_val.json").read_text())["scores_percent"]
    assert scores["mIoU"] < 5
