"""Installation: package metadata, requirement files, the Makefile, and the commands that the documents name."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from mtaclip.engine import setup_cfg

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE_DATA: list[str] = PYPROJECT["tool"]["setuptools"]["package-data"]["mtaclip"]
# Where the name to import is not the name to install.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "open_clip": "open_clip_torch", "yaml": "pyyaml"}
# Documented, not listed: the reader installs it by hand (INSTALL.md).
BY_HAND = {"detectron2"}
# Imported where they are there: triton comes with PyTorch's builds for GPUs, a benchmark looks for Deformable DETR's.
OPTIONAL = {"triton", "multiscaledeformableattention"}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


# --- metadata --------------------------------------------------------------------------------------------------------


def dependencies(*extras: str) -> dict[str, Requirement]:
    """The declared requirements by normalised name, with those of the given extras."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {normalise(requirement.name): requirement for requirement in map(Requirement, lines)}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party_imports(*folders: str) -> Iterator[tuple[str, Path]]:
    """Every module from outside Python and this project that the code in `folders` imports, with the file."""
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"mtaclip"}:
                if not (file.parent / f"{name}.py").is_file():  # a script's neighbour
                    yield name, file.relative_to(ROOT)


def test_dependencies_are_ranges_and_python_is_stated():
    assert PYPROJECT["project"]["requires-python"] == ">=3.10"
    for name, requirement in dependencies("bench", "demo", "dev", "export").items():
        assert requirement.url is None, name
        assert {specifier.operator for specifier in requirement.specifier} == {">="}, name
    assert not BY_HAND & set(dependencies("bench", "demo", "dev", "export"))
    # With torch among the build requirements, pip would download a second one to build with.
    assert all(Requirement(line).name in {"setuptools", "wheel"} for line in PYPROJECT["build-system"]["requires"])


def test_documents_name_the_lowest_pytorch():
    lowest = str(dependencies()["torch"].specifier).removeprefix(">=")
    assert f"## PyTorch\n\n{lowest} or newer" in (ROOT / "INSTALL.md").read_text(encoding="utf-8")
    assert f"| Python, PyTorch | 3.10 and newer, {lowest} and newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"asks for {lowest} or newer" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(("mtaclip",), ("export",)), (("projects", "datasets", "benchmarks", "configs"), ("bench", "demo", "export"))],
    ids=["package", "scripts"],
)
def test_everything_imported_is_declared(folders, extras):
    declared = set(dependencies(*extras)) | BY_HAND | OPTIONAL
    undeclared = {
        f"{name} ({file})"
        for name, file in third_party_imports(*folders)
        if normalise(DISTRIBUTIONS.get(name, name)) not in declared
    }
    assert not undeclared


def test_pinned_environment_satisfies_the_declared_ranges():
    pins = {}
    for file in ("build.txt", "torch.txt", "runtime.txt", "demo.txt", "dev.txt"):
        lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
        for pin in (Requirement(line) for line in lines if line and not line.startswith("#")):
            assert [specifier.operator for specifier in pin.specifier] == ["=="], f"{file}: {pin}"
            pins.setdefault(normalise(pin.name), []).append(next(iter(pin.specifier)).version)
    for name, requirement in dependencies("demo", "dev", "export").items():
        assert name in pins, f"{name} is declared in pyproject.toml and not pinned in requirements/"
        assert all(requirement.specifier.contains(version) for version in pins[name]), name


