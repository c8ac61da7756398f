"""Compare evaluations: means and the IoU of every class side by side, with differences to the first run.

    python projects/MTACLIP/compare.py output/cityscapes/mask2former_R50 output/cityscapes/mtaclip_R50 > comparison.md

The result is Markdown; --html FILE also writes it as a page.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from mtaclip.evaluation.comparison import (
    check_comparable,
    comparison_markdown,
    comparison_page,
    find_scores,
    read_scores,
)
from mtaclip.evaluation.report import write_file


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="RUN", help="output folder of the run that the others differ from")
    parser.add_argument("others", type=Path, metavar="RUN", nargs="+", help="further output folders, or scores_*.json")
    parser.add_argument("--dataset", metavar="NAME", help="which scores to take where a folder has several")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the comparison as a page")
    return parser


def run_names(paths: Sequence[Path]) -> list[str]:
    """What the runs are called: their folder's name, or the whole path where that would be another run's name, too."""
    names = [(path.parent if path.is_file() else path).resolve().name for path in paths]
    uses = Counter(names)
    return [str(path) if uses[name] > 1 else name for name, path in zip(names, paths, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 1 and a sentence on what is wrong."""
    parser = make_parser()
    args = parser.parse_args(argv)
    paths = [args.first, *args.others]
    try:
        evaluations = [read_scores(find_scores(path, args.dataset)) for path in paths]
        check_comparable(evaluations)
        if args.html is not None:
            write_file(args.html, comparison_page(run_names(paths), evaluations))
        sys.stdout.write(comparison_markdown(run_names(paths), evaluations))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
