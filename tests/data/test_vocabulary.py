"""Class texts: the packaged ones are the datasets' own, and files of the user's are checked line by line."""

from pathlib import Path

import pytest
import torch
from cityscapesscripts.helpers.labels import trainId2label

from mtaclip.data.vocabulary import known_vocabularies, load_synonyms, load_test_vocabulary, load_vocabulary

ORACLE = Path(__file__).parents[1] / "oracles" / "data" / "oracle_text.pt"


def test_cityscapes_is_the_official_table():
    assert load_vocabulary("cityscapes", 19) == [trainId2label[train_id].name for train_id in range(19)]


def test_ade20k_in_train_id_order():
    texts = load_vocabulary("ade20k", 150)
    assert texts[:3] == ["wall", "building", "sky"]
    assert (texts[7], texts[20], texts[127], texts[149]) == ("bed", "car", "bicycle", "flag")


@pytest.mark.skipif(not ORACLE.is_file(), reason=f"no {ORACLE.name}")
def test_ade20k_is_what_the_reference_numbers_were_computed_with():
    names = torch.load(ORACLE, weights_only=True)["ade20k_class_names_plus_none"]
    assert load_vocabulary("ade20k", 150) == [name.strip() for name in names[:-1]]


def test_known_vocabularies():
    assert known_vocabularies() == ["ade20k", "cityscapes"]


def test_a_file_of_the_users_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("# rooms\nkitchen \n  living room\n# end\n", encoding="utf-8")
    assert load_vocabulary(file, 2) == ["kitchen", "living room"]
    assert load_vocabulary(str(file), 2) == ["kitchen", "living room"]


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'coco', which is neither a known vocabulary \(ade20k, cityscapes\) nor the pa"
    ):
        load_vocabulary("coco", 80)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\nc\n", "has 3 class texts but the config has 2 classes"),
        ("a\n\nb\n", "line 2 is empty"),
        ("a\n# b\na\n", "line 3: 'a' is also line 1"),
        ("traffic light\nTraffic  Light\n", "line 2: 'Traffic Light' is also line 1"),
        ("a; b\nc; b\n", "line 2: 'b' is also line 1"),
        ("a; a\nb\n", "line 1: 'a' is also line 1"),
        ("a\nb;\n", "a text of line 2 is empty"),
    ],
)
def test_wrong_files_name_the_file_and_the_line(tmp_path, content, message):
    file = tmp_path / "mine.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_vocabulary(file, 2)
    assert str(file) in str(error.value)


def test_files_that_are_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes("stra\xdfe".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.txt is not UTF-8"):
        load_vocabulary(tmp_path / "latin.txt", 1)


def test_a_line_may_hold_synonyms(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffcar;  automobile ;auto\nroad\n", encoding="utf-8")  # some editors begin files like that
    assert load_synonyms(file, 2) == [("car", "automobile", "auto"), ("road",)]
    assert load_vocabulary(file, 2) == ["car", "road"]


def test_classes_of_a_test_are_names_or_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text("car; auto\n# none\nroad\n")
    assert load_test_vocabulary("") is None
    assert load_test_vocabulary("road; tram ;puddle") == [("road",), ("tram",), ("puddle",)]
    assert load_test_vocabulary(str(tmp_path / "mine.txt")) == [("car", "auto"), ("road",)]
    assert len(load_test_vocabulary("cityscapes")) == 19
    assert len(load_test_vocabulary("; ".join(f"a name that has number {n}" for n in range(254)))) == 254


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("road;; tram", "TEST.VOCABULARY, name 2 is empty"),
        ("road; tram; ROAD", "TEST.VOCABULARY, name 3: 'ROAD' is also name 1"),
        ("road", "TEST.VOCABULARY is 'road', which is neither a known vocabulary .* with semicolons between them"),
        ("; ".join(map(str, range(255))), "TEST.VOCABULARY has 255 classes: name 2 to 254"),
        ("road; \ud800", r"TEST.VOCABULARY, name 2: '\\ud800' is no text"),
    ],
)
def test_wrong_classes_of_a_test_name_the_key(value, message):
    with pytest.raises(ValueError, match=message):
        load_test_vocabulary(value)


@pytest.mark.parametrize(
    ("content", "message"), [("", "has 0 classes"), ("road\n", "has 1 classes"), ("a;\nb", "line 1")]
)
def test_wrong_files_of_a_test(tmp_path, content, message):
    (tmp_path / "mine.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_test_vocabulary(str(tmp_path / "mine.txt"))
