"""Training curves from metrics.json."""

import json

import pytest

from mtaclip.visualization.curves import draw_curves, read_metrics


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


@pytest.mark.parametrize(("content", "words"), [("", "no scalars"), ("nonsense\n{}\n", "line 1 is not JSON")])
def test_damaged_files_are_named(tmp_path, content, words):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=rf"metrics\.json.*{words}"):
        read_metrics(tmp_path / "metrics.json")
