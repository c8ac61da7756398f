"""The benchmarks run and write what their README says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_operator_benchmark_writes_its_figures(tmp_path):
    result = tmp_path / "results" / "ops.json"
    options = ["--tokens", "5376", "--batch", "1", "--types", "float32", "--pairs", "1", "--threads", "1"]
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "ops.py"), *options, "--output", str(result)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(result.read_text())
    assert report["machine"]["threads"] == 1 and report["machine"]["torch"]
    assert [(row["entry"], row["run"]) for row in report["results"]] == [
        (entry, kind) for entry in ("classic", "fused") for kind in ("forward", "forward_backward")
    ]
    for row in report["results"]:
        measured = row["implementations"]
        assert measured["grid_sample"]["times_faster"] == 1
        assert all(figures["ms"] > 0 for figures in measured.values())
        # The samples of all points, (N, M, L, P, D) in float32, are 66 MB; ours never holds them.
        assert measured["ours"]["peak_mb"] < 66 < measured["grid_sample"]["peak_mb"]


def test_every_benchmark_and_result_in_the_readme_exists():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    files = set(re.findall(r"benchmarks/[\w/]+\.(?:py|cu|json)", text))
    assert not {file for file in files if not (ROOT / file).exists()}
    assert {f"benchmarks/{file.name}" for file in (ROOT / "benchmarks").glob("*.*") if file.suffix != ".md"} <= files


def test_the_evaluation_benchmark_compares_equal_scores(tmp_path):
    result = tmp_path / "evaluation.json"
    options = ["--images", "2", "--size", "128", "256", "--output", str(result)]
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "evaluation.py"), *options]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(result.read_text())
    names = {"ours", "ours, iIoU", "ours, iIoU, in the background", "Detectron2", "official, iIoU"}
    assert set(report["ms_per_image"]) == names
    assert all(ms > 0 for ms in report["ms_per_image"].values())
    assert abs(report["scores"]["ours, iIoU"]["iIoU"] - report["scores"]["official, iIoU"]["iIoU"]) < 1e-7
