r"""Segment images, videos and cameras, and write the results as pictures.

    python demo.py --config-file configs/cityscapes/mtaclip_R50.yaml --input photo.jpg clip.mp4 folder/ 'shots/*.png' \
        --output out/ --opts MODEL.WEIGHTS model.pth

What `--save` can name, of an image `<name>_<what>.png`:

    overlay       colours, outlines and names over the image
    colours       the colour of every pixel's class
    ids           the train id of every pixel, 255 where `--classes` leaves the class out
    legend        the classes with their colours and shares of the pixels
    side-by-side  image and overlay
    confidence    share of the winning class in the pixel's class scores, from 0 (dark blue) to 1 (yellow)

Of a video, they are videos of the same frame rate, frame count and size; ids are a folder of PNGs and the legend one
PNG for all frames. A camera is shown in a window where there is a display (q or Esc ends), and is saved with --output.

Exit codes: 0 everything was segmented; 1 some inputs could not be read or written, the others were segmented; 2 nothing
could be done; 130 interrupted.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from mtaclip.demo.images import segment_images
from mtaclip.demo.problems import run_program
from mtaclip.demo.segmenter import Segmenter
from mtaclip.demo.sources import expand_standard_input, find_files, is_video
from mtaclip.demo.videos import film_camera, segment_videos
from mtaclip.engine import setup_cfg
from mtaclip.files import output_stems
from mtaclip.predictor import Predictor
from mtaclip.publishing.folder import find_palette
from mtaclip.visualization import Painter, Palette
from mtaclip.visualization.film import VIDEO_KINDS
from mtaclip.visualization.legend import LEGEND_BACKGROUNDS
from mtaclip.visualization.painter import KINDS
from mtaclip.visualization.save import IMAGE_KINDS
from mtaclip.visualization.video import VideoReader, can_show_windows, quiet_codecs

PALETTES = ("dataset", "colour-blind")

logger = logging.getLogger("mtaclip.demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        the exit code described above, 0 or 1; with 2 and 130 the process ends, after a sentence on what is wrong.
    """
    quiet_codecs()
    return run_program(make_parser(), segment, argv)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("Exit codes")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="YAML file of the model")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs_help = "images, videos, folders (read recursively) or glob patterns; - reads them from standard input"
    inputs.add_argument("--input", nargs="+", help=inputs_help)
    camera_help = "number of a camera (0) or address of a video stream"
    inputs.add_argument("--webcam", nargs="?", type=camera, const=0, metavar="N", help=camera_help)
    parser.add_argument("--output", type=Path, help="folder for the results; created if needed")
    kinds_help = f"of {', '.join(KINDS)} (images: {' '.join(IMAGE_KINDS)}; videos: {' '.join(VIDEO_KINDS)})"
    parser.add_argument("--save", nargs="+", choices=KINDS, metavar="WHAT", help=kinds_help)
    parser.add_argument("--opacity", type=share, default=0.5, help="of the colours in the overlay, 0 to 1 (0.5)")
    parser.add_argument("--classes", help='names of the classes to show, such as "road,car"; all if left out')
    vocabulary_help = 'classes to tell apart, "road; tram; puddle", or a file of them; see TEST.VOCABULARY'
    parser.add_argument("--vocabulary", metavar="NAMES", help=vocabulary_help)
    parser.add_argument("--palette", choices=PALETTES, default=PALETTES[0], help="colours of the classes (dataset)")
    parser.add_argument("--legend-background", choices=LEGEND_BACKGROUNDS, default="light", help="(light)")
    options_help = "config keys and values, such as MODEL.WEIGHTS model.pth; at the end, not right after --input"
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help=options_help)
    parser.add_argument("trailing_opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="the same without --opts")
    return parser


def share(text: str) -> float:
    """Read a number between 0 and 1; argparse reports the ValueError of anything else."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def camera(text: str) -> int | str:
    """Read the number of a camera, or the address of a stream."""
    return int(text) if text.isdecimal() else text


def segment(args: argparse.Namespace) -> int:
    """Segment what the options name; see `segment_camera` and `segment_files`."""
    return segment_camera(args) if args.input is None else segment_files(args)


def segment_files(args: argparse.Namespace) -> int:
    """Segment the files of --input; those that cannot be used are named in the log and left out.

    Returns:
        the exit code.

    Raises:
        OSError, ValueError: nothing can be done.
    """
    if args.output is None:
        raise ValueError("--output is missing: name a folder for the results.")
    inputs = list(expand_standard_input(args.input, sys.stdin))
    files, unmatched = find_files(inputs, args.output)
    if not files:
        raise ValueError(f"--input: no image or video found in {', '.join(inputs) or 'standard input'}.")
    segmenter, painter = load(args)
    args.output.mkdir(parents=True, exist_ok=True)
    for item in unmatched:
        logger.error("--input: %s is no file, no folder with images or videos, and matches none.", item)
    named = list(zip(files, output_stems(files), strict=True))
    images = [(file, stem) for file, stem in named if not is_video(file)]
    videos = [(file, stem) for file, stem in named if is_video(file)]
    failures = segment_images(images, segmenter, painter, args.output, args.save or IMAGE_KINDS)
    failures += segment_videos(videos, segmenter, painter, args.output, args.save or VIDEO_KINDS)
    logger.info("%d of %d files segmented; the results are in %s", len(files) - failures, len(files), args.output)
    return 1 if failures or unmatched else 0


def segment_camera(args: argparse.Namespace) -> int:
    """Segment what a camera sees.

    Returns:
        the exit code.

    Raises:
        OSError, ValueError: there is no such camera, or neither a window nor a folder to save to.
    """
    with_window = can_show_windows()
    if not with_window and args.output is None:
        raise ValueError("--webcam: OpenCV can show no window here; name a folder with --output to save the video.")
    with VideoReader(args.webcam) as video:
        segmenter, painter = load(args)
        if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
            logger.info("Saving to %s until Ctrl-C", args.output)
        film_camera(video, segmenter, painter, args.output, args.save or VIDEO_KINDS, with_window)
    return 0


def load(args: argparse.Namespace) -> tuple[Segmenter, Painter]:
    """The model and the style of the pictures.

    Raises:
        OSError, ValueError: config, weights, test dataset or options are wrong.
    """
    options = [*args.opts, *args.trailing_opts]
    if args.vocabulary == "":
        raise ValueError("--vocabulary names no class.")
    if args.vocabulary is not None:
        options = ["TEST.VOCABULARY", repr(args.vocabulary), *options]  # quoted: a text, whatever it looks like
    cfg = setup_cfg(args.config_file, options)
    palette = find_palette(cfg)
    shown = None if args.classes is None else chosen_classes(args.classes, palette)
    if args.palette == "colour-blind":
        palette = palette.colour_blind()
    segmenter = Segmenter(Predictor(cfg), with_confidence="confidence" in (args.save or ()))
    return segmenter, Painter(palette, args.opacity, shown, args.legend_background)


def chosen_classes(text: str, palette: Palette) -> tuple[int, ...]:
    """Train ids of classes whose names are separated by commas.

    Raises:
        ValueError: there is no such class, or no name.
    """
    try:
        found = palette.find(text)
    except ValueError as error:
        raise ValueError(f"--classes: {error}") from error
    if found is None:
        raise ValueError("--classes names no class.")
    return found


if __name__ == "__main__":
    sys.exit(main())
