#!/usr/bin/env python3
"""Draws a dataset as docs/custom_dataset.md describes them: images, label maps and a file with four class names."""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("table", "disc", "square", "triangle")
COLOURS = np.array([(150, 120, 90), (200, 60, 60), (60, 90, 200), (70, 170, 80)])  # RGB
SHAPES = 4  # in an image
NOISE = 12.0  # standard deviation of a pixel, and of an image's colours


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw shapes on a table.

    Args:
        rng: decides everything.
        height, width: in pixels.

    Returns:
        image uint8 (height, width, 3) RGB, and labels uint8 (height, width), the indices of `CLASSES`.
    """
    labels = np.zeros((height, width), np.uint8)
    for _ in range(SHAPES):
        kind, radius = int(rng.integers(1, len(CLASSES))), int(rng.integers(min(height, width) // 8, height // 4))
        centre = rng.integers((0, 0), (width, height))
        if kind == 1:
            cv2.circle(labels, centre.tolist(), radius, kind, -1)
        else:
            turns = np.arange(4 if kind == 2 else 3) / (4 if kind == 2 else 3) + rng.random()
            corners = centre + radius * np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
            cv2.fillPoly(labels, [corners.astype(np.int32)], kind)
    colours = COLOURS + rng.normal(0.0, NOISE, COLOURS.shape)
    image = colours[labels] + rng.normal(0.0, NOISE, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def write(root: Path, counts: dict[str, int], size: tuple[int, int], seed: int) -> None:
    """Write the dataset.

    Args:
        root: a folder that does not exist yet.
        counts: number of images of each split.
        size: (height, width) in pixels.
        seed: another seed draws another dataset.

    Raises:
        OSError: the folder exists, or a file cannot be written.
    """
    if root.exists():
        raise FileExistsError(f"{root} exists: choose another folder with --root")
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for number, (split, count) in enumerate(counts.items()):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            image, label_map = draw(np.random.default_rng((seed, number, index)), *size)
            (images / f"{index:04d}.jpg").write_bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
            (labels / f"{index:04d}.png").write_bytes(cv2.imencode(".png", label_map)[1].tobytes())


def main(argv: list[str] | None = None) -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("datasets/shapes"), help="folder to write (%(default)s)")
    parser.add_argument("--train", type=int, default=64, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=16, metavar="N", help="validation images")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("H", "W"), help="image size")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another dataset")
    args = parser.parse_args(argv)
    if min(args.train, args.val) < 1 or args.seed < 0 or min(args.size) < 32:
        parser.error("--train and --val must be 1 or more, --seed 0 or more, and --size 32 pixels or more")
    write(args.root, {"train": args.train, "val": args.val}, tuple(args.size), args.seed)
    print(f"ready: {args.root}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"make_shapes.py: {error}")
