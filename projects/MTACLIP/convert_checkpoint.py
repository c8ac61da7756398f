"""Turn a checkpoint of another project into one of this project, with the config of its model inside.

    python projects/MTACLIP/convert_checkpoint.py --from mask2former model_final.pkl output/mask2former.pth
    python projects/MTACLIP/convert_checkpoint.py --from maskformer-hf mask2former-swin-tiny output/swin-tiny.pth
    python projects/MTACLIP/convert_checkpoint.py --from mtaclip-mmseg iter_160000.pth output/mtaclip.pth
    python projects/MTACLIP/convert_checkpoint.py --from clip-hf clip-vit-base-patch16 output/clip.pth

The result serves MODEL.WEIGHTS, the demo and the Predictor; that of clip-hf, MODEL.CLIP.PRETRAINED. Every tensor is
renamed, or dropped for a reason that is printed; one that no rule explains ends the program. Nothing that the file
holds is run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from mtaclip.conversion.clip import convert_clip
from mtaclip.conversion.foreign import KINDS, read_foreign
from mtaclip.conversion.writing import check_target, write_converted
from mtaclip.demo.problems import run_program

CLIP = "clip-hf"


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="kind", required=True, choices=[*KINDS, CLIP], help="what the checkpoint is")
    parser.add_argument("source", type=Path, metavar="IN", help="a file; of Hugging Face, a folder")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write, .pth")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="a YAML file for what the checkpoint does not decide, such as data, sizes and training",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--list", action="store_true", help="print every tensor's names there and here")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys and values that win over everything else; the last option",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert, and print what became of the tensors."""
    check_target(args.source, args.target, with_config=args.kind == CLIP, overwrite=args.overwrite)
    if args.kind != CLIP:
        conversion = read_foreign(args.source, args.kind)
        write_converted(conversion, args.source, args.target, config_file=args.config_file, opts=args.opts)
    elif args.config_file or args.opts:
        raise ValueError(f"--from {CLIP} makes no config: leave --config-file and --opts out.")
    else:
        conversion = convert_clip(args.source, args.target)
    listing = [conversion.listing()] if args.list else []
    sys.stdout.write("\n".join([*listing, conversion.table(), *conversion.notes, f"written: {args.target}"]) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 2 and a sentence on what is wrong."""
    return run_program(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
