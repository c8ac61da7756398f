"""The benchmark of inference runs and writes what it measured."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_model_labels_the_files(tmp_path):
    """All parts of a call are in the file, and both of ours need more than nothing."""
    models = ["mtaclip", "mask2former"] + (["transformers"] if importlib.util.find_spec("transformers") else [])
    file = tmp_path / "inference.json"
    options = ["--config", "miniature/tiny", "--sizes", "64x96", "--batch", "2", "--rounds", "1", "--threads", "1"]
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "inference.py"), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run([*command, "--output", str(file)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (row,) = json.loads(file.read_text())["results"]
    assert (row["size"], row["batch"], row["type"]) == ([64, 96], 2, "float32")
    assert list(row["implementations"]) == models
    for name, figures in row["implementations"].items():
        parts = {"reading", "backbone", "pixel decoder", "decoder", "labels"} | (
            {"text"} if name == "mtaclip" else set()
        )
        assert set(figures["parts_ms_per_image"]) == parts
        assert figures["ms_per_image"] > 0 and figures["peak_mb"] >= 0
