"""Read all files of a dataset and say what is in them, and what is wrong with them.

    python projects/MTACLIP/check_dataset.py --config-file configs/custom/mtaclip_R50.yaml \
        DATASETS.FOLDER.ROOT my_dataset
    python projects/MTACLIP/check_dataset.py --dataset cityscapes_sem_seg_train --dataset cityscapes_sem_seg_val
    python projects/MTACLIP/check_dataset.py --images photos --labels masks --classes classes.txt

The result is Markdown; --html FILE also writes it as a page, --picture FILE draws samples with their labels.

Exit codes: 0 no problem was found; 1 problems were found; 2 nothing could be read; 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from mtaclip.data.datasets import Record, get_records
from mtaclip.data.folder import FOLDER_DATASETS, LabelledFolder, labelled_folder
from mtaclip.data.image_files import read_image
from mtaclip.data.inspection import NO_IMAGE, NO_LABEL, SHARED, UNUSABLE, Summary, add_duplicates, inspect_records
from mtaclip.data.labels import LABEL_FORMATS, read_label_map
from mtaclip.data.palette import distinct_colours
from mtaclip.data.vocabulary import read_classes
from mtaclip.demo.problems import run_program
from mtaclip.demo.progress import progress
from mtaclip.engine import setup_cfg
from mtaclip.evaluation.dataset_report import dataset_markdown, dataset_page
from mtaclip.evaluation.report import write_file
from mtaclip.problems import first_line
from mtaclip.visualization import Palette, Segmented
from mtaclip.visualization.contact_sheet import draw_contact_sheet
from mtaclip.visualization.save import save_picture

SAMPLES = 8  # images on the picture
_OF_LISTING = (AssertionError, ImportError, LookupError)  # what Detectron2's own datasets raise if something is missing


@dataclass
class Listing:
    """A dataset before its files are read.

    Attributes:
        name: of the dataset.
        palette: its classes.
        records: its images.
        problems: what is wrong with the list, by kind.
    """

    name: str
    palette: Palette
    records: list[Record] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="FILE", help="YAML file; its DATASETS.TRAIN and TEST are read")
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME", help="a registered dataset instead")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images of a dataset that no config describes")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="their label maps")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="their class names, one per line")
    parser.add_argument("--label-suffix", default=".png", metavar="TEXT", help="after the stem of the image (.png)")
    parser.add_argument("--label-format", choices=LABEL_FORMATS, default="train_ids", help="(train_ids)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw samples with their labels to a PNG")
    workers = min(os.cpu_count() or 1, 8)
    parser.add_argument("--workers", type=int, default=workers, metavar="N", help=f"processes that read ({workers})")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and values")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0 or 1, or ends with exit status 2 and a sentence on what is wrong, or with 130."""
    return run_program(make_parser(), check, argv, logs=False)  # standard output is the report's


def check(args: argparse.Namespace) -> int:
    """Read, report and draw; returns 1 if there are problems.

    Raises:
        ValueError, OSError: options do not fit together, class names cannot be read, or a result cannot be written.
    """
    if args.workers < 0:
        raise ValueError(f"--workers must be 0 or more, got {args.workers}.")
    for option, file, ending in (("--html", args.html, ".html"), ("--picture", args.picture, ".png")):
        if file is not None and file.suffix != ending:
            raise ValueError(f"{option}: the file must end in {ending}, got {file}.")
    listings = find_datasets(args)
    if args.picture is not None:
        check_apart(args.picture, listings)
    summaries = [summarise(listing, args.workers) for listing in listings]
    add_duplicates(summaries)
    picture = draw_samples(listings, summaries) if args.html or args.picture else None
    if args.html is not None:
        write_file(args.html, dataset_page(summaries, picture))
    if args.picture is not None and picture is not None:
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        save_picture(picture, args.picture)
    sys.stdout.write(dataset_markdown(summaries))
    if args.picture is not None and picture is None:
        sys.stdout.write(f"\n{args.picture} is not written: there is no image with usable labels.\n")
    return 1 if any(summary.all_problems() for summary in summaries) else 0


def check_apart(picture: Path, listings: Sequence[Listing]) -> None:
    """Refuse a picture that would replace a file of a dataset, or become one.

    Raises:
        ValueError: its folder holds images or label maps.
    """
    folder = picture.resolve().parent
    for record in (record for listing in listings for record in listing.records):
        for file in (record["file_name"], record.get("sem_seg_file_name")):
            if file is not None and Path(file).resolve().parent == folder:
                raise ValueError(f"--picture: {folder} holds files of the dataset: name a file in another folder.")


