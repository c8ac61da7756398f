"""`make test-matrix`: its rows, and what it writes when a row passes, fails, or cannot be run here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from requirements.matrix import HEADER, ROWS, summary, written
from tests.reliability import DOCUMENT, markdown, replace_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

# A Python that says it has made an environment, installed what it is asked for, and tested: one passed, one failed.
FAKE_PYTHON = f"""#!{sys.executable}
import json, pathlib, shutil, sys
text = " ".join(sys.argv[1:])
if text.startswith("-m venv"):
    python = pathlib.Path(sys.argv[-1], "bin", "python")
    python.parent.mkdir(parents=True)
    shutil.copy(__file__, python)
elif "pip list" in text:
    print(json.dumps([dict(name="torch", version="9.1"), dict(name="open_clip_torch", version="8.2")]))
elif text == "--version":
    print("Python 3.13.77")
elif "broken" in pathlib.Path("pyproject.toml").read_text() and "--editable" in text:
    sys.exit("error: subprocess\\nERROR: no such | thing\\nERROR: and therefore not this")
elif "pytest" in text:
    report = text.rpartition("--junitxml=")[2].split(" ")[0]
    cases = '<testcase classname="tests.test_a" name="test_b"/><testcase classname="tests.test_a" name="test_c">'
    pathlib.Path(report).write_text(f"<testsuites><testsuite>{{cases}}<failure/></testcase></testsuite></testsuites>")
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A checkout of the files that the matrix reads, with a measured row in its table."""
    folder = tmp_path / "tree"
    for name in ("requirements", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests/reliability.py", folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    cells = ["lowest", "3.10.1", *["1"] * (len(HEADER) - 3), "5 passed"]
    document = folder / "docs/reliability.md"
    replace_table("versions", markdown(HEADER, [cells]), document)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def run_matrix(tree: Path, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run the matrix where PATH has git and what is in `path`."""
    path.mkdir(exist_ok=True)
    (path / "git").symlink_to(shutil.which("git"))
    command = [sys.executable, "-m", "requirements.matrix", *arguments]
    return subprocess.run(command, cwd=tree, env={**os.environ, "PATH": str(path)}, capture_output=True, text=True)


def add_python(folder: Path) -> Path:
    """Put a python3.13 into a folder."""
    folder.mkdir()
    (folder / "python3.13").write_text(FAKE_PYTHON)
    (folder / "python3.13").chmod(0o755)
    return folder


@needs_git
def test_a_row_is_measured_and_the_others_stay(tree, tmp_path):
    pythons = add_python(tmp_path / "pythons")
    result = run_matrix(tree, "--only", "newest", "--pythons", str(pythons), path=tmp_path / "p")
    assert result.returncode == 1, result.stderr
    rows = written(tree / "docs/reliability.md")
    assert list(rows) == [row.name for row in ROWS]
    outcome = "1 passed, 0 skipped, 1 failed: tests.test_a.test_c"
    assert rows["newest"] == ["newest", "3.13.77", "9.1", "", "", "", "", "8.2", "", outcome]
    assert rows["lowest"][1] == "3.10.1" and rows["lowest"][-1] == "5 passed"
    assert rows["pinned"][-1] == "not run"
    assert [file.name for file in (tree / "build/matrix").iterdir()] == ["newest.log"], "the environment is removed"


@needs_git
def test_a_part_of_the_tests_is_named(tree, tmp_path):
    run_matrix(tree, "--only", "newest", "--tests", "tests/a.py", "tests/b.py", path=add_python(tmp_path / "p"))
    outcome = "1 passed, 0 skipped, 1 failed: tests.test_a.test_c (of tests/a.py, tests/b.py)"
    assert written(tree / "docs/reliability.md")["newest"][-1] == outcome


@needs_git
def test_the_environment_can_be_kept(tree, tmp_path):
    add_python(tmp_path / "p")  # on PATH
    run_matrix(tree, "--only", "newest", "--keep", path=tmp_path / "p")
    assert (tree / "build/matrix/newest/venv/bin/python").is_file()
    assert (tree / "build/matrix/newest/tree/requirements/matrix.py").is_file()


@needs_git
def test_what_does_not_install_is_said_and_is_no_failure(tree, tmp_path):
    with (tree / "pyproject.toml").open("a") as file:
        file.write("# broken\n")
    result = run_matrix(tree, "--only", "newest", path=add_python(tmp_path / "p"))
    assert result.returncode == 0, result.stderr
    outcome = "not run: it does not install (ERROR: no such | thing)"
    assert written(tree / "docs/reliability.md")["newest"][-1] == outcome


@needs_git
def test_a_missing_python_is_said_and_replaces_no_measured_row(tree, tmp_path):
    result = run_matrix(tree, path=tmp_path / "p")
    assert result.returncode == 0, result.stderr
    assert "lowest: not run: no python3.10" in result.stdout
    rows = written(tree / "docs/reliability.md")
    assert rows.pop("lowest")[-1] == "5 passed"
    assert {row[-1] for row in rows.values()} == {f"not run: no python3.{minor}" for minor in (11, 12, 13)}


def test_reports_of_pytest_are_read(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.fixture\ndef broken(): raise ValueError\n"
        "def test_error(broken): pass\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={tmp_path / 'report.xml'}"]
    subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True)
    assert summary(tmp_path / "report.xml") == (
        "1 passed, 1 skipped, 2 failed: test_it.test_bad, test_it.test_error",
        False,
    )


def test_the_lowest_row_has_every_declared_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["export"], *extras["dev"]]
    lowest = next(row for row in ROWS if row.name == "lowest")
    assert lowest.packages is not None
    assert [name for name in lowest.packages if "==" in name] == [line.replace(">=", "==") for line in declared]
    assert f"python{lowest.python}" == f"python{project['requires-python'].removeprefix('>=')}"


def test_the_page_has_every_row_and_install_leads_to_it():
    rows = written(DOCUMENT)
    assert list(rows) == [row.name for row in ROWS]
    assert all(rows[row.name][1].startswith(row.python) for row in ROWS)
    install = (ROOT / "INSTALL.md").read_text(encoding="utf-8")
    assert "(docs/reliability.md#versions)" in install
    assert re.search(r"^## Versions$", DOCUMENT.read_text(), re.M)
