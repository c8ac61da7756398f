"""Creates the project's virtual environment; `make env` calls it, and a second call does nothing.

Uses Python's standard library alone. When every step has succeeded, a stamp in the environment says what it was made
from; an environment without the right stamp is completed or brought up to date.
"""

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".mtaclip-env"
# Free space the first installation needs: the environment, and pip's unpacked downloads next to it.
FREE_GB = 8


class InstallError(Exception):
    """A problem the caller can solve; the message is one sentence."""


def main(argv: list[str] | None = None) -> int:
    """Create or update the environment.

    Returns:
        the process's exit status, 0 when the environment is complete.
    """
    parser = argparse.ArgumentParser(description="Create or update the virtual environment of MTA-CLIP.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="folder of the environment")
    parser.add_argument("--torch-index", default="", help="package index to take PyTorch from, instead of pip's own")
    args = parser.parse_args(argv)
    try:
        install(args.venv.absolute(), args.torch_index)
    except InstallError as error:
        print(f"make env: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make env: interrupted; the next `make env` goes on from here.", file=sys.stderr)
        return 130
    return 0


def install(venv: Path, torch_index: str = "") -> None:
    """Bring the environment `venv` to the state the requirement files describe.

    Args:
        venv: absolute path of the environment's folder.
        torch_index: package index to take PyTorch from, if it is not there yet; "" for pip's own.

    Raises:
        InstallError: something is missing on this machine, or pip failed.
    """
    stamp, python, wanted = venv / STAMP, venv / "bin" / "python", digest()
    if python.is_file() and stamp.is_file() and stamp.read_text().strip() == wanted:
        return
    start = time.monotonic()
    stamp.unlink(missing_ok=True)
    if not _starts(python):
        _create(venv)
    elif not _starts(python, "-m", "pip", "--version"):
        _run("pip", [str(python), "-m", "ensurepip", "--upgrade"])
    # Quiet where nobody watches; in a terminal pip shows its own progress bars.
    pip = [str(python), "-m", "pip", "install", *([] if sys.stdout.isatty() else ["-qq"])]
    steps = [
        (
            f"{_pins('torch.txt')} (5.5 GB on disk, the longest step)",
            ["-r", "requirements/torch.txt", *(["--index-url", torch_index] if torch_index else [])],
        ),
        (
            "the libraries of requirements/runtime.txt, demo.txt and dev.txt",
            [
                "--no-build-isolation",
                *("-r", "requirements/runtime.txt", "-r", "requirements/demo.txt", "-r", "requirements/dev.txt"),
            ],
        ),
        (
            "detectron2 0.6, without its compiled part",
            ["--no-deps", "--no-build-isolation", "--require-hashes", "-r", "requirements/detectron2.txt"],
        ),
        ("mtaclip, editable", ["--no-deps", "--no-build-isolation", "--editable", "."]),
    ]
    _run("the installers", [*pip, "-r", "requirements/build.txt"])
    for number, (title, arguments) in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {title} ...", flush=True)
        constraints = [] if "--require-hashes" in arguments else ["-c", "requirements/constraints.txt"]
        _run(title, [*pip, *arguments, *constraints])
    stamp.write_text(wanted + "\n")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"The environment in {venv} is ready after {minutes} min {seconds} s.", flush=True)


def digest() -> str:
    """What the environment is made from: requirement files, C++ sources, project metadata and the checkout's path."""
    sources = sorted((ROOT / "mtaclip" / "ops" / "csrc").rglob("*.*"))
    files = [*sorted((ROOT / "requirements").glob("*.txt")), Path(__file__), ROOT / "setup.py", *sources]
    # The tools' settings ([tool.ruff] and the like) follow the metadata and change nothing in the environment.
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\n[tool.", 1)[0]
    parts = [str(ROOT), metadata, *(file.name + "\n" + file.read_text(encoding="utf-8") for file in files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _pins(file: str) -> str:
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements" / file).read_text(encoding="utf-8"), re.M)
    return ", ".join(f"{name} {version}" for name, version in pins)


def _starts(python: Path, *arguments: str) -> bool:
    command = [str(python), *(arguments or ("-c", ""))]
    return python.is_file() and subprocess.run(command, capture_output=True).returncode == 0


def _create(venv: Path) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise InstallError(
            f"{sys.executable} cannot create virtual environments: install its venv module "
            "(on Debian and Ubuntu `apt install python3-venv`) or name another Python, `make env PYTHON=...`."
        )
    if venv.exists() and any(venv.iterdir()):
        raise InstallError(
            f"{venv} exists and is not a virtual environment that works: delete it if it is an old one, "
            "or name another folder, `make env VENV=...`."
        )
    venv.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(venv).free / 1e9
    if free < FREE_GB:
        raise InstallError(
            f"{venv} is on a disk with {free:.1f} GB free and the environment needs {FREE_GB} GB: "
            "free some space or put it elsewhere, `make env VENV=...`."
        )
    print(f"Creating {venv} with Python {sys.version.split()[0]} ...", flush=True)
    _run("the virtual environment", [sys.executable, "-m", "venv", str(venv)])


def _run(title: str, command: list[str]) -> None:
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode != 0:
        raise InstallError(
            f"installing {title} failed, for the reason printed above: INSTALL.md lists the common ones by their text, "
            "and after the repair `make env` goes on from here."
        )


if __name__ == "__main__":
    sys.exit(main())
