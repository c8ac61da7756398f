"""Building the compiled libraries: in copied trees, by real compilers, or by one that writes down what it is asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
IGNORED = shutil.ignore_patterns("__pycache__", "*.so")
BUILT_FOR = """
#include <torch/headeronly/core/ScalarType.h>
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
extern "C" __attribute__((used, visibility("default"))) const char mtaclip_built_for[] =
"""
TINY_CPU = BUILT_FOR + '"mtaclip-built-for-torch=" TEXT(MTACLIP_TORCH) ";";\n'
TINY_CUDA = BUILT_FOR + '"mtaclip-built-for-torch=" TEXT(MTACLIP_TORCH) ";cuda=" TEXT(MTACLIP_CUDA) ";";\n'
STEP = """
import torch
from mtaclip.ops import library, ms_deform_attn
value, offsets = torch.randn(1, 4, 2, 8, requires_grad=True), torch.randn(1, 4, 2, 1, 2, 2, requires_grad=True)
ms_deform_attn(value, [(2, 2)], torch.rand(4, 2), offsets, torch.randn(1, 4, 2, 2)).sum().backward()
assert value.grad.abs().sum() > 0 and offsets.grad.isfinite().all()
"""
compiles = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="there is no C++ compiler")
with_cuda = pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is without CUDA")


def copied(target: Path) -> Path:
    """What an installation reads, without libraries that were built before."""
    shutil.copytree(ROOT / "mtaclip", target / "mtaclip", ignore=IGNORED)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, target / file)
    return target


@pytest.fixture
def tiny(tmp_path):
    """The same with one small source file for each library."""
    tree = copied(tmp_path / "tree")
    shutil.rmtree(tree / "mtaclip" / "ops" / "csrc")
    for device, name, text in (("cpu", "tiny.cpp", TINY_CPU), ("cuda", "tiny.cu", TINY_CUDA)):
        folder = tree / "mtaclip" / "ops" / "csrc" / device
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    return tree


def run(*command, tree, **variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MTACLIP_", "CUDA_", "TORCH_"))}
    env |= {"MTACLIP_BUILD_CUDA": "0", "PYTHONWARNINGS": "ignore", **variables}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)


def build(tree, **variables):
    return run(sys.executable, "setup.py", "build_ext", "--inplace", tree=tree, **variables)


def install(tree, site, **variables):
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]
    return run(*pip, "-v", "--target", str(site), ".", tree=tree, **variables)


def library(tree, device="cpu"):
    return tree / "mtaclip" / "ops" / f"_C_{device}.abi3.so"


# --- the library for CPUs --------------------------------------------------------------------------------------------


def test_an_installation_without_a_compiler_succeeds_and_trains(tmp_path):
    tree, site = copied(tmp_path / "tree"), tmp_path / "site"
    result = install(tree, site, CC="/bin/false", CXX="/bin/false", MTACLIP_BUILD_CUDA="auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr.count("mtaclip: the compiled operator for CPU is not built: ") == 1
    assert not list(site.rglob("*.so")) and not list(site.rglob("csrc"))
    step = run(sys.executable, "-c", STEP + "assert library.CPU.problem", tree=tmp_path, PYTHONPATH=str(site))
    assert step.returncode == 0, step.stderr
    assert step.stderr.count("The compiled operator for CPU is not built") == 1
    assert step.stderr.count("runs in plain PyTorch") == 1


def test_a_missing_compiler_is_one_sentence_or_an_error(tiny):
    result = build(tiny, CXX="no-such-compiler")
    assert result.returncode == 0
    assert "for CPU is not built: there is no C++ compiler 'no-such-compiler'." in result.stderr
    result = build(tiny, CXX="no-such-compiler", MTACLIP_BUILD_CPU="1")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and "MTACLIP_BUILD_CPU=auto would leave it out" in result.stderr


@compiles
def test_an_old_pytorch_is_one_sentence(tiny, tmp_path):
    torch_folder = tmp_path / "old" / "torch"
    torch_folder.mkdir(parents=True)
    (torch_folder / "__init__.py").touch()
    (torch_folder / "version.py").write_text("__version__ = '2.9.1'\ncuda = None\n")
    result = build(tiny, PYTHONPATH=str(torch_folder.parent))
    assert result.returncode == 0 and not library(tiny).exists()
    assert "for CPU is not built: it needs PyTorch 2.10 or newer, and this is 2.9.1." in result.stderr


@compiles
def test_sources_that_do_not_compile_are_one_sentence(tiny):
    (tiny / "mtaclip" / "ops" / "csrc" / "cpu" / "tiny.cpp").write_text("nonsense")
    result = build(tiny)
    assert result.returncode == 0 and not library(tiny).exists()
    assert "mtaclip: the compiled operator for CPU is not built: a compiler or linker failed" in result.stderr
    assert "The package runs without it; MTACLIP_BUILD_CPU=1 makes this an error." in result.stderr


@compiles
def test_a_library_is_built_again_only_when_a_source_has_changed(tiny):
    assert build(tiny).returncode == 0
    built = library(tiny)
    assert f"mtaclip-built-for-torch={torch.__version__};interface=".encode() in built.read_bytes()
    before = built.stat().st_mtime_ns
    assert build(tiny).returncode == 0 and built.stat().st_mtime_ns == before
    (tiny / "mtaclip" / "ops" / "csrc" / "cpu" / "tiny.cpp").write_text(TINY_CPU)
    assert build(tiny).returncode == 0 and built.stat().st_mtime_ns > before


@pytest.mark.parametrize("variable", ["MTACLIP_BUILD_CPU", "MTACLIP_BUILD_CUDA"])
def test_an_unknown_value_of_a_switch_is_refused(tiny, variable):
    result = build(tiny, **{variable: "yes"})
    assert result.returncode == 1 and f"{variable} must be 0, 1 or auto, got 'yes'." in result.stderr


def test_a_wrong_number_of_jobs_is_named(tiny):
    assert "MAX_JOBS must be a positive number, got 'all'" in build(tiny, MAX_JOBS="all").stderr


@pytest.mark.slow
@compiles
def test_an_editable_installation_builds_the_library_and_an_installed_wheel_holds_it(tmp_path):
    tree, site = copied(tmp_path / "tree"), tmp_path / "site"
    result = install(tree, site, MTACLIP_BUILD_CPU="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [file.name for file in site.rglob("*.so")] == ["_C_cpu.abi3.so"] and not list(site.rglob("csrc"))
    check = run(sys.executable, "-m", "mtaclip.ops.check", "--no-speed", tree=tmp_path, PYTHONPATH=str(site))
    assert check.returncode == 0 and "cpu, compiled: right" in check.stdout, check.stdout
    editable = "import setuptools.build_meta as b; b.build_editable('dist')"
    assert run(sys.executable, "-c", editable, tree=tree).returncode == 0
    before = library(tree).stat().st_mtime_ns
    assert run(sys.executable, "-c", editable, tree=tree).returncode == 0
    assert library(tree).stat().st_mtime_ns == before


# --- the library for GPUs --------------------------------------------------------------------------------------------


@pytest.fixture
def toolkit(tmp_path):
    """A folder that looks like CUDA's, whose nvcc writes down its arguments and makes what it is asked for."""
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    (home / "nvvm").mkdir()
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(
        f"#!/bin/sh\n"
        f'case "$*" in\n'
        f'  --version) echo "Cuda compilation tools, release {torch.version.cuda}, V1" ;;\n'
        f"  --list-gpu-arch) echo compute_80 compute_90 ;;\n"
        f'  --dryrun*) echo "#\\$ TOP={home}/bin/.." ;;\n'
        f'  *) echo "$*" >> "{home}/calls"; [ ! -e "{home}/broken" ] || exit 1; while [ "$1" != -o ]; do shift; done\n'
        f'     cat "{home}/calls" > "$2" ;;\n'
        f"esac\n"
    )
    nvcc.chmod(0o755)
    return home


