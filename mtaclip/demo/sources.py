"""Image and video files that a user names: files, folders, patterns, or a list of them on standard input."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from mtaclip.files import IMAGE_SUFFIXES, visible_files

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
STANDARD_INPUT = "-"

_WILDCARDS = frozenset("*?[")


def is_video(file: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def expand_standard_input(inputs: Sequence[str], lines: Iterable[str]) -> Iterator[str]:
    """Replace every "-" by lines of text.

    Args:
        inputs: as given by the user.
        lines: one input each, read if there is a "-"; empty ones are left out.
    """
    for item in inputs:
        if item == STANDARD_INPUT:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
        else:
            yield item


def find_files(inputs: Iterable[str], output: Path) -> tuple[list[Path], list[str]]:
    """Turn files, folders and glob patterns into image and video files.

    Args:
        inputs: as given by the user. Folders give the images and videos in them and below, recognised by their suffix.
        output: folder of the results; left out where it lies inside an input folder or a pattern reaches it from above.

    Returns:
        the files, each once, in the order of the inputs, and the inputs that gave none. A file that was named itself
        is returned whatever its suffix.

    Raises:
        ValueError: the output folder is an input folder, where results would become inputs of the next run.
    """
    files: dict[Path, Path] = {}
    unmatched = []
    for item in inputs:
        paths = [Path(item)] if Path(item).exists() else _matches(item, output)
        found = [file for path in paths for file in _files_at(path, output)]
        for file in found:
            files.setdefault(file.resolve(), file)
        if not found:
            unmatched.append(item)
    return list(files.values()), unmatched


def _matches(pattern: str, output: Path) -> list[Path]:
    """What a pattern matches, without the results if its wildcards are what leads to them."""
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    results = output.resolve()
    start = Path(*takewhile(_WILDCARDS.isdisjoint, Path(pattern).parts))
    if start.resolve() not in results.parents:
        return paths
    return [path for path in paths if results not in (path.resolve(), *path.resolve().parents)]


def _files_at(path: Path, output: Path) -> list[Path]:
    """The file itself, or the visible images and videos in and below a folder."""
    if not path.is_dir():
        return [path]
    results = output.resolve()
    if path.resolve() == results:
        raise ValueError(f"--output: {output} is an input folder, too; choose another one for the pictures.")
    among_results = results in path.resolve().parents  # named as such
    return [
        file
        for file in visible_files(path)
        if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        and (among_results or results not in file.resolve().parents)
    ]
