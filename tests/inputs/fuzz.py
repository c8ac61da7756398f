"""Look for inputs that end in anything but a sentence, led by the coverage of the package; Atheris does it.

    python -m tests.inputs.fuzz TARGET FOLDER [options of libFuzzer, such as -runs=1000 or -max_total_time=60]

TARGET is one of `tests/inputs/targets.py`. FOLDER gets `corpus/`, the inputs that led on; `cases.txt`, how many were
read and refused; and the input that ended the search, if one did, under a name that begins with what it caused (crash,
timeout, oom). With such a file in the place of the options, that input is tried once.
"""

import argparse
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mtaclip"]):
    from tests.inputs.targets import TARGETS, read_all

from tests.inputs.cases import Cases

# One input may take this many seconds and MB, PyTorch included.
_LIMITS = ("-timeout=60", "-rss_limit_mb=3000", "-max_len=20000")


def main() -> None:
    """Command line; libFuzzer ends the process, with another status than 0 if it has found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("folder", type=Path)
    args, options = parser.parse_known_args()
    target, corpus = TARGETS[args.target], args.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    log = os.open(args.folder / "cases.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    cases = Cases()

    def read(content: bytes) -> None:
        read_all(target, content, args.folder / "input", cases)
        os.pwrite(log, " | ".join(cases.cells()).ljust(100).encode() + b"\n", 0)

    tried = [option for option in options if not option.startswith("-")]
    places = [] if tried else [str(corpus), f"-artifact_prefix={args.folder}/"]
    atheris.Setup([sys.argv[0], *_LIMITS, *options, *places], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
