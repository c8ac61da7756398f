"""Class texts: one line per class, in the order of the train ids."""

from importlib import resources
from pathlib import Path

_FOLDER = "vocabularies"
_SUFFIX = ".txt"


def known_vocabularies() -> list[str]:
    """Names of the vocabularies in this package, sorted."""
    folder = resources.files("mtaclip.data").joinpath(_FOLDER)
    return sorted(file.name.removesuffix(_SUFFIX) for file in folder.iterdir() if file.name.endswith(_SUFFIX))


def load_vocabulary(name_or_path: str | Path, num_classes: int) -> list[str]:
    """Read the class texts of a vocabulary.

    Lines that begin with `#` are comments; blanks around a text are dropped. Text k belongs to train id k.

    Args:
        name_or_path: name of a vocabulary in this package (`known_vocabularies`), or path of a UTF-8 text file.
        num_classes: number C of classes that the vocabulary must have.

    Returns:
        C distinct, non-empty class texts.

    Raises:
        ValueError: neither a known name nor a file, an empty line, a text that occurs twice, another number of texts
            than `num_classes`, or a file that is not UTF-8 text.
    """
    file, content = _read(name_or_path)
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"vocabulary {file} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error
    texts: dict[str, int] = {}  # text: its line
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("#"):
            continue
        if not text:
            raise ValueError(f"vocabulary {file}, line {number} is empty: write one class text per line.")
        if text in texts:
            raise ValueError(
                f"vocabulary {file}, line {number}: '{text}' is also line {texts[text]}; each class needs its own text."
            )
        texts[text] = number
    if len(texts) != num_classes:
        raise ValueError(
            f"vocabulary {file} has {len(texts)} class texts but the config has {num_classes} classes: "
            "make MODEL.MTACLIP.TEXT.VOCABULARY and MODEL.SEM_SEG_HEAD.NUM_CLASSES agree."
        )
    return list(texts)


def read_vocabulary(name_or_path: str | Path) -> bytes:
    """The content of a vocabulary's file.

    Args:
        name_or_path: see `load_vocabulary`.

    Raises:
        ValueError: neither a known name nor a file.
        OSError: the file cannot be read.
    """
    return _read(name_or_path)[1]


def _read(name_or_path: str | Path) -> tuple[str, bytes]:
    known = known_vocabularies()
    if str(name_or_path) in known:
        file = resources.files("mtaclip.data").joinpath(_FOLDER, f"{name_or_path}{_SUFFIX}")
        return str(file), file.read_bytes()
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"MODEL.MTACLIP.TEXT.VOCABULARY is '{name_or_path}', which is neither a known vocabulary "
            f"({', '.join(known)}) nor the path of a text file with one class text per line."
        )
    return str(path), path.read_bytes()
