"""Training curves from metrics.json."""

import json

import pytest

from mtaclip.visualization.curves import draw_curves, read_metrics
from projects.MTACLIP.tools.draw_curves import main


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_what_a_resumed_run_repeats_replaces_what_it_had_written(tmp_path):
    file = tmp_path / "metrics.json"
    write(file, *({"iteration": i, "loss_ce": 10.0 - i} for i in (0, 1, 2, 3)))
    with file.open("a") as lines:
        lines.write(json.dumps({"iteration": 2, "loss_ce": 1.5}) + "\n" + '{"iteration": 3, "los')
    assert read_metrics(file) == {"loss_ce": ([0, 1, 2], [10.0, 9.0, 1.5])}


def test_a_picture_is_drawn(tmp_path):
    file = tmp_path / "metrics.json"
    write(file, {"iteration": 0, "loss_ce": 2.0, "lr": 0.1}, {"iteration": 1, "sem_seg/mIoU": 3.0, "loss_ce_1": 9.0})
    draw_curves(file, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_metrics_alone_become_a_picture(tmp_path, capsys):
    write(tmp_path / "metrics.json", {"iteration": 0, "loss_ce": 2.0}, {"iteration": 1, "loss_ce": 1.0})
    assert main([str(tmp_path / "metrics.json"), "--output", str(tmp_path / "losses.svg")]) == 0
    assert "<svg" in (tmp_path / "losses.svg").read_text()
    assert main([str(tmp_path / "metrics.json")]) == 0 and (tmp_path / "curves.png").is_file()
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "none.json")])
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no scalars"),
        ("nonsense\n{}\n", "line 1 is not JSON"),
        ("[" * 200_000 + "\n{}\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is not what a run writes"),
        ('{"loss_ce": "low", "iteration": 1}\n', "line 1 is not what a run writes"),
        ('{"loss_ce": 1.0}\n', "line 1 has no iteration"),
        ('{"loss_ce": 1.0, "iteration": 1e308}\n', r"line 1: 1e\+308 is no iteration"),
        ('{"loss_ce": 1.0, "iteration": -1}\n', r"line 1: -1\.0 is no iteration"),
        ('{"loss_ce": 1.0, "iteration": NaN}\n', "line 1: nan is no iteration"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, words):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=rf"metrics\.json.*{words}"):
        read_metrics(tmp_path / "metrics.json")
