"""Draw losses, mean IoU and learning rate of a run from its metrics alone, finished or not.

python projects/MTACLIP/tools/draw_curves.py output/cityscapes/mtaclip_R50/metrics.json --output curves.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtaclip.visualization.curves import draw_curves


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", type=Path, metavar="METRICS", help="metrics.json of a run")
    picture_help = "picture to write, PNG or SVG by its suffix (default: curves.png beside the metrics)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=picture_help)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 2 and a sentence on what is wrong."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        draw_curves(args.metrics, args.output or args.metrics.with_name("curves.png"))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
