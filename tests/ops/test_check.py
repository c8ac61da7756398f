"""`python -m mtaclip.ops.check`: what it says and its exit status, in copies of the package with one thing wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtaclip.ops import compiled, library

ROOT = Path(__file__).resolve().parents[2]
NAME = "_C_cpu.abi3.so"
needs_library = pytest.mark.skipif(bool(library.CPU.problem), reason=library.CPU.problem)


@pytest.fixture
def package(tmp_path):
    """A folder with a copy of the package that holds no compiled library."""
    shutil.copytree(ROOT / "mtaclip", tmp_path / "mtaclip", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return tmp_path


def check(folder, *options, **variables):
    env = {**os.environ, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": "", **variables}
    command = [sys.executable, "-W", "ignore", "-m", "mtaclip.ops.check", *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@needs_library
def test_a_good_state_is_described_checked_and_measured():
    result = check(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"built for PyTorch {library.CPU.built_for()['torch']}, runs with instruction set " in result.stdout
    for name in ("compiled", "pytorch"):
        assert f"cpu, {name}: right" in result.stdout
    assert "cpu, speed: compiled " in result.stdout and "times faster" in result.stdout
    assert result.stdout.endswith("Everything that is here works.\n")


def test_an_absent_library_is_said_and_is_no_error(package):
    result = check(package, "--no-speed")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "The compiled operator for CPU is not built" in result.stdout
    assert "cpu, pytorch: right" in result.stdout and "speed" not in result.stdout


def test_a_library_that_does_not_load_is_explained_and_an_error(package):
    facts = f"mtaclip-built-for-torch=2.10.0;interface={compiled.INTERFACE};"
    (package / "mtaclip" / "ops" / NAME).write_bytes(facts.encode())
    result = check(package, "--no-speed")
    assert result.returncode == 1
    assert f"was built for PyTorch 2.10.0 and does not load with {torch.__version__} (" in result.stdout
    assert "pip install --no-build-isolation" in result.stdout and "cpu, pytorch: right" in result.stdout
    assert result.stdout.endswith("Something does not work: see above.\n") and not result.stderr


@needs_library
def test_a_library_of_another_version_of_the_package_is_an_error(package):
    content = library.CPU.file.read_bytes()
    old = content.replace(f";interface={compiled.INTERFACE};".encode(), b";interface=0;")
    (package / "mtaclip" / "ops" / NAME).write_bytes(old)
    result = check(package, "--no-speed")
    assert result.returncode == 1 and "for another version of this package" in result.stdout


@needs_library
def test_wrong_results_are_an_error(package):
    shutil.copy(library.CPU.file, package / "mtaclip" / "ops" / NAME)
    with (package / "mtaclip" / "ops" / "pytorch.py").open("a") as file:
        file.write("\n\nright = ms_deform_attn_pytorch\nms_deform_attn_pytorch = lambda *a: 1.01 * right(*a)\n")
    result = check(package, "--no-speed")
    assert result.returncode == 1
    assert "cpu, compiled: right" in result.stdout and "cpu, pytorch: WRONG" in result.stdout


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is without CUDA")
def test_a_library_for_gpus_that_does_not_load_is_an_error_without_a_gpu_too(package):
    facts = f"mtaclip-built-for-torch=2.10.0;interface={compiled.INTERFACE};cuda=12.6;architectures=8.0;"
    (package / "mtaclip" / "ops" / "_C_cuda.abi3.so").write_bytes(facts.encode())
    result = check(package, "--no-speed")
    assert result.returncode == 1
    assert "was built for PyTorch 2.10.0 and CUDA 12.6 and does not load" in result.stdout


def test_a_device_that_is_not_there_is_an_error():
    result = check(ROOT, "--device", "cuda")
    assert result.returncode == 1 and "sees no GPU" in result.stdout
