"""Checkpoints: safe to read, complete or refused, never half written."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mtaclip.checkpoint import Checkpointer, load_weights
from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.checkpoint.released import convert_released
from mtaclip.engine import setup_cfg
from mtaclip.modeling.build import build_model


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_round_trip_with_optimizer(tmp_path):
    first = model()
    optimizer = torch.optim.AdamW(first.parameters())
    first(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    Checkpointer(first, str(tmp_path), optimizer=optimizer).save("model_0000001", iteration=1)
    content = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert content["iteration"] == 1 and (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"

    second = model()
    other = torch.optim.AdamW(second.parameters())
    rest = Checkpointer(second, str(tmp_path), optimizer=other).resume_or_load("", resume=True)
    assert rest["iteration"] == 1
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_the_best_model_is_not_what_a_run_resumes_from(tmp_path):
    checkpointer = Checkpointer(model(), str(tmp_path))
    checkpointer.save("model_0000009", iteration=9)
    checkpointer.save("model_best", tag=False, iteration=4)
    assert checkpointer.get_checkpoint_file().endswith("model_0000009.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    checkpointer = Checkpointer(model(), str(tmp_path))
    checkpointer.save("model", iteration=1)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpointer.save("model", iteration=2, unpicklable=lambda: None)
    assert read_checkpoint(tmp_path / "model.pth")["iteration"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_resuming_needs_the_optimizer(tmp_path):
    Checkpointer(model(), str(tmp_path)).save("model")
    trained = model()
    checkpointer = Checkpointer(trained, str(tmp_path), optimizer=torch.optim.SGD(trained.parameters(), 0.1))
    with pytest.raises(ValueError, match=r"model\.pth.*no optimizer"):
        checkpointer.resume_or_load("", resume=True)


def test_bare_state_dicts_and_mmengine_files_load(tmp_path):
    saved = model()
    torch.nn.init.ones_(saved[0].weight)
    for content in (saved.state_dict(), {"state_dict": saved.state_dict(), "meta": {"epoch": 1}}):
        torch.save(content, tmp_path / "weights.pth")
        loaded = model()
        load_weights(loaded, tmp_path / "weights.pth")
        assert torch.equal(loaded[0].weight, saved[0].weight)


def test_what_does_not_fit_is_named(tmp_path):
    state = model().state_dict()
    state["0.weight"] = torch.zeros(5, 3)
    state["2.weight"] = state.pop("0.bias")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError) as error:
        load_weights(model(), tmp_path / "other.pth")
    for words in ("other.pth", "0.weight (5, 3) instead of (4, 3)", "missing (0.bias)", "unexpected (2.weight)"):
        assert words in str(error.value)


def test_a_checkpoint_without_the_text_side_says_what_it_is(config_path, tmp_path):
    cfgs = [setup_cfg(config_path(f"miniature/{name}_tiny.yaml"), device="cpu") for name in ("mtaclip", "mask2former")]
    with_texts, without = (build_model(cfg) for cfg in cfgs)
    torch.save({"model": without.state_dict()}, tmp_path / "baseline.pth")
    with pytest.raises(
        ValueError,
        match=r"baseline\.pth .*it has no weights for the text side.*TEXT\.ENABLED False\)",
    ):
        load_weights(with_texts, tmp_path / "baseline.pth")
    load_weights(without, tmp_path / "baseline.pth")
    torch.save({"model": with_texts.state_dict()}, tmp_path / "texts.pth")
    with pytest.raises(ValueError, match=r"texts\.pth .*it has weights for the text side.*TEXT\.ENABLED True\)"):
        load_weights(without, tmp_path / "texts.pth")
    broken = without.state_dict() | {"pixel_decoder.level_embedding": torch.zeros(1)}
    torch.save({"model": broken}, tmp_path / "baseline.pth")
    with pytest.raises(ValueError, match=r"baseline\.pth .*pixel_decoder\.level_embedding \(1,\) instead of"):
        load_weights(with_texts, tmp_path / "baseline.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sem_seg_head.predictor.query_feat.weight", r"convert_checkpoint\.py --from mask2former"),
        ("model.pixel_level_module.encoder.x", r"convert_checkpoint\.py --from maskformer-hf"),
        ("visual.conv1.weight", r"MODEL\.CLIP\.PRETRAINED"),
        ("vision_model.embeddings.class_embedding", r"MODEL\.CLIP\.PRETRAINED"),
        ("encoder.weight", r"1 tensors unexpected \(encoder\.weight\)"),
    ],
)
def test_weights_of_other_projects_say_where_they_belong(tmp_path, name, words):
    torch.save({name: torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth does not fit the model: .*{words}"):
        load_weights(model(), tmp_path / "other.pth")


def test_numbers_of_another_kind_are_refused(tmp_path):
    torch.save({name: tensor.to(torch.int8) for name, tensor in model().state_dict().items()}, tmp_path / "int.pth")
    with pytest.raises(ValueError, match=r"0\.weight torch\.int8 instead of torch\.float32"):
        load_weights(model(), tmp_path / "int.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pth: not a checkpoint"):
        read_checkpoint(tmp_path / "broken.pth")


class Trap:
    def __reduce__(self):
        return open, ("/dev/null",)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"model": {"x": Trap()}}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap\.pth"):
        read_checkpoint(tmp_path / "trap.pth")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS.*nowhere\.pth"):
        load_weights(model(), "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"'https://nowhere/model\.pth'; weights are not downloaded"):
        Checkpointer(model()).resume_or_load("https://nowhere/model.pth", resume=False)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["decode_head.query_feat.weight"], ["decoder.query_content"]),
        (["backbone.conv1.weight"], ["backbone.tower.conv1.weight"]),
        (
            ["backbone.class_embedding", "backbone.conv1.weight", "backbone.fpn2.1.bias"],
            ["backbone.class_embedding", "backbone.patch_embedding.weight", "backbone.pyramid.res3.1.bias"],
        ),
        (["gamma"], []),
    ],
)
def test_released_names(names, expected):
    assert list(convert_released(dict.fromkeys(names, torch.zeros(1))).state) == expected


def test_an_unknown_released_name_is_named(tmp_path):
    torch.save({"decode_head.unheard_of": torch.zeros(1)}, tmp_path / "released.pth")
    with pytest.raises(ValueError, match=r"released\.pth: .*decode_head\.unheard_of"):
        read_checkpoint(tmp_path / "released.pth")


def small_run(folder, iterations: int) -> Checkpointer:
    """A folder with checkpoints of iterations 0, 1, ..., the last one tagged."""
    checkpointer = Checkpointer(model(), str(folder))
    for iteration in range(iterations):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        os.utime(folder / f"model_{iteration:07d}.pth", (-iteration, -iteration))  # the clock ran backwards
    return checkpointer


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Change one byte in the middle, as a failing disk does."""
    content = bytearray(path.read_bytes())
    content[content.find(b"archive/data/0" if b"archive/data/0" in content else b"/data/0") + 80] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "word"), [(cut, "damaged"), (flip, "damaged"), (lambda path: path.unlink(), "missing")]
)
def test_a_damaged_newest_file_gives_way_to_the_one_before(tmp_path, caplog, harm, word):
    checkpointer = small_run(tmp_path, 3)
    harm(tmp_path / "model_0000002.pth")
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"model_0000002.pth: {word}" in warning and "going on from" in warning and "model_0000001.pth" in warning