def build_cuda(tree, **variables):
    return build(tree, **{"MTACLIP_BUILD_CPU": "0", "MTACLIP_BUILD_CUDA": "auto", "CXX": sys.executable, **variables})


def calls(home):
    """What nvcc was asked for: to compile, and to link."""
    return (home / "calls").read_text().splitlines()


@with_cuda
def test_nvcc_compiles_for_the_architectures_it_knows(tiny, toolkit):
    result = build_cuda(tiny, CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX;17.0")
    assert result.returncode == 0 and library(tiny, "cuda").is_file(), result.stderr
    compilation, link = calls(toolkit)
    codes = [word.removeprefix("-gencode=") for word in compilation.split() if word.startswith("-gencode")]
    assert codes == [
        "arch=compute_80,code=sm_80",
        "arch=compute_90,code=sm_90",
        "arch=compute_90,code=compute_90",
    ]
    for option in ("-DUSE_CUDA", "-DTORCH_TARGET_VERSION=", "-DMTACLIP_TORCH=", "-DMTACLIP_CUDA=", "-std=c++20"):
        assert option in compilation
    assert "architectures=8.0 9.0+PTX" in compilation
    assert "-shared" in link and "-ltorch_cuda" in link


@with_cuda
def test_nvcc_is_found_behind_a_script_of_its_name(tiny, toolkit, tmp_path):
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{toolkit}/bin/nvcc" "$@"\n')
    script.chmod(0o755)
    result = build_cuda(tiny, PATH=f"{script.parent}:/usr/bin:/bin")
    assert result.returncode == 0 and library(tiny, "cuda").is_file(), result.stderr
    assert all(f"{toolkit}" not in line.split()[0] for line in calls(toolkit))


@with_cuda
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CUDA_HOME": "/nowhere"}, "CUDA_HOME is /nowhere, which holds no bin/nvcc and nvvm/"),
        ({"TORCH_CUDA_ARCH_LIST": "Ampere"}, "must hold numbers like 8.0 or 9.0+PTX, got 'Ampere'"),
        ({"TORCH_CUDA_ARCH_LIST": "3.5"}, "knows none of the architectures 3.5"),
    ],
)
def test_why_the_cuda_library_is_not_built_is_one_sentence(tiny, toolkit, change, reason):
    variables = {"CUDA_HOME": str(toolkit), **change}
    result = build_cuda(tiny, **variables)
    assert result.returncode == 0 and not library(tiny, "cuda").exists()
    sentences = [line for line in result.stderr.splitlines() if line.startswith("mtaclip: ")]
    assert len(sentences) == 1 and reason in sentences[0]
    result = build_cuda(tiny, **variables, MTACLIP_BUILD_CUDA="1")
    assert result.returncode == 1 and reason in result.stderr and "Traceback" not in result.stderr


