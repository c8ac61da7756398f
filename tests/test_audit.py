"""`make audit` says what was looked up, and nothing passes that was not; the database is in the internet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "requirements" / "audit.py"
SAFE = {"name": "a", "version": "1.0", "vulns": []}
VULNERABLE = {"name": "b", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3.0)"}


@pytest.fixture
def audit(tmp_path):
    """A function that audits where pip-audit prints a text, or fails with one."""

    def run(printed: str, *options: str, failure: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "pip_audit.py").write_text(f"import sys\nprint({printed!r})\nsys.exit({failure!r} or 0)\n")
        variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run([sys.executable, PROGRAM, *options], env=variables, capture_output=True, text=True)

    return run


def found(*packages: dict) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_no_known_vulnerability(audit):
    result = audit(found(SAFE, UNKNOWN))
    assert result.returncode == 0
    assert result.stdout == "make audit: 1 packages looked up, 0 with known vulnerabilities; not looked up: c.\n"


@pytest.mark.parametrize("options", [(), ("--allow-offline",)])
def test_known_vulnerabilities_are_named(audit, options):
    result = audit(found(SAFE, VULNERABLE), *options)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "b 2.0: PYSEC-1, repaired in 2.1, 3.0",
        "make audit: 2 packages looked up, 1 with known vulnerabilities.",
    ]


@pytest.mark.parametrize(("options", "status"), [((), 2), (("--allow-offline",), 0)])
@pytest.mark.parametrize(
    ("printed", "failure", "reason"),
    [
        (found(UNKNOWN, UNKNOWN), "", "none of 2 packages was found there"),
        ("", "Traceback\nConnectionError: no route", "ConnectionError: no route"),
        ("", "", "pip-audit said nothing"),
        ("[]", "", "pip-audit said nothing"),
    ],
)
def test_nothing_passes_that_was_not_looked_up(audit, printed, failure, reason, options, status):
    result = audit(printed, *options, failure=failure)
    assert result.returncode == status and result.stdout == ""
    assert result.stderr == f"make audit: NOTHING WAS AUDITED, the database could not be asked ({reason}).\n"
