"""Class files, and class names in a config: classes that differ, or one sentence."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtaclip.data.vocabulary import (
    known_vocabularies,
    load_synonyms,
    load_test_vocabulary,
    read_classes,
    same_text,
    split_texts,
)

WORDS = st.text(st.sampled_from(" ;#\n\r\t\x00\x0b\x1c\x85\u2028\ufeffaAbß\u0130\ud800"), max_size=20) | st.text(
    max_size=20
)
CONTENTS = st.binary(max_size=60) | WORDS.map(lambda text: text.encode("utf-8", "surrogatepass"))


def check_classes(classes):
    texts = [text for group in classes for text in group]
    assert all(text == " ".join(text.split()) and text for text in texts)
    assert len({same_text(text) for text in texts}) == len(texts)


def check_sentence(error):
    message = str(error)
    assert message.endswith(".") and len(message.splitlines()) == 1, message
    message.encode("utf-8")


@given(content=CONTENTS, num_classes=st.integers(1, 4))
def test_a_class_file_is_classes_or_a_sentence(write, cases, content, num_classes):
    path = write(content, "classes.txt")
    try:
        with cases:
            classes = read_classes(path)
    except ValueError as error:
        check_sentence(error)
        with pytest.raises(ValueError):
            load_test_vocabulary(str(path))
    else:
        check_classes(classes)
        if len(classes) == num_classes:
            assert load_synonyms(path, num_classes) == classes
            return
    with pytest.raises(ValueError) as failure:
        load_synonyms(path, num_classes)
    check_sentence(failure.value)


@example(value="\x1b[2J")
@given(value=WORDS | st.sampled_from(known_vocabularies()))
def test_a_test_vocabulary_is_classes_or_a_sentence(cases, value):
    try:
        with cases:
            classes = load_test_vocabulary(value)
    except (ValueError, OSError) as error:
        check_sentence(error)
    else:
        assert (classes is None) == (value == "")
        check_classes(classes or [])


@example(rows=["\ud800", "\ud800"])
@given(rows=st.lists(WORDS, max_size=5))
def test_class_names_are_classes_or_a_sentence(cases, rows):
    try:
        with cases:
            classes = split_texts(rows, "DATASETS.FOLDER.NAMES", "name")
    except ValueError as error:
        check_sentence(error)
    else:
        assert len(classes) == len(rows)
        check_classes(classes)
