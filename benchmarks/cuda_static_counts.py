"""What the CUDA kernels cost before they run: instructions per tuple, registers and spills. Needs nvcc, and no GPU.

    python benchmarks/cuda_static_counts.py --arch sm_90 --output benchmarks/results/cuda_static_counts.json

A tuple is one (image, query, head). Instructions are those of a warp, counted in the disassembly of the kernels for
32 channels, 3 levels and 4 points: every instruction of the loop over tuples, times the trips of the loops inside it,
plus the share of what runs once per block; both sides of a branch count, code behind the loop (for warps that diverge)
does not. The kernel that merges the additions of a tile has no such loop, and its instructions are not counted. The
disassembler is the toolkit's or the one that comes with Triton; without one, only registers and spills are known.
"""

import argparse
import collections
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "mtaclip" / "ops" / "csrc" / "cuda"
OPTIONS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr"]
TYPES = {"f": "float32", "d": "float64", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
# Of a block (problem.h): tuples, where heads are even in number and the GPU has enough blocks; threads.
TUPLES, THREADS = 128, {"forward": 256, "backward": 128}
LEVELS, POINTS, BATCH = 3, 4, 4
KERNEL = re.compile(
    r"(forward|merged_backward|backward)INS0_6ConfigI"
    r"(f|d|6__half|13__nv_bfloat16)(\w+?)Lb([01])ELi(\d+)ELi(\d+)ELi\d+ELi\d+EEE(Lb1E)?"
)
PROPERTIES = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", re.S
)
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--output", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args(argv)
    rows = []
    for name in THREADS:
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder) / f"{name}.cubin"
            rows += measured(SOURCES / f"{name}.cu", args.arch, cubin)
    sys.stdout.write(markdown(rows))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"arch": args.arch, "nvcc": version(), "kernels": rows}
        args.output.write_text(json.dumps(record, indent=2) + "\n")


def nvcc() -> str:
    """The compiler of CUDA_HOME, else the one on the path."""
    home = os.environ.get("CUDA_HOME")
    return str(Path(home) / "bin" / "nvcc") if home else "nvcc"


def version() -> str:
    """Of nvcc."""
    return re.findall(r"V[\d.]+", subprocess.run([nvcc(), "--version"], capture_output=True, text=True).stdout)[0]


def disassembler() -> str | None:
    """nvdisasm of the toolkit, of the path or of Triton."""
    spec = importlib.util.find_spec("triton")
    folders = [Path(nvcc()).parent, *(Path(f) / "backends/nvidia/bin" for f in spec.submodule_search_locations or [])]
    found = [str(folder / "nvdisasm") for folder in folders if (folder / "nvdisasm").is_file()]
    return found[0] if found else shutil.which("nvdisasm")


def measured(source: Path, arch: str, cubin: Path) -> list[dict[str, Any]]:
    """One row per kernel of a source file."""
    command = [nvcc(), "-cubin", f"-arch={arch}", *OPTIONS, "-Xptxas", "-v", str(source), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    code = disassembled(cubin)
    rows = []
    for mangled, stores, loads, registers in PROPERTIES.findall(done.stderr):
        match = KERNEL.search(mangled)
        if match is None:
            continue
        name, value, points, fused, vector, lanes, fixed = match.groups()
        row: dict[str, Any] = {
            "kernel": name,
            "value": TYPES[value],
            "positions": TYPES.get(points, TYPES[value]),  # a repeated type is written as a reference to the first
            "entry": "fused" if fused == "1" else "classic",
            "rows": "usual" if lanes != "0" else "any, by vectors" if vector != "1" else "any, by channels",
            "deterministic": fixed is not None,
            "registers": int(registers),
            "spilled_bytes": int(stores) + int(loads),
        }
        if lanes != "0" and mangled in code and name in THREADS:
            row |= per_tuple(code[mangled], name, int(lanes))
        rows.append(row)
    return rows


def disassembled(cubin: Path) -> dict[str, list[tuple[int, str, str]]]:
    """By kernel: address, operation and operands of every instruction."""
    tool = disassembler()
    if tool is None:
        sys.stderr.write("There is no nvdisasm: only registers and spills are known.\n")
        return {}
    text = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    kernels = {}
    for part in re.split(r"^\.text\.", text, flags=re.M)[1:]:
        labels, instructions, address = {}, [], 0
        for line in part.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line.strip()):
                labels[label[1]] = address
            elif found := INSTRUCTION.search(line):
                address = int(found[1], 16) + 16
                instructions.append((int(found[1], 16), found[2], found[3]))
        for i, (at, operation, operands) in enumerate(instructions):
            target = re.search(r"`\((\.L_x_\d+)\)", operands)
            if target:
                instructions[i] = (at, operation, f"{operands} {labels.get(target[1], at):#x}")
        kernels[part.split(":", 1)[0].strip()] = instructions
    return kernels


