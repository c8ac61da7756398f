"""The benchmark of data loading runs and writes its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_writes_its_figures(tmp_path):
    result = tmp_path / "results" / "data_loading.json"
    options = ["--images", "1", "--size", "256", "512", "--pairs", "2", "--output", str(result)]
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "data_loading.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(result.read_text())
    assert report["machine"]["threads"] == 1 and report["machine"]["opencv"]
    assert report["setting"]["size"] == [256, 512] and report["setting"]["crop"] == [512, 1024]
    assert all(rate > 0 for rate in report["results"]["samples_per_second"].values())
    assert report["results"]["times_faster"] > 0
    assert set(report["ours_ms"]) == {
        "open image",
        "decode labels",
        "draw window",
        "decode image",
        "crop and resize image",
        "crop and resize labels",
        "colours",
        "to tensors",
    }