def find_datasets(args: argparse.Namespace) -> list[Listing]:
    """The datasets that the options name; they have the same classes.

    Raises:
        ValueError, OSError: see `check`.
    """
    if (args.images is None) != (args.labels is None) or (args.images is None) != (args.classes is None):
        raise ValueError("--images, --labels and --classes describe a dataset together: give all three or none.")
    if args.opts and args.config_file is None:
        raise ValueError(f"{args.opts[0]}: config keys and values need a --config-file.")
    cfg = None if args.config_file is None else setup_cfg(args.config_file, args.opts)
    names = args.dataset or ([] if cfg is None else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    listings = [list_registered(name, cfg) for name in dict.fromkeys(names)]
    if args.images is not None:
        folder = LabelledFolder(args.images, args.labels, args.label_suffix, args.label_format)
        class_names = [texts[0] for texts in read_classes(args.classes)]
        colours = np.array(distinct_colours(len(class_names)), dtype=np.uint8)
        listings.append(list_folder("images", folder, Palette(tuple(class_names), colours)))
    if not listings:
        raise ValueError("name a dataset: --config-file, --dataset, or --images with --labels and --classes.")
    if len({listing.palette.names for listing in listings}) > 1:
        raise ValueError("the datasets have different classes: check them one by one.")
    return listings


def list_registered(name: str, cfg: CfgNode | None) -> Listing:
    """A registered dataset; files that are missing are a problem of it.

    Raises:
        ValueError: there is no such dataset, it has no classes, or the function that lists it fails.
    """
    if cfg is not None and name in FOLDER_DATASETS:
        split = FOLDER_DATASETS[name]
        folder = labelled_folder(cfg, split)
        return list_folder(name, folder, Palette.from_metadata(MetadataCatalog.get(name)), needs_labels=split != "test")
    try:
        records, problems = get_records([name]), {}
    except FileNotFoundError as error:
        records, problems = [], {UNUSABLE: [str(error)]}
    except _OF_LISTING as error:
        raise ValueError(f"dataset '{name}' cannot be listed ({first_line(error)}): is it complete?") from error
    return Listing(name, Palette.from_metadata(MetadataCatalog.get(name)), records, problems)


def list_folder(name: str, folder: LabelledFolder, palette: Palette, needs_labels: bool = True) -> Listing:
    """Images and labels of two folders, with what has no counterpart.

    Args:
        name: of the dataset.
        folder: the two.
        palette: the classes.
        needs_labels: it is a problem if there is no folder of labels.
    """
    try:
        records = folder.records()
    except FileNotFoundError as error:
        return Listing(name, palette, problems={UNUSABLE: [str(error)]})
    problems = {
        NO_IMAGE: [str(file) for file in folder.lonely_labels(records)],
        SHARED: [f"{label} of {', '.join(images)}" for label, images in folder.shared_labels(records).items()],
    }
    if needs_labels or folder.labels.is_dir():
        images = folder.unlabelled(records)
        problems[NO_LABEL] = [f"{image} (looked for {folder.label_file(image)})" for image in images]
    return Listing(name, palette, records, problems)


def summarise(listing: Listing, workers: int) -> Summary:
    """Read the files of a dataset; the label format of every record must fit its classes."""
    summary = Summary(listing.name, listing.palette.names)
    summary.problems.update(listing.problems)
    findings = (
        progress(inspect_records(listing.records, workers), len(listing.records), "image") if listing.records else ()
    )
    for record, finding in zip(listing.records, findings, strict=True):
        summary.add(record, finding)
    return summary


def draw_samples(listings: Sequence[Listing], summaries: Sequence[Summary]) -> NDArray[np.uint8] | None:
    """Images of all datasets, evenly spaced among those without problems; None if there is none."""
    usable = [
        (listing.records[index], listing.palette)
        for listing, summary in zip(listings, summaries, strict=True)
        for index in summary.usable
    ]
    count = min(SAMPLES, len(usable))
    chosen = [usable[i * len(usable) // count] for i in range(count)]
    return draw_contact_sheet([read_sample(*sample) for sample in chosen], listings[0].palette) if chosen else None


def read_sample(record: Record, palette: Palette) -> Segmented:
    """An image with its labels."""
    labels = read_label_map(record["sem_seg_file_name"], record.get("label_format", "train_ids"), len(palette.names))
    return Segmented(read_image(record["file_name"]), labels)


if __name__ == "__main__":
    sys.exit(main())
