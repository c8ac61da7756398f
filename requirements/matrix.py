"""Runs the fast tests with several sets of library versions; `make test-matrix` calls it.

Uses Python's standard library alone. Every row of the table gets a copy of the checkout and an environment of its own
in build/matrix, which are removed again. The table stands in docs/reliability.md: rows that a call leaves out, or whose
Python this machine lacks, stay as they were.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.reliability import DOCUMENT, markdown, replace_table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "matrix"
TABLE = "versions"
# The columns between a row's name and its outcome, with the packages whose versions they show.
COLUMNS = {
    "PyTorch": ("torch",),
    "torchvision": ("torchvision",),
    "Detectron2": ("pb1-detectron2", "detectron2"),
    "NumPy": ("numpy",),
    "Pillow": ("pillow",),
    "open_clip": ("open-clip-torch",),
}
OTHERS = ("scipy", "opencv-python-headless", "huggingface-hub", "safetensors", "matplotlib", "onnx", "gradio")
HEADER = ("Row", "Python", *COLUMNS, "Others", "Outcome")
# What Detectron2 imports and pyproject.toml does not name.
FOR_DETECTRON2 = ("cloudpickle", "hydra-core", "iopath", "omegaconf", "pycocotools", "tensorboard", "termcolor", "yacs")
RELEASE = ("--no-deps", "--no-build-isolation", "--require-hashes", "-r", "requirements/detectron2.txt")
MAIN = ("--no-deps", "--no-build-isolation", "git+https://github.com/facebookresearch/detectron2.git")


class RowError(Exception):
    """Why a row has no result; the message is a cell of the table."""


@dataclass(frozen=True)
class Row:
    """A set of versions to test.

    Args:
        name: what `--only` and the table call it.
        python: version of Python, like "3.11".
        packages: requirements for pip; None for the environment that `make env` makes.
        detectron2: arguments of pip that install Detectron2.
    """

    name: str
    python: str
    packages: tuple[str, ...] | None = None
    detectron2: tuple[str, ...] = RELEASE


def declared(*lists: str, pin: bool = False) -> tuple[str, ...]:
    """The requirements in lists of pyproject.toml; with `pin` each at its lowest version, else without versions."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = [re.search(rf"^{name} = \[(.*?)\]$", text, re.M | re.S)[1] for name in lists]
    return tuple(
        f"{name}=={version}" if pin else name for name, version in re.findall(r'"([\w.-]+)>=([\w.]+)', "".join(found))
    )


ROWS = (
    Row("lowest", "3.10", (*declared("dependencies", "export", "dev", pin=True), *FOR_DETECTRON2)),
    Row("pinned", "3.11"),
    Row(
        "middle",
        "3.12",
        (
            *("torch==2.12.0", "torchvision==0.27.0", "numpy==2.1.*", "pillow==11.*", "open_clip_torch==2.32.0"),
            *("opencv-python-headless==4.12.*", "huggingface_hub==1.*", "gradio==6.0.*"),
            *declared("dependencies", "export", "dev"),
            *FOR_DETECTRON2,
        ),
    ),
    # Without gradio, which keeps Pillow below 13.
    Row("newest", "3.13", (*declared("dependencies", "export", "dev"), *FOR_DETECTRON2)),
    Row("pinned-3.13", "3.13"),
    Row("detectron2-main", "3.11", (*declared("dependencies", "dev"), *FOR_DETECTRON2), MAIN),
)


def main(argv: list[str] | None = None) -> int:
    """Test the rows and write the table.

    Returns:
        the process's exit status, 0 when no test failed in the rows that could be run.
    """
    args = make_parser().parse_args(argv)
    rows = [row for row in ROWS if args.only in (None, row.name)]
    failed = False
    for row in rows:
        print(f"{row.name} ...", flush=True)
        cells, passed = run_row(row, args)
        failed |= not passed
        write(row, cells)
        print(f"{row.name}: {cells[-1]}", flush=True)
    return int(failed)


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Run the fast tests of MTA-CLIP with several sets of versions.")
    parser.add_argument("--only", choices=[row.name for row in ROWS], help="run this row alone")
    parser.add_argument("--keep", action="store_true", help="leave the environments in build/matrix")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="run these alone; the table says so")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that run tests")
    parser.add_argument("--pythons", default="", help="folders to look for python3.X in before PATH, with ':' between")
    return parser


def run_row(row: Row, args: argparse.Namespace) -> tuple[tuple[str, ...], bool]:
    """Test one row.

    Returns:
        the row's cells after its name, and whether no test failed; a row that cannot be run has not failed.
    """
    folder = FOLDER / row.name
    shutil.rmtree(folder, ignore_errors=True)
    _log(folder).unlink(missing_ok=True)
    versions: dict[str, str] = {}
    try:
        python = install(row, folder, args.pythons)
        versions = installed(python)
        outcome, passed = run_tests(python, folder, args.workers, args.tests)
    except RowError as error:
        outcome, passed = str(error), True
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    shown = [next((versions[name] for name in names if name in versions), "") for names in COLUMNS.values()]
    others = ", ".join(f"{name} {versions[name]}" for name in OTHERS if name in versions)
    return (versions.get("python", row.python), *shown, others, outcome), passed


