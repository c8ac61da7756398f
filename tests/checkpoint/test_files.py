"""Weight files of every format: told by content, read without running code, refused in one sentence."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mtaclip.checkpoint.files import format_of, read_content, read_state
from mtaclip.checkpoint.loading import read_checkpoint


def tower() -> torch.nn.Module:
    """Parameters and buffers, nested, some without the default data type."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)).half())
    model.register_buffer("input_resolution", torch.tensor(224))
    return model.eval()


def save(model: torch.nn.Module, how: str, path: Path) -> None:
    """Write the tensors of a model in one of the formats that people have."""
    state = model.state_dict()
    if how == "torch":
        torch.save(state, path)
    elif how == "torch before 1.6":
        torch.save({"model": state, "iteration": 1}, path, _use_new_zipfile_serialization=False)
    elif how == "several processes":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    elif how == "safetensors":
        save_file(state, path)
    elif how == "script":
        torch.jit.script(model).save(str(path))
    elif how == "trace":
        torch.jit.trace(torch.nn.Sequential(model[0], model[1].float()), torch.zeros(1, 3, 2, 2)).save(str(path))


FORMATS = ["torch", "torch before 1.6", "several processes", "safetensors", "script"]


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors", "weights"])
def test_a_file_is_known_by_its_content(tmp_path, how, name):
    model = tower()
    save(model, how, tmp_path / name)
    state = read_state(tmp_path / name)
    assert state.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert state[key].dtype == tensor.dtype and torch.equal(state[key], tensor), key
    formats = {"safetensors": "safetensors", "script": "torchscript"}
    assert format_of(tmp_path / name) == formats.get(how, "torch")


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
def test_a_traced_archive(tmp_path):
    model = tower()
    save(model, "trace", tmp_path / "traced.pt")
    state = read_state(tmp_path / "traced.pt")
    assert torch.equal(state["0.weight"], model[0].weight) and state.keys() == {
        *(f"0.{name}" for name in model[0].state_dict()),
        *(f"1.{name}" for name in model[1].state_dict()),
    }


def test_tensors_that_share_a_storage_or_are_transposed(tmp_path):
    model = torch.nn.Module()
    whole = torch.arange(12.0).view(3, 4)
    model.register_buffer("row", whole[1])
    model.register_buffer("transposed", whole.T)
    model.register_buffer("empty", torch.zeros(0, 3))
    torch.jit.script(model).save(str(tmp_path / "shared.pt"))
    state = read_state(tmp_path / "shared.pt")
    assert state["row"].tolist() == [4, 5, 6, 7] and torch.equal(state["transposed"], whole.T)
    assert state["empty"].shape == (0, 3)


def test_the_metadata_of_safetensors_comes_with_a_checkpoint(tmp_path):
    save_file(tower().state_dict(), tmp_path / "model.safetensors", metadata={"config": "MODEL: {}", "model": "mine"})
    content = read_checkpoint(tmp_path / "model.safetensors")
    assert content["config"] == "MODEL: {}" and content["model"].keys() == tower().state_dict().keys()


