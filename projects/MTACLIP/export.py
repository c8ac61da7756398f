r"""Export a model for other programs, and check the file against the model.

    python projects/MTACLIP/export.py --checkpoint output/cityscapes/mtaclip_R50/model_best.pth --format onnx \
        --output mtaclip.onnx

The file takes images of 64 to 4096 pixels each way, or of one size if --height and --width name it (a Swin Transformer
needs that), and gives labels and class scores. Normalisation and class texts are inside. It is only written if its
scores are those of the model. Whole images in float32 can be exported, nothing else: no training, no sliding windows,
no test-time augmentation, no half precision.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from mtaclip.demo.models import load_predictor
from mtaclip.demo.problems import run_program
from mtaclip.export import (
    check_installed,
    compare,
    export_program,
    load_onnx,
    load_program,
    save_onnx,
    save_program,
)
from mtaclip.inference.resize import Size

ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
_FORMATS = {"torch": (save_program, load_program), "onnx": (save_onnx, load_onnx)}
_CHECKED = ((256, 512), (512, 1024))
# What makes PyTorch faster on this machine has no place in a file for others.
_PLAIN = ["SOLVER.COMPILE", "False", "SOLVER.CHANNELS_LAST", "False"]

logger = logging.getLogger("mtaclip.export")


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH", help="file, or folder of a published model"
    )
    config_help = "YAML file of the model (default: the config in the checkpoint)"
    parser.add_argument("--config-file", metavar="FILE", help=config_help)
    format_help = "a program of torch.export, or ONNX"
    parser.add_argument("--format", choices=ENDINGS, required=True, help=format_help)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="to write: .pt2 or .onnx")
    parser.add_argument("--height", type=int, help="of all images, in pixels (default: any)")
    parser.add_argument("--width", type=int, help="of all images, in pixels (default: any)")
    options_help = "config keys and values, such as TEST.CLASSIFIER text; at the end"
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help=options_help)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 2 and a sentence on what is wrong."""
    return run_program(make_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Write the file, if what it holds agrees with the model.

    Raises:
        ValueError, OSError: options do not fit together, the model cannot be exported, the file would differ from it,
            or a file cannot be used.
    """
    size = fixed_size(args)
    if args.output.suffix != ENDINGS[args.format]:
        raise ValueError(
            f"--output: a file of --format {args.format} ends in {ENDINGS[args.format]}, got {args.output}."
        )
    if args.format == "onnx":
        check_installed()
        logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of what it does not simplify
    save, load = _FORMATS[args.format]
    predictor = load_predictor(args.checkpoint, args.config_file, "cpu", [*_PLAIN, *args.opts])
    program = export_program(predictor, size)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=args.output.parent) as folder:
        draft = Path(folder) / args.output.name
        save(program, predictor, draft)
        exported = load(draft)
        for height, width in _CHECKED if size is None else (size,):
            agreement = compare(exported, predictor, (height, width))
            agreement.check((height, width))
            logger.info(
                "On %d x %d pixels of noise, class scores differ from the model's by at most %.1e, and %.4f %% of the "
                "labels are equal",
                height,
                width,
                agreement.difference,
                100 * agreement.equal,
            )
        draft.replace(args.output)
    logger.info("%s has %.1f MB", args.output, args.output.stat().st_size / 1e6)


def fixed_size(args: argparse.Namespace) -> Size | None:
    """Height and width of all images; None where they are open.

    Raises:
        ValueError: only one of them is given.
    """
    if (args.height is None) != (args.width is None):
        raise ValueError("--height and --width belong together: name both, or none for images of any size.")
    return None if args.height is None else (args.height, args.width)


if __name__ == "__main__":
    sys.exit(main())
