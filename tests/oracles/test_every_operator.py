"""The head's oracles with every implementation of deformable attention that runs on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtaclip.ops import library

HEAD = Path(__file__).with_name("test_head.py")
compiled = pytest.param(
    "compiled",
    marks=[
        pytest.mark.skipif(bool(library.CPU.problem), reason=library.CPU.problem or "built"),
        pytest.mark.slow,  # it is also what test_head.py itself runs with
    ],
)


@pytest.mark.parametrize("implementation", [compiled, "pytorch", "reference"])
def test_the_heads_oracles_pass_with(implementation, head_file):
    environment = {**os.environ, "MTACLIP_OPS": implementation}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HEAD), "-k", head_file.stem]
    result = subprocess.run(command, cwd=HEAD.parents[2], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout and "skipped" not in result.stdout
