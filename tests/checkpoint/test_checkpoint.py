"""Checkpoints: safe to read, complete or refused, never half written."""

import pickle

import pytest
import torch

from mtaclip.checkpoint import Checkpointer, load_weights
from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.checkpoint.released import convert_released, released_name


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


def test_released_names():
    assert released_name("decode_head.query_feat.weight", False) == "decoder.query_content"
    assert released_name("backbone.conv1.weight", False) == "backbone.tower.conv1.weight"
    assert released_name("backbone.conv1.weight", True) == "backbone.patch_embedding.weight"
    assert released_name("backbone.fpn2.1.bias", True) == "backbone.pyramid.res3.1.bias"
    assert released_name("gamma", False) is None
    with pytest.raises(ValueError, match=r"decode_head\.unheard_of"):
        convert_released({"decode_head.unheard_of": torch.zeros(1)})