def loops(instructions: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """First and last address of every loop, the one over tuples first: jumps back.

    Code behind that loop jumps back into it, too; so it is the one that begins first of those that span most of the
    kernel.
    """
    found = []
    for at, operation, operands in instructions:
        target = re.search(r"0x([0-9a-f]+)$", operands)
        if operation in {"BRA", "BRA.U"} and target and int(target[1], 16) < at:
            found.append((int(target[1], 16), at))
    outer = min(loop for loop in found if loop[1] - loop[0] > instructions[-1][0] / 2)
    return [outer, *(loop for loop in found if loop[1] < outer[1])]


def per_tuple(instructions: list[tuple[int, str, str]], name: str, lanes: int) -> dict[str, Any]:
    """Warp instructions per tuple, all and by some kinds."""
    outer, *inner = loops(instructions)
    per_warp = 32 // lanes
    rounds = TUPLES * lanes // THREADS[name]
    counts: collections.Counter[str] = collections.Counter()
    for at, operation, _ in instructions:
        if at > outer[1]:
            continue
        trips = 1.0 if at >= outer[0] else 1 / rounds
        if any(first <= at <= last for first, last in inner):
            trips *= LEVELS * POINTS // BATCH if at >= outer[0] else LEVELS
        counts["all"] += trips / per_warp
        counts[operation.split(".")[0]] += trips / per_warp
    kinds = ("LDG", "REDG", "RED", "LDS", "STS", "SHFL", "FFMA", "FMUL", "BRA")
    return {
        "instructions": round(counts["all"], 1),
        "kinds": {kind: round(counts[kind], 1) for kind in kinds if counts[kind]},
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Two tables: what the usual sizes cost, and registers and spills of all other kernels."""
    lines = ["| kernel, 32 channels, 3 levels, 4 points | warp instructions per tuple | registers | spilled bytes |"]
    lines.append("|---|---|---|---|")
    for row in rows:
        if row["rows"] == "usual":
            name = f"{row['kernel']} {row['entry']}, value {row['value']}, positions {row['positions']}"
            lines.append(f"| {name} | {row.get('instructions', '')} | {row['registers']} | {row['spilled_bytes']} |")
    lines += [
        "",
        "| kernels for any sizes | number | registers | with spills | spilled bytes, most |",
        "|---|---|---|---|---|",
    ]
    groups = collections.defaultdict(list)
    for row in rows:
        if row["rows"] != "usual":
            mode = ", deterministic" if row["deterministic"] else ""
            groups[f"{row['kernel']}, {row['rows'].removeprefix('any, ')}{mode}"].append(row)
    for name, members in groups.items():
        registers = [row["registers"] for row in members]
        spills = [row["spilled_bytes"] for row in members]
        spread = f"{min(registers)} to {max(registers)}"
        lines.append(f"| {name} | {len(members)} | {spread} | {sum(map(bool, spills))} | {max(spills)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
