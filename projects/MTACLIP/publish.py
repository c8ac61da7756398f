"""Publish a trained model: a folder of weights, config, class texts and model card that others can load.

    python projects/MTACLIP/publish.py --checkpoint output/cityscapes/mtaclip_R50/model_best.pth --output my-model

The config comes from the checkpoint, or from --config-file. Scores that an evaluation of these weights left beside the
checkpoint go into the model card. `Predictor.from_pretrained` loads the folder, and its id after an upload to the
Hugging Face Hub.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from mtaclip.data.palette import distinct_colours
from mtaclip.data.vocabulary import read_classes
from mtaclip.demo.models import load_predictor
from mtaclip.demo.problems import run_program
from mtaclip.evaluation.comparison import read_scores
from mtaclip.predictor import Predictor
from mtaclip.publishing.folder import check_target
from mtaclip.visualization import Palette

logger = logging.getLogger("mtaclip.publish")


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="weights of a trained model")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new; its name is the model's")
    config_help = "YAML file of the model (default: the config in the checkpoint)"
    parser.add_argument("--config-file", metavar="FILE", help=config_help)
    names_help = "class names, one per line (default: those of the first test dataset)"
    parser.add_argument("--class-names", metavar="FILE", help=names_help)
    scores_help = "scores_<dataset>.json of these weights (default: those beside the checkpoint, if they are)"
    parser.add_argument("--scores", nargs="+", type=Path, metavar="FILE", help=scores_help)
    license_help = "id of the weights' licence on the Hugging Face Hub, such as apache-2.0 (other)"
    parser.add_argument("--license", default="other", metavar="ID", help=license_help)
    parser.add_argument("--overwrite", action="store_true", help="replace a published model")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 2 and a sentence on what is wrong."""
    return run_program(make_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Write the folder.

    Raises:
        ValueError, OSError: the model cannot be loaded or the folder not be written.
    """
    check_target(args.output, overwrite=args.overwrite)
    predictor = load_predictor(args.checkpoint, args.config_file, "cpu", args.opts)
    scores = find_scores(args.checkpoint, predictor) if args.scores is None else args.scores
    predictor.save_pretrained(
        args.output,
        palette=find_palette(args.class_names, predictor),
        license=args.license,
        scores=scores,
        overwrite=args.overwrite,
    )
    logger.info("Published in %s; scores in its card: %s", args.output, ", ".join(map(str, scores)) or "none")


def find_palette(file: str | None, predictor: Predictor) -> Palette:
    """The classes that a file names, in distinct colours; without a file, those of the test dataset.

    Raises:
        ValueError: there are no names, or another number than the model has classes.
    """
    if file is None:
        try:
            return predictor.palette
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; or name the classes by --class-names.") from error
    names = [texts[0] for texts in read_classes(Path(file))]
    num_classes = predictor.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(names) != num_classes:
        raise ValueError(f"--class-names: {file} names {len(names)} classes, but the model has {num_classes}.")
    return Palette(tuple(names), np.array(distinct_colours(len(names)), dtype=np.uint8))


def find_scores(checkpoint: Path, predictor: Predictor) -> list[Path]:
    """The scores beside a checkpoint that are of its weights.

    A run's last evaluation leaves them, and the weights of a checkpoint may be older.

    Args:
        checkpoint: the file.
        predictor: its model.

    Raises:
        ValueError: a scores file is damaged.
    """
    files = [checkpoint.parent / f"scores_{name}.json" for name in predictor.cfg.DATASETS.TEST]
    evaluations = [read_scores(file) for file in files if file.is_file()]
    digest = predictor.digest() if evaluations else None
    for evaluation in evaluations:
        if evaluation.weights != digest:
            logger.warning(
                "%s is of other weights, or does not say of which, and is left out: evaluate %s (--eval-only), or name "
                "the file by --scores.",
                evaluation.file,
                checkpoint,
            )
    return [evaluation.file for evaluation in evaluations if evaluation.weights == digest]


if __name__ == "__main__":
    sys.exit(main())
