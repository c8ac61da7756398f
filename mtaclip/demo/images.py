"""Image files in, pictures out."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mtaclip.data.image_files import read_image
from mtaclip.demo.pipeline import pipeline
from mtaclip.demo.problems import attempt, report_problem
from mtaclip.demo.progress import progress
from mtaclip.demo.segmenter import Segmenter
from mtaclip.visualization import Painter, Segmented, save_prediction


def segment_images(
    files: Sequence[tuple[Path, str]], segmenter: Segmenter, painter: Painter, output: Path, kinds: Sequence[str]
) -> int:
    """Read, segment and draw images side by side; unusable ones are named in the log and left out.

    Args:
        files: images, and the beginnings of their output names.
        segmenter: the model.
        painter: the style.
        output: folder of the pictures.
        kinds: which pictures, of `mtaclip.visualization.painter.KINDS`.

    Returns:
        the number of unusable images.
    """
    failures = 0
    images = [file for file, _ in files]
    with closing(pipeline(images, attempt(read_image), attempt(segmenter))) as results:
        for (file, stem), result in zip(files, progress(results, len(files), "image"), strict=True):

            def save(segmented: Segmented, stem: str = stem) -> list[Path]:
                return save_prediction(output, stem, segmented, painter, kinds)

            failures += report_problem(file, attempt(save)(result))
    return failures