def test_safetensors_that_begin_like_a_pickle(tmp_path):
    """The length of their header is what they begin with; 0x80 begins pickles, too."""
    beginnings = set()
    for length in range(1, 17):
        save_file({"x" * (8 * length): torch.ones(2)}, tmp_path / "model.safetensors")
        beginnings.add((tmp_path / "model.safetensors").read_bytes()[0])
        assert read_state(tmp_path / "model.safetensors").keys() == {"x" * (8 * length)}
    assert 0x80 in beginnings


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_folders_in_several_files(tmp_path, ending):
    state = tower().state_dict()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    write = save_file if ending == "safetensors" else torch.save
    names = {key: f"{stem}-0000{1 + number % 2}-of-00002.{ending}" for number, key in enumerate(state)}
    for name in set(names.values()):
        write({key: tensor for key, tensor in state.items() if names[key] == name}, tmp_path / name)
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert read_state(tmp_path).keys() == state.keys()

    (tmp_path / f"{stem}-00002-of-00002.{ending}").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json: names .*-00002-of-00002.*not there"):
        read_state(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(ValueError, match=r"outside of its folder, '\.\./\.\./etc/passwd'"):
        read_state(tmp_path)
    for broken in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'):
        index.write_text(broken)
        with pytest.raises(ValueError, match=r"index\.json: not an index"):
            read_state(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no weights; one of model\.safetensors"):
        read_state(tmp_path)


@pytest.mark.parametrize("how", FORMATS)
def test_a_truncated_file_is_named(tmp_path, how):
    path = tmp_path / "cut.pth"
    save(tower(), how, path)
    content = path.read_bytes()
    for length in (1, 5, 9, 40, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pth: not a checkpoint") as error:
            read_content(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"hello, this is a text", "neither PyTorch nor safetensors"),
    ],
)
def test_what_is_no_weight_file_at_all(tmp_path, content, words):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.pth: not a checkpoint, .*{words}"):
        read_content(tmp_path / "model.pth")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def hostile(how: str, path: Path, payload: Payload) -> None:
    """A file whose pickle makes a file when it is run."""
    pickled = pickle.dumps({"weight": payload}, protocol=2)
    if how == "pickle":
        path.write_bytes(pickled)
    elif how == "torch":
        torch.save({"weight": payload}, path)
    elif how == "torch before 1.6":
        torch.save({"weight": payload}, path, _use_new_zipfile_serialization=False)
    else:
        save(tower(), "script", path)
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, pickled if name.endswith("/data.pkl") else content)


@pytest.mark.parametrize("how", ["pickle", "torch", "torch before 1.6", "script"])
def test_nothing_in_a_hostile_file_is_run(tmp_path, how):
    harm, path = tmp_path / "harm", tmp_path / "hostile.pth"
    hostile(how, path, Payload(harm))
    with pytest.raises(ValueError, match=r"hostile\.pth: not a checkpoint") as error:
        read_content(path)
    assert not harm.exists()
    if how == "script":
        assert "it refers to posix.system" in str(error.value)
        with pytest.raises(ValueError, match="refers to posix"):
            read_content(path, allow_pickle=True)
        assert not harm.exists(), "an archive of TorchScript needs no other objects"
    else:
        assert "any code with your rights" in str(error.value) and "MODEL.WEIGHTS_ALLOW_PICKLE True" in str(error.value)


def test_a_hostile_archive_cannot_read_beyond_its_storages(tmp_path):
    save(tower(), "script", tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    storage = max((name for name in files if "/data/" in name), key=lambda name: len(files[name]))
    files[storage] = files[storage][:-4]
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"model\.pt: not a checkpoint"):
        read_content(tmp_path / "model.pt")


def test_a_hostile_archive_cannot_ask_for_countless_tensors(tmp_path):
    """40 modules, each of which holds the one before under two names: 2 ** 40 names."""
    pickled = b"\x80\x02c__torch__\nM\n)\x81}bq\x00"
    for number in range(40):
        memo = bytes([number])
        pickled += b"c__torch__\nM\n)\x81}(X\x01\x00\x00\x00ah" + memo + b"X\x01\x00\x00\x00bh" + memo + b"ubq"
        pickled += bytes([number + 1])
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickled + b".")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    with pytest.raises(ValueError, match=r"model\.pt: not a checkpoint .*another name, too"):
        read_content(tmp_path / "model.pt")


def test_pickled_arrays_are_read_on_demand_only(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.weight": weight}, "__author__": "Caffe2"}, protocol=2))
    with pytest.raises(ValueError, match="MODEL.WEIGHTS_ALLOW_PICKLE True"):
        read_state(path)
    state = read_state(path, allow_pickle=True)
    assert torch.equal(state["stem.weight"], torch.arange(6.0).view(2, 3))


def test_other_objects_of_torch_save_are_read_on_demand_only(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"model": tower().state_dict(), "when": np.float64(3)}, path)
    with pytest.raises(ValueError, match="MODEL.WEIGHTS_ALLOW_PICKLE True"):
        read_content(path)
    assert read_content(path, allow_pickle=True)["when"] == 3
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"old\.pth: not a checkpoint"):
        read_content(path, allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({}, "it is empty"),
        ({"model": {"weight": 3}}, "'weight' is a int"),
        ({"epoch": 1, "w": torch.zeros(1)}, "'epoch' is a int"),
    ],
)
def test_what_holds_no_state_dict(tmp_path, content, words):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model\.pth: .*{words}"):
        read_state(tmp_path / "model.pth")
