r"""Make the alignment of masks and prompted class texts visible.

    python projects/MTACLIP/alignment.py --config-file configs/cityscapes/mtaclip_R50.yaml --input photo.png \
        --output out/ --opts MODEL.WEIGHTS model.pth

What `--view` can name:

    segments    the image with numbered segments, and a table: <image>_segments.svg
    heatmap     mask queries against class texts: <image>_heatmap.svg
    contexts    where each prompt of a class fires: <image>_contexts.png
    projection  the masks of a labelled dataset and the class texts in a plane: projection.svg, separation.md
    words       the words of CLIP's vocabulary nearest to each learned vector: words.md

The first three need images, and are also written as one page, <image>_alignment.html; with --dataset they are only made
if they are named.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from mtaclip.alignment import Alignment, collect, explain, explainable, nearest_words
from mtaclip.data.datasets import get_records
from mtaclip.demo.problems import run_program
from mtaclip.demo.sources import find_files, is_video
from mtaclip.engine import setup_cfg
from mtaclip.evaluation.report import markdown_table, write_file
from mtaclip.files import output_stems
from mtaclip.predictor import Predictor
from mtaclip.publishing.folder import find_palette
from mtaclip.visualization import Palette
from mtaclip.visualization.alignment_page import (
    alignment_page,
    context_maps_section,
    heat_map_section,
    segments_section,
    word_rows,
    words_section,
)
from mtaclip.visualization.context_maps import draw_context_maps
from mtaclip.visualization.heat_map import draw_heat_map
from mtaclip.visualization.page import Html
from mtaclip.visualization.projection import HEADS, draw_projection, separation_rows
from mtaclip.visualization.save import save_picture
from mtaclip.visualization.segments import draw_segments

IMAGE_VIEWS = ("segments", "heatmap", "contexts")
VIEWS = (*IMAGE_VIEWS, "projection", "words")
_MOST = 3  # classes whose prompts are shown unless --classes names some

logger = logging.getLogger("mtaclip.alignment")


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML file of the model")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", nargs="+", default=[], metavar="IMAGE", help="images, folders or glob patterns")
    source.add_argument("--dataset", metavar="NAME", help="a registered dataset with labels")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of the dataset")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="created if needed")
    parser.add_argument("--view", nargs="+", choices=VIEWS, help="what to make (default: all that fits the input)")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="TEXT",
        help=f"class texts of contexts (default: the {_MOST} largest)",
    )
    options_help = "config keys and values, such as MODEL.WEIGHTS model.pth; at the end"
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help=options_help)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 2 and a sentence on what is wrong."""
    return run_program(make_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Make the views that are asked for.

    Raises:
        ValueError, OSError: options do not fit together, or a file or the model cannot be used.
    """
    views = chosen_views(args)
    cfg = setup_cfg(args.config_file, args.opts)  # it registers the datasets of DATASETS.FOLDER
    records = find_records(args)
    palette = Palette.from_config(cfg, args.dataset) if args.dataset else find_palette(cfg)
    predictor = Predictor(cfg)
    network = explainable(predictor)
    classes = text_numbers(args.classes, network.class_texts)
    words = nearest_words(network.texts) if "words" in views else None
    if words is not None:
        heads, rows = word_rows(words)
        write_file(args.output / "words.md", markdown_table(heads, rows, names=len(heads)))
    if "projection" in views:
        write_projection(predictor, records, palette, args.output)
    shown = [view for view in IMAGE_VIEWS if view in views]
    files = [Path(record["file_name"]) for record in records] if shown else []
    for file, stem in zip(files, output_stems(files), strict=True):
        alignment = explain(predictor, file)
        numbers = classes or alignment.largest_classes(_MOST)
        sections = write_views(shown, alignment, palette, numbers, args.output / stem)
        sections += [] if words is None else [words_section(words)]
        write_file(args.output / f"{stem}_alignment.html", alignment_page(file.name, alignment, sections))
    logger.info("The views are in %s", args.output)


def chosen_views(args: argparse.Namespace) -> set[str]:
    """The views to make.

    Raises:
        ValueError: a view needs images or a dataset that is not given.
    """
    if args.view is None:
        return {"words", *(IMAGE_VIEWS if args.input else ()), *(("projection",) if args.dataset else ())}
    if "projection" in args.view and not args.dataset:
        raise ValueError("--view projection compares masks with their true classes: name a labelled set by --dataset.")
    lacking = [view for view in args.view if view in IMAGE_VIEWS]
    if lacking and not args.input and not args.dataset:
        raise ValueError(f"--view {lacking[0]} needs images: name them by --input or --dataset.")
    return set(args.view)


def find_records(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The images, as records of a dataset.

    Raises:
        ValueError: the dataset is unknown or empty, the limit is not positive or not of a dataset, or an input gives no
            image.
        FileNotFoundError: files of the dataset are missing.
    """
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {args.limit}.")
    if args.dataset is None:
        if args.limit is not None:
            raise ValueError("--limit is the number of images of a labelled set: name one by --dataset.")
        files, unmatched = find_files(args.input, args.output)
        wrong = [*unmatched, *(str(file) for file in files if is_video(file))]
        if wrong:
            raise ValueError(f"--input: {wrong[0]} is no image, no folder with images, and matches none.")
        return [{"file_name": str(file)} for file in files]
    return get_records([args.dataset])[: args.limit]


def text_numbers(names: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Numbers of class texts.

    Raises:
        ValueError: a name is not among the texts.
    """
    for name in names:
        if name not in texts:
            raise ValueError(f"--classes: '{name}' is no class text of the model; these are {', '.join(texts)}.")
    return [texts.index(name) for name in names]


def write_projection(predictor: Predictor, records: Sequence[dict[str, Any]], palette: Palette, output: Path) -> None:
    """Write the projection of a labelled dataset with its figures, and log the means."""
    masks = collect(predictor, records)
    rows = separation_rows(masks, palette)
    write_file(output / "projection.svg", draw_projection(masks, palette))
    write_file(output / "separation.md", markdown_table(HEADS, rows))
    _, count, silhouette, margin = rows[0]
    logger.info("%s masks of %d images: mean silhouette %s, mean margin %s", count, len(records), silhouette, margin)


def write_views(
    views: Sequence[str], alignment: Alignment, palette: Palette, texts: Sequence[int], start: Path
) -> list[Html]:
    """Write an image's pictures, whose names begin alike, and return the sections of its page."""
    sections = []
    if "segments" in views:
        write_file(start.with_name(f"{start.name}_segments.svg"), draw_segments(alignment, palette))
        sections.append(segments_section(alignment, palette))
    if "heatmap" in views:
        write_file(start.with_name(f"{start.name}_heatmap.svg"), draw_heat_map(alignment))
        sections.append(heat_map_section(alignment))
    if "contexts" in views:
        start.parent.mkdir(parents=True, exist_ok=True)
        save_picture(draw_context_maps(alignment, texts), start.with_name(f"{start.name}_contexts.png"))
        sections.append(context_maps_section(alignment, texts))
    return sections


if __name__ == "__main__":
    sys.exit(main())
