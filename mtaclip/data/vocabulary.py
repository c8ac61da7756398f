"""Class texts: one line per class, in the order of the train ids."""

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

_FOLDER = "vocabularies"
_SUFFIX = ".txt"
_MOST = 254  # classes of an 8-bit label map
_TRAINED = "MODEL.MTACLIP.TEXT.VOCABULARY"
_TESTED = "TEST.VOCABULARY"

ClassTexts = tuple[str, ...]


def known_vocabularies() -> list[str]:
    """Names of the vocabularies in this package, sorted."""
    folder = resources.files("mtaclip.data").joinpath(_FOLDER)
    return sorted(file.name.removesuffix(_SUFFIX) for file in folder.iterdir() if file.name.endswith(_SUFFIX))


def load_vocabulary(name_or_path: str | Path, num_classes: int) -> list[str]:
    """Read the class names of a vocabulary: the first text of every class, see `load_synonyms`."""
    return [texts[0] for texts in load_synonyms(name_or_path, num_classes)]


def load_synonyms(name_or_path: str | Path, num_classes: int) -> list[ClassTexts]:
    """Read the class texts of a vocabulary.

    Lines that begin with `#` are comments; superfluous blanks are dropped. Line k belongs to train id k, and may hold
    several texts for its class with semicolons between them, of which the first is the name of the class.

    Args:
        name_or_path: name of a vocabulary in this package (`known_vocabularies`), or path of a UTF-8 text file.
        num_classes: number C of classes that the vocabulary must have.

    Returns:
        of each of C classes, one or more distinct, non-empty texts.

    Raises:
        ValueError: neither a known name nor a file, an empty line or text, a text that occurs twice (whatever its upper
            and lower case, which CLIP does not see), another number of classes than `num_classes`, or a file that is
            not UTF-8 text.
    """
    classes = _read_file(name_or_path, _TRAINED)
    if len(classes) != num_classes:
        raise ValueError(
            f"vocabulary {name_or_path} has {len(classes)} class texts but the config has {num_classes} classes: "
            f"make {_TRAINED} and MODEL.SEM_SEG_HEAD.NUM_CLASSES agree."
        )
    return classes


def load_test_vocabulary(value: str) -> list[ClassTexts] | None:
    """Read the classes that TEST.VOCABULARY names.

    Args:
        value: of the key: names with semicolons between them, or what `load_synonyms` reads.

    Returns:
        of each class, its texts; None for "", the trained classes.

    Raises:
        ValueError: see `load_synonyms`; or there are fewer than 2 or more than 254 classes.
    """
    if not value:
        return None
    if ";" in value:
        names = enumerate(value.split(";"), start=1)
        classes = _distinct(((number, (name,)) for number, name in names), _TESTED, "name")
    else:
        classes = _read_file(value, _TESTED)
    if not 2 <= len(classes) <= _MOST:
        raise ValueError(f"{_TESTED} has {len(classes)} classes: name 2 to {_MOST}.")
    return classes


def read_classes(path: Path) -> list[ClassTexts]:
    """Read a file of classes, however many, which looks as `load_synonyms` says.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: see `load_synonyms`; or there is no class.
    """
    if not path.is_file():
        raise FileNotFoundError(f"class-name file {path} does not exist: write one class name per line into it.")
    try:
        classes = _parse(str(path), path.read_bytes())
    except OSError as error:
        raise OSError(f"class-name file {path} cannot be read: {error.strerror}.") from error
    if not classes:
        raise ValueError(f"class-name file {path} holds no class name: write one per line.")
    return classes


def split_texts(rows: Iterable[str], source: str, kind: str) -> list[ClassTexts]:
    """The texts of classes, each given as one or more texts with semicolons between them.

    Args:
        rows: of the classes.
        source: where they come from, for messages.
        kind: what one of them is there, for messages.

    Raises:
        ValueError: a text is empty, occurs twice, or holds what no file can.
    """
    return _distinct(((number, tuple(row.split(";"))) for number, row in enumerate(rows, start=1)), source, kind)


def read_vocabulary(name_or_path: str | Path) -> bytes:
    """The content of a vocabulary's file.

    Args:
        name_or_path: see `load_synonyms`.

    Raises:
        ValueError: neither a known name nor a file.
        OSError: the file cannot be read.
    """
    return _read(name_or_path, _TRAINED)[1]


def same_text(text: str) -> str:
    """What texts that CLIP reads alike have in common: upper and lower case and the width of blanks do not matter."""
    return " ".join(text.casefold().split())


def _read_file(name_or_path: str | Path, key: str) -> list[ClassTexts]:
    return _parse(*_read(name_or_path, key))


def _parse(file: str, content: bytes) -> list[ClassTexts]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"vocabulary {file} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    rows = ((number, tuple(line.split(";"))) for number, line in numbered if not line.startswith("#"))
    return _distinct(rows, f"vocabulary {file}", "line")


def _distinct(rows: Iterable[tuple[int, ClassTexts]], source: str, kind: str) -> list[ClassTexts]:
    """The texts of numbered rows with single blanks between words, if none is empty and none occurs twice."""
    seen: dict[str, int] = {}  # text: number of its row
    classes = []
    for number, row in rows:
        texts = tuple(" ".join(text.split()) for text in row)
        for text in texts:
            if any("\ud800" <= sign <= "\udfff" for sign in text):
                raise ValueError(
                    f"{source}, {kind} {number}: {text!r} is no text, it has half a character (a surrogate)."
                )
            if not text:
                where = f"{kind} {number} is" if len(texts) == 1 else f"a text of {kind} {number} is"
                raise ValueError(f"{source}, {where} empty: write a text for every class, or take the {kind} away.")
            if same_text(text) in seen:
                raise ValueError(
                    f"{source}, {kind} {number}: {text!r} is also {kind} {seen[same_text(text)]}; each class needs its "
                    "own text."
                )
            seen[same_text(text)] = number
        classes.append(texts)
    return classes


def _read(name_or_path: str | Path, key: str) -> tuple[str, bytes]:
    known = known_vocabularies()
    if str(name_or_path) in known:
        file = resources.files("mtaclip.data").joinpath(_FOLDER, f"{name_or_path}{_SUFFIX}")
        return str(file), file.read_bytes()
    if not os.path.isfile(name_or_path):
        names = ", or class names with semicolons between them" if key == _TESTED else ""
        raise ValueError(
            f"{key} is {str(name_or_path)!r}, which is neither a known vocabulary ({', '.join(known)}) nor the path of "
            f"a text file with one class text per line{names}."
        )
    return str(name_or_path), Path(name_or_path).read_bytes()
