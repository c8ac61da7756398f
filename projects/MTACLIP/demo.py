r"""Segment images and write the results as pictures.

    python demo.py --config-file configs/cityscapes/mtaclip_R50.yaml --input photo.jpg folder/ 'shots/*.png' \
        --output out/ MODEL.WEIGHTS model.pth

For every image: `<name>_overlay.png`, `<name>_colour.png`, `<name>_ids.png` (train ids) and `<name>_legend.png`.

Exit codes: 0 every image was segmented; 1 some inputs could not be read, the others were segmented; 2 nothing could
be done.
"""

import argparse
import glob
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mtaclip.data.labels import read_image
from mtaclip.engine import setup_cfg
from mtaclip.inference.predictor import Predictor
from mtaclip.visualization import Palette, save_prediction

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # images in a folder

logger = logging.getLogger("mtaclip.demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        the exit code described above.
    """
    args = make_parser().parse_args(argv)
    setup_logger(name="mtaclip")
    try:
        images, unmatched = find_images(args.input, args.output)
        if not images:
            raise ValueError(f"--input: no image found in {', '.join(args.input)}.")
        cfg = setup_cfg(args.config_file, [*args.opts, *args.trailing_opts])
        palette = dataset_palette(cfg)
        predictor = Predictor(cfg)
        args.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 2
    for item in unmatched:
        logger.error("--input: %s is no file, no folder with images and matches none.", item)
    failures = segment_all(predictor, palette, images, args.output, args.opacity)
    logger.info("%d of %d images segmented; the pictures are in %s", len(images) - failures, len(images), args.output)
    return 1 if failures or unmatched else 0


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Segment images and write the results as pictures.")
    parser.add_argument("--config-file", required=True, help="YAML file of the model")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders (read recursively) or glob patterns")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures; created if needed")
    parser.add_argument("--opacity", type=share, default=0.5, help="of the colours in the overlay, 0 to 1 (0.5)")
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


def dataset_palette(cfg: CfgNode) -> Palette:
    """Names and colours of the classes of the first test dataset.

    Raises:
        ValueError: there is no test dataset, or its metadata are incomplete.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name the dataset whose classes the model predicts.")
    return Palette.from_metadata(MetadataCatalog.get(cfg.DATASETS.TEST[0]))


def find_images(inputs: Sequence[str], output: Path) -> tuple[list[Path], list[str]]:
    """Turn files, folders and glob patterns into image files.

    Args:
        inputs: as given by the user. Folders give the images in them and below, recognised by their suffix.
        output: folder of the results; left out where it lies inside an input folder.

    Returns:
        the files, each once, in the order of the inputs, and the inputs that gave none. A file that was named itself
        is returned whatever its suffix.

    Raises:
        ValueError: the output folder is an input folder, where results would become inputs of the next run.
    """
    files: dict[Path, Path] = {}
    unmatched = []
    for item in inputs:
        paths = [item] if Path(item).exists() else sorted(glob.glob(item, recursive=True))
        found = [file for path in map(Path, paths) for file in _images_at(path, output)]
        for file in found:
            files.setdefault(file.resolve(), file)
        if not found:
            unmatched.append(item)
    return list(files.values()), unmatched


def _images_at(path: Path, output: Path) -> list[Path]:
    """The file itself, or the images in and below a folder."""
    if not path.is_dir():
        return [path]
    if path.resolve() == output.resolve():
        raise ValueError(f"--output: {output} is an input folder, too; choose another one for the pictures.")
    results_inside = path.resolve() in output.resolve().parents
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not (results_inside and output.resolve() in file.resolve().parents)
    ]


def output_stems(files: Sequence[Path]) -> list[str]:
    """Beginnings of the output names, all different even where upper and lower case are the same.

    A file's stem, if no other file has it; else with its folder's name; else with its suffix, too; else numbered.
    """
    stems = [file.stem for file in files]
    parents = [file.resolve().parent.name for file in files]
    for candidates in (
        [f"{parent}_{file.stem}" for parent, file in zip(parents, files, strict=True)],
        [f"{parent}_{file.stem}_{file.suffix[1:]}" for parent, file in zip(parents, files, strict=True)],
    ):
        uses = Counter(stem.lower() for stem in stems)
        stems = [longer if uses[stem.lower()] > 1 else stem for stem, longer in zip(stems, candidates, strict=True)]
    taken: set[str] = set()
    for index, stem in enumerate(stems):
        number = 1
        while stems[index].lower() in taken:
            number += 1
            stems[index] = f"{stem}-{number}"
        taken.add(stems[index].lower())
    return stems


def segment_all(predictor: Predictor, palette: Palette, images: Sequence[Path], output: Path, opacity: float) -> int:
    """Segment images one by one and write their pictures; unreadable ones are named in the log and left out.

    Returns:
        the number of unreadable images.
    """
    failures = 0
    with logging_redirect_tqdm(loggers=[logging.getLogger("mtaclip")]):
        for file, stem in zip(tqdm(images, unit="image"), output_stems(images), strict=True):
            try:
                image = read_image(file)
            except (OSError, ValueError) as error:
                logger.error("%s", error)
                failures += 1
                continue
            try:
                labels = predictor(image).labels
            except ValueError as error:
                logger.error("%s: %s", file, error)
                failures += 1
                continue
            save_prediction(output, stem, image, labels, palette, opacity)
    return failures


if __name__ == "__main__":
    sys.exit(main())