def test_detectron2_comes_as_one_known_archive():
    text = (ROOT / "requirements" / "detectron2.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) == 1


def test_version_has_one_source():
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mtaclip.__version__"}
    # Setuptools reads a literal without importing the package, which needs torch.
    tree = ast.parse((ROOT / "mtaclip" / "__init__.py").read_text(encoding="utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert len(values) == 1 and re.fullmatch(r"\d+\.\d+\.\d+", ast.literal_eval(values[0]))


def test_every_file_of_the_package_is_packaged():
    package = ROOT / "mtaclip"
    files = [file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    without_init = {
        file.parent for file in files if file.suffix == ".py" and not (file.parent / "__init__.py").is_file()
    }
    assert not without_init, "setuptools leaves out folders without __init__.py"
    # Compiled libraries come with their own step, and their sources are of no use where they are not compiled.
    data = [file.relative_to(package).as_posix() for file in files if file.suffix not in {".py", ".so"}]
    data = [name for name in data if not name.startswith("ops/csrc/")]
    assert all(any(fnmatch(name, pattern) for pattern in PACKAGE_DATA) for name in data), data
    assert all(any(fnmatch(name, pattern) for name in data) for pattern in PACKAGE_DATA), "a pattern matches no file"


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_and_its_data_and_nothing_else(tmp_path):
    tree = copy_tree(tmp_path / "tree", "mtaclip", "tests", "datasets", "projects", "configs")
    build = "import setuptools.build_meta as b; print(b.build_wheel('dist')); print(b.build_sdist('dist'))"
    env = {**os.environ, "MTACLIP_BUILD_CPU": "0", "MTACLIP_BUILD_CUDA": "0"}
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True, env=env)
    version = re.search(r'^__version__ = "(.+)"', (ROOT / "mtaclip" / "__init__.py").read_text(encoding="utf-8"), re.M)[
        1
    ]
    expected = {
        f"mtaclip/{file.relative_to(ROOT / 'mtaclip').as_posix()}"
        for pattern in ["**/*.py", *PACKAGE_DATA]
        for file in (ROOT / "mtaclip").glob(pattern)
    }
    with zipfile.ZipFile(tree / "dist" / f"mtaclip-{version}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if not name.startswith(f"mtaclip-{version}.dist-info/")} == expected
    with tarfile.open(tree / "dist" / f"mtaclip-{version}.tar.gz") as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert expected <= names
    sources = {file.relative_to(ROOT).as_posix() for file in (ROOT / "mtaclip/ops/csrc").rglob("*.*")}
    assert sources and sources <= names, "the source distribution cannot build the compiled libraries"
    assert {"LICENSE", "README.md", "INSTALL.md", "pyproject.toml", "setup.py"} <= names
    assert not any(name.startswith(("tests/", "datasets/", "projects/")) for name in names)


def copy_tree(target: Path, *folders: str) -> Path:
    """Copy what an installation reads, and `folders`, to `target`, so that a build leaves nothing in the checkout."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("requirements", *folders):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, target / folder, ignore=ignore)
    for file in ("Makefile", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "INSTALL.md", "LICENSE"):
        shutil.copy(ROOT / file, target / file)
    return target


# --- make ------------------------------------------------------------------------------------------------------------


def run_make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell, not as a child of the make that runs these tests."""
    inherited = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "VENV", "TORCH_INDEX"}
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True)


def make_targets() -> set[str]:
    """The targets that the Makefile declares as callable."""
    lines = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    return set(" ".join(lines).split())


@needs_make
def test_every_target_parses_and_is_listed():
    listed = run_make().stdout
    for target in make_targets():
        assert run_make("-n", target).returncode == 0, target
        assert re.search(rf"^  {target} ", listed, re.M), f"`make` does not list {target}"


@needs_make
def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "make test" in script.read_text(encoding="utf-8").splitlines()


def fake_environment(folder: Path) -> Path:
    """A virtual environment whose Python writes down its arguments, and fails where the file `broken` says."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!/bin/sh\n"
        f'echo "$*" >> "{folder}/calls"\n'
        f'if [ -f "{folder}/broken" ]; then case "$*" in *"$(cat "{folder}/broken")"*) exit 1 ;; esac; fi\n'
    )
    python.chmod(0o755)
    return folder


def calls(environment: Path) -> list[str]:
    """The installations asked for since the last time."""
    log = environment / "calls"
    lines = log.read_text().splitlines() if log.is_file() else []
    log.unlink(missing_ok=True)
    return [line for line in lines if " install " in line]


@needs_make
def test_environment_is_made_once_and_again_when_requirements_change(tmp_path):
    tree, environment = copy_tree(tmp_path / "tree"), fake_environment(tmp_path / "env")
    make = ["env", f"PYTHON={sys.executable}", f"VENV={environment}"]

    first = run_make(*make, folder=tree)
    assert first.returncode == 0, first.stderr
    installed = calls(environment)
    order = ["build.txt", "torch.txt", "runtime.txt", "detectron2.txt", "--editable"]
    assert len(installed) == len(order)
    assert all(step in call for step, call in zip(order, installed, strict=True))
    assert [line[:5] for line in first.stdout.splitlines()[:-1]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert re.search(r"is ready after \d+ min \d+ s\.$", first.stdout.strip())

    assert run_make(*make, folder=tree).stdout == ""
    assert calls(environment) == []

    with (tree / "pyproject.toml").open("a") as file:  # tools' settings do not concern the environment
        file.write("\n[tool.example]\nkey = 1\n")
    run_make(*make, folder=tree)
    assert calls(environment) == []

    with (tree / "requirements" / "runtime.txt").open("a") as file:
        file.write("example==1.0\n")
    run_make(*make, folder=tree)
    assert len(calls(environment)) == len(order)


@needs_make
@pytest.mark.parametrize("source", ["cpu/operators.cpp", "cpu/kernels.h", "cuda/new.cu"])
def test_environment_is_brought_up_to_date_when_a_source_of_the_operator_changes(tmp_path, source):
    tree, environment = copy_tree(tmp_path / "tree", "mtaclip"), fake_environment(tmp_path / "env")
    make = ["env", f"PYTHON={sys.executable}", f"VENV={environment}"]
    run_make(*make, folder=tree)
    calls(environment)
    run_make(*make, folder=tree)
    assert calls(environment) == []
    file = tree / "mtaclip" / "ops" / "csrc" / source
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as text:
        text.write("// changed\n")
    run_make(*make, folder=tree)
    assert any("--editable" in call for call in calls(environment))


@needs_make
def test_gpu_check_sees_the_gpus_that_other_targets_hide():
    hidden = run_make("-n", "gpu-check").stdout
    assert "env -u CUDA_VISIBLE_DEVICES" in hidden and "-m mtaclip.ops.check --device cuda" in hidden
    assert "env -u CUDA_VISIBLE_DEVICES" not in run_make("-n", "gpu-check", "CUDA_VISIBLE_DEVICES=1").stdout


@needs_make
def test_interrupted_installation_goes_on_at_the_next_call(tmp_path):
    tree, environment = copy_tree(tmp_path / "tree"), fake_environment(tmp_path / "env")
    make = ["env", f"PYTHON={sys.executable}", f"VENV={environment}"]
    (environment / "broken").write_text("runtime.txt")
    failed = run_make(*make, folder=tree)
    assert failed.returncode != 0
    assert "make env: installing the libraries of requirements/runtime.txt" in failed.stderr
    assert "INSTALL.md" in failed.stderr and "Traceback" not in failed.stderr
    calls(environment)
    (environment / "broken").unlink()
    assert run_make(*make, folder=tree).returncode == 0
    assert calls(environment)[-1].endswith("--editable . -c requirements/constraints.txt")


@needs_make
def test_torch_can_come_from_another_index(tmp_path):
    tree, environment = copy_tree(tmp_path / "tree"), fake_environment(tmp_path / "env")
    run_make("env", f"PYTHON={sys.executable}", f"VENV={environment}", "TORCH_INDEX=https://example.org", folder=tree)
    assert [call for call in calls(environment) if "https://example.org" in call] == [
        "-m pip install -qq -r requirements/torch.txt --index-url https://example.org -c requirements/constraints.txt"
    ]


@needs_make
@pytest.mark.parametrize("python", ["/bin/false", "no-such-python"])
def test_unsuitable_python_is_refused_with_what_to_do(tmp_path, python):
    result = run_make("env", f"PYTHON={python}", f"VENV={tmp_path / 'env'}")
    assert result.returncode != 0
    assert f"make env: '{python}' is not Python 3.10 or newer" in result.stderr
    assert not (tmp_path / "env").exists()


@pytest.fixture
def installer() -> ModuleType:
    """requirements/install.py as a module."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "requirements" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_missing_venv_module_is_named(installer, tmp_path, monkeypatch, capsys):
    # Debian's Python without the package python3-venv: `venv` is there and `ensurepip` is not.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    assert installer.main(["--venv", str(tmp_path / "env")]) == 1
    assert "apt install python3-venv" in capsys.readouterr().err


def test_full_disk_is_named_before_anything_is_downloaded(installer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2.5e9}))
    assert installer.main(["--venv", str(tmp_path / "env")]) == 1
    assert "with 2.5 GB free" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["thesis.tex", "pyvenv.cfg"])