def install(row: Row, folder: Path, pythons: str) -> Path:
    """Copy the checkout to `folder`/tree and make an environment next to it.

    Returns:
        the environment's Python.

    Raises:
        RowError: if the row's Python is not on this machine, or an installation fails.
    """
    base = find_python(row.python, pythons)
    tree, venv = folder / "tree", folder / "venv"
    copy_checkout(tree)
    if row.packages is None:
        run(folder, ["make", "env", f"PYTHON={base}", f"VENV={venv}"])
        return venv / "bin" / "python"
    run(folder, [base, "-m", "venv", str(venv)])
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q"]
    run(folder, [*pip, "-r", "requirements/build.txt"])
    run(folder, [*pip, *row.packages])
    run(folder, [*pip, *row.detectron2])
    run(folder, [*pip, "--no-deps", "--no-build-isolation", "--editable", "."])
    return venv / "bin" / "python"


def find_python(version: str, folders: str) -> str:
    """The path of a Python of this version that starts, first in `folders`, then on PATH.

    Raises:
        RowError: if there is none.
    """
    for folder in [*folders.split(os.pathsep), *os.get_exec_path()]:
        python = Path(folder, f"python{version}")
        if folder and python.is_file() and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return str(python)
    raise RowError(f"not run: no python{version}")


def copy_checkout(target: Path) -> None:
    """Copy the files of the checkout that git does not ignore.

    Raises:
        RowError: if git does not say which these are.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise RowError("not run: it takes git and a checkout") from error
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run(folder: Path, command: list[str]) -> None:
    """Run a step of an installation in `folder`/tree, its output to `folder`.log.

    Raises:
        RowError: if the step fails.
    """
    if _logged(folder, command) != 0:
        output = _log(folder).read_text(errors="replace").rpartition("\n$ ")[2].splitlines()
        reason = next((line for line in output if re.match(r"\s*(fatal|ERROR|make env)\b", line)), output[-1])
        raise RowError(f"not run: it does not install ({reason.strip()})")


def installed(python: Path) -> dict[str, str]:
    """The versions in an environment by normalised name, and Python's."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    versions = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in json.loads(listed)}
    spoken = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout
    return {**versions, "python": spoken.split()[1]}


def run_tests(python: Path, folder: Path, workers: int, paths: list[str]) -> tuple[str, bool]:
    """Run the fast tests of `folder`/tree, or those in `paths`.

    Returns:
        the outcome in words, and whether no test failed.
    """
    report = folder / "report.xml"
    options = ["-m", "not slow", "-n", str(workers), "--dist", "worksteal", f"--junitxml={report}"]
    _logged(folder, [str(python), "-m", "pytest", "-q", *options, *paths])
    if not report.is_file():
        return f"the tests did not run to their end: build/matrix/{folder.name}.log", False
    outcome, passed = summary(report)
    return (f"{outcome} (of {', '.join(paths)})" if paths else outcome), passed


def summary(report: Path) -> tuple[str, bool]:
    """What a JUnit report of pytest says, as "N passed, N skipped" and the names of the tests that failed."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    text = f"{len(cases) - len(failed) - len(skipped)} passed, {len(skipped)} skipped"
    if failed:
        names = ", ".join(f"{case.get('classname')}.{case.get('name')}" for case in failed)
        text += f", {len(failed)} failed: {names}"
    return text, not failed


def write(row: Row, cells: tuple[str, ...], document: Path = DOCUMENT) -> None:
    """Put a row into the table of `document`; a row that could not be run does not replace one that was."""
    table = {other.name: [other.name, other.python, *[""] * len(COLUMNS), "", "not run"] for other in ROWS}
    table |= written(document)
    if table[row.name][-1].startswith("not run") or not cells[-1].startswith("not run"):
        table[row.name] = [row.name, *cells]
    replace_table(TABLE, markdown(HEADER, list(table.values())), document)


def written(document: Path) -> dict[str, list[str]]:
    """The rows that stand in the table of `document`, by name."""
    table = document.read_text().partition(f"<!-- {TABLE} -->")[2].partition(f"<!-- /{TABLE} -->")[0]
    names = {row.name for row in ROWS}
    lines = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in table.splitlines()]
    return {cells[0]: [cell.replace("\\|", "|") for cell in cells] for cells in lines if cells[0] in names}


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def _logged(folder: Path, command: list[str]) -> int:
    """Run a command in `folder`/tree, as from a fresh shell, and add its output to `folder`.log."""
    left_out = {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    with _log(folder).open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        return subprocess.run(
            command, cwd=folder / "tree", env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
