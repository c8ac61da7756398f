#!/usr/bin/env python3
"""Draws the miniature: small street scenes on disk exactly as Cityscapes and ADE20K are laid out.

Every image depends on the seed, the split and its own number alone, so that a larger miniature begins with the
images of a smaller one. A dataset is drawn in a temporary folder and renamed when it is complete; one that is already
there is left as it is.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import id2label
from miniature_kinds import ade20k_table, cityscapes_table
from miniature_scene import Scene, render
from tqdm import tqdm

VERSION = 1  # goes into the stamp: raise it when the pictures change
STAMP = "miniature.json"
MIN_SIZE = 64
SPLITS = ("train", "val", "test")
CITIES = {
    "train": ("alderbruck", "birkenau", "cedarholm", "dornfeld", "elmstadt", "fernwald"),
    "val": ("glasmuenden", "hartwick", "inselheim"),
    "test": ("jungbach", "kieselried"),
}
ADE20K_FOLDERS = {"train": "training", "val": "validation"}
ADE20K_NAMES = Path(__file__).resolve().parents[1] / "mtaclip" / "data" / "vocabularies" / "ade20k.txt"
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # fast
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95]
INSTANCE_FACTOR = 1000  # Cityscapes: a counted object's pixel is label id * 1000 + its number


@dataclass(frozen=True, eq=False)
class Cityscapes:
    """Writes scenes in Cityscapes' layout.

    Attributes:
        table: label id of each kind, uint8.
        folder: folder of the dataset below the root.
        splits: the splits it has.
    """

    table: np.ndarray
    folder: str = "cityscapes"
    splits: tuple[str, ...] = SPLITS

    def write(self, root: Path, split: str, index: int, scene: Scene) -> None:
        """Write the image, the label ids and the instance ids of one scene."""
        city = CITIES[split][index % len(CITIES[split])]
        stem = f"{city}_{index:06d}_000019"
        labels = root / "gtFine" / split / city
        write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", scene.image)
        write_image(labels / f"{stem}_gtFine_labelIds.png", self.table[scene.kind])
        write_image(labels / f"{stem}_gtFine_instanceIds.png", self.instance_ids(scene))

    def instance_ids(self, scene: Scene) -> np.ndarray:
        """Return uint16 (H, W): label id, or label id * 1000 + number for classes whose objects are counted."""
        ids = self.table.astype(np.uint16)
        counted = np.array([id2label[int(value)].hasInstances for value in self.table])
        first = np.where(counted, ids * INSTANCE_FACTOR, ids)[scene.kind]
        return np.where(counted[scene.kind], first + scene.instance, first).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Ade20k:
    """Writes scenes in the layout of ADE20K's scene-parsing challenge; attributes as in `Cityscapes`."""

    table: np.ndarray
    folder: str = "ADEChallengeData2016"
    splits: tuple[str, ...] = tuple(ADE20K_FOLDERS)

    def write(self, root: Path, split: str, index: int, scene: Scene) -> None:
        """Write the image and the annotation of one scene."""
        folder, stem = ADE20K_FOLDERS[split], f"ADE_{split}_{index + 1:08d}"
        write_image(root / "images" / folder / f"{stem}.jpg", scene.image)
        write_image(root / "annotations" / folder / f"{stem}.png", self.table[scene.kind])


Dataset = Cityscapes | Ade20k


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image file, RGB or of one channel, and the folder it goes to.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, encoded = cv2.imencode(path.suffix, stored, JPEG_OPTIONS if path.suffix == ".jpg" else PNG_OPTIONS)
    if not done:
        raise OSError(f"{path}: OpenCV cannot encode {path.suffix} files")
    path.write_bytes(encoded.tobytes())


def draw(root: Path, datasets: list[Dataset], counts: dict[str, int], size: tuple[int, int], seed: int) -> None:
    """Draw those of the datasets that are not there yet; each scene is drawn once for all of them.

    Args:
        root: folder of the datasets.
        datasets: what to write.
        counts: number of images of each split.
        size: (height, width) in pixels.
        seed: seed of the miniature.

    Raises:
        FileExistsError: a dataset's folder holds something that this script did not draw.
        OSError: a file cannot be written.
    """
    stamps = {dataset: _stamp(dataset, counts, size, seed) for dataset in datasets}
    wanted = [dataset for dataset in datasets if _read_stamp(root / dataset.folder) != stamps[dataset]]
    unfinished = {dataset: root / f".{dataset.folder}.unfinished" for dataset in wanted}
    try:
        for folder in unfinished.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        needed = {split for dataset in wanted for split in dataset.splits}
        jobs = [(split, index) for split in SPLITS if split in needed for index in range(counts[split])]
        for split, index in tqdm(jobs, desc="drawing", unit="image", disable=not jobs):
            scene = render([seed, SPLITS.index(split), index], *size)
            for dataset, folder in unfinished.items():
                if split in dataset.splits:
                    dataset.write(folder, split, index, scene)
        for dataset, folder in unfinished.items():
            (folder / STAMP).write_text(stamps[dataset])
            if (root / dataset.folder).exists():
                shutil.rmtree(root / dataset.folder)
            folder.rename(root / dataset.folder)
    finally:
        for folder in unfinished.values():
            shutil.rmtree(folder, ignore_errors=True)


def _stamp(dataset: Dataset, counts: dict[str, int], size: tuple[int, int], seed: int) -> str:
    images = {split: counts[split] for split in dataset.splits}
    return json.dumps({"version": VERSION, "seed": seed, "size": list(size), "images": images}) + "\n"


def _read_stamp(folder: Path) -> str | None:
    if not folder.exists():
        return None
    if not (folder / STAMP).is_file():
        raise FileExistsError(
            f"{folder} exists and has no {STAMP}, so this script did not draw it: choose another folder with --root"
        )
    return (folder / STAMP).read_text()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("datasets/miniature"), help="folder to write to")
    parser.add_argument("--dataset", choices=("cityscapes", "ade20k", "both"), default="both", help="layouts to write")
    parser.add_argument("--train", type=int, default=240, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=60, metavar="N", help="validation images")
    parser.add_argument("--test", type=int, default=4, metavar="N", help="test images (Cityscapes only)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"), help="image size")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws another miniature")
    options = parser.parse_args(arguments)
    if min(options.train, options.val, options.test, options.seed) < 0:
        parser.error("--train, --val, --test and --seed cannot be negative")
    if min(options.size) < MIN_SIZE:
        height, width = options.size
        parser.error(f"--size {height} {width}: height and width must be at least {MIN_SIZE} pixels")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Draw what the command line asks for and say where it is."""
    options = parse_arguments(arguments)
    datasets: list[Dataset] = []
    if options.dataset in ("cityscapes", "both"):
        datasets.append(Cityscapes(cityscapes_table()))
    if options.dataset in ("ade20k", "both"):
        lines = [line.strip() for line in ADE20K_NAMES.read_text(encoding="utf-8").splitlines()]
        datasets.append(Ade20k(ade20k_table([line for line in lines if not line.startswith("#")])))
    counts = {"train": options.train, "val": options.val, "test": options.test}
    draw(options.root, datasets, counts, (options.size[0], options.size[1]), options.seed)
    for dataset in datasets:
        print(f"ready: {options.root / dataset.folder}")
    print(f"to use it: export DETECTRON2_DATASETS={options.root.resolve()}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"make_miniature.py: {error}")
    except KeyboardInterrupt:
        sys.exit("make_miniature.py: interrupted; no half-drawn dataset was left behind")