def test_files_of_another_run_come_last(tmp_path):
    """A new run began in the folder of an old one, which had come further."""
    checkpointer = small_run(tmp_path, 4)
    checkpointer.tag_last_checkpoint("model_0000002.pth")
    cut(tmp_path / "model_0000002.pth")
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1


def test_the_latest_iteration_is_taken_where_nothing_is_tagged(tmp_path, caplog):
    """Whatever the times of the files say: a run that was killed before its first tag, or a folder that was copied."""
    checkpointer = small_run(tmp_path, 2)
    checkpointer.save("model_best", tag=False, iteration=0)
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.has_checkpoint()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert "last_checkpoint: missing" in caplog.text


@pytest.mark.parametrize("tag", [b"\xff\xfe\0m", b"x" * 300], ids=["no text", "no name"])
def test_a_damaged_tag_is_as_none(tmp_path, caplog, tag):
    checkpointer = small_run(tmp_path, 2)
    (tmp_path / "last_checkpoint").write_bytes(tag)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert "missing" in caplog.text and "model_0000001.pth" in caplog.text


def test_nothing_complete_is_an_error_and_not_a_fresh_start(tmp_path):
    checkpointer = small_run(tmp_path, 2)
    for file in tmp_path.glob("*.pth"):
        cut(file)
    with pytest.raises(ValueError, match=r"no complete checkpoint \(.*model_0000001\.pth.*model_0000000\.pth"):
        checkpointer.resume_or_load("", resume=True)


def test_an_older_file_can_be_tagged_by_hand(tmp_path):
    checkpointer = small_run(tmp_path, 3)
    checkpointer.tag_last_checkpoint("model_0000000.pth")
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 0


def test_the_optimizer_of_another_model_is_refused_by_name(tmp_path):
    first = model()
    Checkpointer(first, str(tmp_path), optimizer=torch.optim.AdamW(first.parameters())).save("model_0000000")
    second = model()
    groups = [{"params": [parameter]} for parameter in second.parameters()]
    checkpointer = Checkpointer(second, str(tmp_path), optimizer=torch.optim.AdamW(groups))
    with pytest.raises(ValueError, match=r"model_0000000\.pth cannot be resumed from: its optimizer does not fit"):
        checkpointer.resume_or_load("", resume=True)


WRITER = """
import sys, torch, mtaclip
from mtaclip.checkpoint import Checkpointer
model = torch.nn.Linear(4000, 2000)  # 32 MB
checkpointer = Checkpointer(model, sys.argv[1])
for iteration in range(10**6):
    torch.nn.init.constant_(model.weight, iteration)
    checkpointer.save(f"model_{iteration % 3:07d}", iteration=iteration)
"""


def test_a_kill_in_the_middle_of_a_write_costs_that_write_only(tmp_path):
    """Killed while the fourth file or a later one takes the place of an older one."""
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], cwd=Path(__file__).parents[2])
        partial = [folder / f".model_{number:07d}.pth.{process.pid}.partial" for number in range(3)]
        while not ((folder / "model_0000002.pth").exists() and any(map(Path.exists, partial))):
            assert process.poll() is None
            time.sleep(0.0005)
        process.kill()
        process.wait()
        left = [path for path in partial if path.exists()]
        if left:
            break
    assert left, "never hit a write"
    restored = torch.nn.Linear(4000, 2000)
    checkpointer = Checkpointer(restored, str(folder))
    iteration = checkpointer.resume_or_load("", resume=True)["iteration"]
    assert iteration >= 2 and torch.equal(restored.weight, torch.full_like(restored.weight, iteration))
    files = {path.name: read_checkpoint(path)["iteration"] for path in folder.glob("model_*.pth")}
    assert len(files) == 3 and max(files.values()) - iteration <= 1, "the tag follows the file at once"
    checkpointer.remove_partial_files()
    assert not list(folder.glob("*.partial"))
