"""The files of a published model."""

from pathlib import Path

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
CLASSES = "classes.json"  # names and colours
VOCABULARY = "vocabulary.txt"  # class texts; only of models with a text side
CLIP_MODEL = "clip_model.json"  # model config of open_clip; only of models that neither it nor the package knows
CARD = "README.md"

NEEDED = (CONFIG, CLASSES, WEIGHTS)
ALL = (*NEEDED, VOCABULARY, CLIP_MODEL, CARD)
_LARGEST_TEXT = 2**18  # bytes


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no UTF-8 text, or larger than any that this project writes.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} is no complete published model: it holds no {file.name}.")
    size = file.stat().st_size
    if size > _LARGEST_TEXT:
        raise ValueError(f"{file}: {size} bytes are more than a published model has there ({_LARGEST_TEXT} at most).")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason}).") from error