def test_a_folder_with_other_things_in_it_is_not_touched(installer, tmp_path, capsys, name):
    (tmp_path / name).write_text("not to be lost")
    assert installer.main(["--venv", str(tmp_path)]) == 1
    assert "is not a virtual environment that works" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["not to be lost"]


# --- documents -------------------------------------------------------------------------------------------------------


def documents() -> list[Path]:
    """The documents whose commands a reader is meant to type."""
    patterns = ("*.md", "docs/**/*.md", "projects/**/*.md", "datasets/**/*.md")
    return sorted(file for pattern in patterns for file in ROOT.glob(pattern))


def documented_commands(file: Path) -> list[list[str]]:
    """The shell commands in the code blocks of a Markdown file, split into words.

    Continued lines are joined; prompts, comments, output and a command's environment variables are left out.
    """
    blocks = re.findall(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", file.read_text(encoding="utf-8"), re.M | re.S)
    commands = []
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:  # output with an apostrophe
            continue
        while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
            words = words[1:]
        if words:
            commands.append(words)
    return commands


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_documented_make_targets_exist(file):
    for command in documented_commands(file):
        if command[0] == "make":
            targets = [word for word in command[1:] if "=" not in word and not word.startswith("-")]
            assert set(targets) <= make_targets(), " ".join(command)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_named_files_and_tests_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    files = re.findall(r"`([\w./-]+/[\w.-]*)`", text)
    assert len(files) > 10 and [file for file in files if not (ROOT / file).exists()] == []
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [test for test in re.findall(r"`(test_\w+)`", text) if f"def {test}(" not in tests] == []


def test_documented_commands_are_found(tmp_path):
    page = tmp_path / "page.md"
    lines = [
        "Text with `make nothing`.",
        "```bash",
        "$ make env VENV=x  # comment",
        "CUDA_VISIBLE_DEVICES=0 python train_net.py \\",
        "    --num-gpus 1",
        "```",
        "```python",
        "make = 1",
        "```",
    ]
    page.write_text("\n".join(lines))
    assert documented_commands(page) == [["make", "env", "VENV=x"], ["python", "train_net.py", "--num-gpus", "1"]]


SCRIPTS = {
    file.relative_to(ROOT).as_posix(): ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "projects" / "MTACLIP").rglob("*.py")
    if "def make_parser" in file.read_text(encoding="utf-8")
}
SCRIPTS |= {name: f"projects.MTACLIP.{name.removesuffix('.py')}" for name in ("train_net.py", "demo.py")}


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_documented_scripts_and_options_exist(file, shapes, tmp_path, monkeypatch):
    """Scripts and configs of this project that a document calls are there, and the configs accept the options."""
    shutil.copytree(shapes, tmp_path / "my_dataset")
    monkeypatch.chdir(tmp_path)
    for command in documented_commands(file):
        if command[0] in ("torchrun", "srun"):
            command = ["python", *command[next(i for i, word in enumerate(command) if word.endswith(".py")) :]]
        if command[0] != "python" or not command[1].endswith(".py"):
            continue
        assert (ROOT / command[1]).is_file(), " ".join(command)
        if command[1] not in SCRIPTS:
            continue
        parser = importlib.import_module(SCRIPTS[command[1]]).make_parser()
        args = parser.parse_args(command[2:])
        opts = [*(getattr(args, "opts", None) or []), *getattr(args, "trailing_opts", [])]
        if getattr(args, "config_file", None) is not None:
            setup_cfg(ROOT / args.config_file, opts, device="cpu")
