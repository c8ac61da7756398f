import json
import re
from html.parser import HTMLParser

import pytest

from projects.MTACLIP.compare import main

PROGRAM = "projects/MTACLIP/compare.py"


def write_scores(folder, scores: dict, dataset: str = "val", names: tuple[str, ...] = ("road", "<sky>")):
    folder.mkdir(exist_ok=True)
    content = {"dataset": dataset, "num_images": 7, "scores_percent": scores, "class_names": names}
    file = folder / f"scores_{dataset}.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def runs(tmp_path):
    write_scores(tmp_path / "first", {"mIoU": 50.0, "pACC": 80.0, "IoU-road": 60.0, "IoU-<sky>": 40.0})
    write_scores(tmp_path / "second", {"mIoU": 52.5, "pACC": 79.0, "IoU-road": 61.0, "IoU-<sky>": 44.0})
    write_scores(tmp_path / "third", {"mIoU": 30.0, "pACC": 80.0, "IoU-road": 30.0, "IoU-<sky>": None})
    return tmp_path


def table_rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]


def test_markdown_and_page_show_the_differences_to_the_first_run(runs, run_script):
    page = runs / "page.html"
    third = runs / "third" / "scores_val.json"
    done = run_script(PROGRAM, runs / "first", runs / "second", third, "--html", page)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert ["second", "val", "7"] in rows
    heads = ["first", "second", "difference", "third", "difference"]
    assert ["mean", *heads] in rows and ["class", *heads] in rows
    assert ["mIoU", "50.00", "52.50", "+2.50", "30.00", "-20.00"] in rows
    assert ["pACC", "80.00", "79.00", "-1.00", "80.00", "0.00"] in rows
    # road differs by up to 30, sky by 4.
    assert rows[-2:] == [
        ["road", "60.00", "61.00", "+1.00", "30.00", "-30.00"],
        [r"\<sky\>", "40.00", "44.00", "+4.00", "-", "-"],
    ]
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = texts.append
    parser.feed(page.read_text(encoding="utf-8"))
    assert texts[texts.index("mIoU") :][:6] == ["mIoU", "50.00", "52.50", "+2.50", "30.00", "-20.00"]
    assert "<sky>" in texts


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_scores(tmp_path / folder / "run", {"mIoU": 50.0})
    assert main([str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]) == 0
    assert f"differences to {tmp_path / 'a' / 'run'}.".replace("_", "\\_") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: None, r"second: there is no such folder or file"),
        (lambda folder: folder.mkdir(), r"second: there is no scores_\*\.json in this folder"),
        (lambda folder: write_scores(folder, {}, names=("road", "sea")), r"different classes \('<sky>'"),
        (lambda folder: write_scores(folder, {}).write_text('{"a'), r"scores_val\.json: damaged"),
        (lambda folder: write_scores(folder, {}).write_bytes(b"\xff"), r"scores_val\.json: damaged"),
        (lambda folder: write_scores(folder, {}).write_text("[" * 200_000), r"scores_val\.json: damaged"),
        (lambda folder: write_scores(folder, {}).write_text("[1]"), r"scores_val\.json: this is not a file of scores"),
        (lambda folder: write_scores(folder, {"mIoU": "much"}), r"scores_val\.json: this is not a file of scores"),
        (lambda folder: write_scores(folder, {"mIoU": 10**400}), r"scores_val\.json: this is not a file of scores"),
        (
            lambda folder: [write_scores(folder, {}, dataset=name) for name in ("val", "test")],
            r"several datasets \(test, val\); choose one with --dataset",
        ),
    ],
    ids=["missing", "empty", "classes", "truncated", "binary", "nested", "list", "text", "huge", "several"],
)
def test_a_wrong_input_ends_in_a_sentence(tmp_path, capsys, damage, message):
    write_scores(tmp_path / "first", {"mIoU": 50.0})
    damage(tmp_path / "second")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "first"), str(tmp_path / "second")])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.search(message, line), line


def test_a_dataset_is_chosen(tmp_path, capsys):
    for folder, score in (("first", 50.0), ("second", 60.0)):
        write_scores(tmp_path / folder, {"mIoU": 1.0}, dataset="test")
        write_scores(tmp_path / folder, {"mIoU": score})
    assert main([str(tmp_path / "first"), str(tmp_path / "second"), "--dataset", "val"]) == 0
    assert ["mIoU", "50.00", "60.00", "+10.00"] in table_rows(capsys.readouterr().out)


def test_a_page_that_cannot_be_written_is_named(tmp_path, capsys):
    write_scores(tmp_path / "first", {"mIoU": 50.0})
    (tmp_path / "page.html").mkdir()
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "first"), str(tmp_path / "first"), "--html", str(tmp_path / "page.html")])
    assert stop.value.code == 1
    assert f"{tmp_path / 'page.html'}: not written" in capsys.readouterr().err
