"""What becomes of image files that cannot be segmented."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtaclip.demo.images import segment_images
from mtaclip.visualization import Painter, Palette, Segmented

PAINTER = Painter(Palette(("all",), np.array([[255, 0, 0]], np.uint8)))


def run_out_of_cpu_memory() -> None:
    torch.empty(1 << 50)


def run_out_of_memory_in_numpy() -> None:
    np.empty(1 << 50)


def run_out_of_gpu_memory() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.")


def images(folder: Path, *widths: int) -> list[tuple[Path, str]]:
    files = [folder / f"{width}.png" for width in widths]
    for file, width in zip(files, widths, strict=True):
        Image.new("RGB", (width, 8)).save(file)
    return [(file, file.stem) for file in files]


def segment_by(fail):
    """A segmenter that fails on images of 16 pixels' width."""

    def segment(image: np.ndarray) -> Segmented:
        if image.shape[1] == 16:
            fail()
        return Segmented(image, np.zeros(image.shape[:2], np.uint8))

    return segment


@pytest.mark.parametrize("run_out", [run_out_of_cpu_memory, run_out_of_memory_in_numpy, run_out_of_gpu_memory])
def test_an_image_for_which_the_memory_does_not_suffice_is_named_and_the_rest_goes_on(tmp_path, log, run_out):
    assert segment_images(images(tmp_path, 16, 24), segment_by(run_out), PAINTER, tmp_path / "out", ["ids"]) == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["24_ids.png"]
    assert len(log) == 1 and log[0].startswith(f"{tmp_path / '16.png'}: the memory does not suffice")
    keys = ("INPUT.MIN_SIZE_TEST", "TEST.SLIDING_WINDOW.ENABLED True", "TEST.SCORES_DEVICE cpu")
    assert all(key in log[0] for key in keys)


def test_a_defect_is_not_taken_for_a_problem_of_the_file(tmp_path):
    def fail() -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        segment_images(images(tmp_path, 16), segment_by(fail), PAINTER, tmp_path / "out", ["ids"])