@with_cuda
def test_another_major_version_of_cuda_is_left_out(tiny, toolkit):
    nvcc = toolkit / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace(f"release {torch.version.cuda}", "release 9.2"))
    stderr = build_cuda(tiny, CUDA_HOME=str(toolkit)).stderr
    assert f"is of CUDA 9.2, and PyTorch {torch.__version__} of CUDA {torch.version.cuda}" in stderr


@with_cuda
@compiles
def test_the_two_libraries_fail_independently(tiny, toolkit):
    (toolkit / "broken").touch()
    result = build(tiny, MTACLIP_BUILD_CUDA="auto", CUDA_HOME=str(toolkit))
    assert result.returncode == 0 and library(tiny).is_file() and not library(tiny, "cuda").exists()
    assert "for CUDA is not built" in result.stderr and "for CPU is not built" not in result.stderr


@pytest.mark.slow
@with_cuda
@compiles
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_a_real_nvcc_builds_a_library_that_loads_without_a_gpu(tmp_path):
    tree = copied(tmp_path / "tree")
    result = build(tree, MTACLIP_BUILD_CPU="0", MTACLIP_BUILD_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0")
    assert result.returncode == 0, result.stderr
    code = "from mtaclip.ops import library; assert not library.CUDA.problem, library.CUDA.problem\n"
    code += "assert library.CUDA.built_for()['architectures'] == '9.0'"
    loaded = run(sys.executable, "-c", code, tree=tree, PYTHONPATH=str(tree))
    assert loaded.returncode == 0, loaded.stderr
