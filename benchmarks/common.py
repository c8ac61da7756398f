"""What the benchmarks share: descriptions of machine and libraries, peak memory, the report, types of options."""

import argparse
import ctypes
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mtaclip
from mtaclip.ops import compiled, library

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALLEST = 64  # pixels of an edge; below, a batch of one has nothing to normalise at stride 32


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    used = library.CUDA if device == "cuda" else library.CPU
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    facts = {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "operator": used.problem or used.built_for(),
        "date": datetime.date.today().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    if device == "cpu" and not used.problem:
        facts["instruction_set"] = compiled.instruction_set(used)
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts


def memory_is_countable(device: str) -> bool:
    """Whether `peak_mb` works here: on a GPU, and on the CPU under Linux."""
    return device == "cuda" or Path("/proc/self/clear_refs").exists()


def peak_mb(run: Callable[[], None], device: str) -> float:
    """Most memory that one call holds beyond what is held before it, in MB; call `run` once before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed, so that using it again counts
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    run()
    return round((_status("VmHWM") - before) * 1.024e-3, 1)  # in KiB there


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def write_report(file: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON, making the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of what is compared."""
    found = {"mtaclip": mtaclip.__version__}
    for name in ("open_clip_torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_bfloat16() -> None:
    """Stop with advice where a bf16 product kills the process, as in virtual machines that only announce AMX.

    Raises:
        SystemExit: it does.
    """
    product = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"
    if subprocess.run([sys.executable, "-W", "ignore", "-c", product]).returncode == -signal.SIGILL:
        raise SystemExit(
            "--types bfloat16: this machine announces instructions (AMX) that it then refuses; set the environment "
            "variable ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, or AVX512_CORE, and run again."
        )


def image_size(text: str) -> tuple[int, int]:
    """ "512x1024" -> (512, 1024), height first."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x1024")
    size = int(parts[0]), int(parts[1])
    if any(edge % 32 or edge < SMALLEST for edge in size):
        raise argparse.ArgumentTypeError(f"{text!r}: height and width must be multiples of 32 from {SMALLEST} on")
    return size


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
