"""What reads strangers' files, from its own seeds and, where Atheris is installed, by fuzzing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inputs.cases import Cases
from tests.inputs.targets import TARGETS, read_all

ROOT = Path(__file__).resolve().parents[2]
SECONDS = os.environ.get("MTACLIP_FUZZ_SECONDS", "5")


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name, tmp_path):
    cases = Cases()
    for seed in TARGETS[name].seeds():
        read_all(TARGETS[name], seed, tmp_path / "input", cases)
    assert cases.read


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="Atheris is not installed (make test-inputs)")
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_finds_nothing(name, tmp_path, row):
    command = [sys.executable, "-m", "tests.inputs.fuzz", name, tmp_path, f"-max_total_time={SECONDS}"]
    search = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    number, outcome = (tmp_path / "cases.txt").read_text().strip().split(" | ")
    found = sorted(file.name for file in tmp_path.glob("*-*"))
    row("inputs", f"fuzzing: {name}", number, f"{outcome}; {len(found)} defects")
    assert search.returncode == 0 and not found, search.stdout[-3000:] + search.stderr[-3000:]
