"""Weight files of every format, whole and damaged: tensors, or one sentence."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from mtaclip.checkpoint.files import read_content
from mtaclip.checkpoint.inert import read_inert
from mtaclip.checkpoint.loading import read_checkpoint
from tests.inputs.mutations import damaged
from tests.inputs.sentences import check_sentence


class Setting:
    """An object that is neither a tensor nor a plain value."""


@cache
def whole_files() -> dict[str, bytes]:
    """One small file of every format."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
    state = dict(model.state_dict())

    def written(content: object, **how: bool) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, **how)
        return file.getvalue()

    script = io.BytesIO()
    torch.jit.save(torch.jit.script(model), script)
    arrays = {"model": {name: tensor.numpy() for name, tensor in state.items()}, "__author__": "x"}
    return {
        "torch": written({"model": state, "iteration": 3}),
        "torch before 1.6": written({"state_dict": state}, _use_new_zipfile_serialization=False),
        "objects": written({"model": OrderedDict(state), "meta": np.float64(3), "names": Setting}),
        "torchscript": script.getvalue(),
        "safetensors": save(state, {"format": "pt"}),
        "pickle 2": pickle.dumps(arrays, protocol=2),
        "pickle 4": pickle.dumps(arrays, protocol=4),
        "no dict": written([1, 2]),
        "other keys": written({"model": {3: torch.zeros(1), ("a",): torch.zeros(2)}}),
        "json": json.dumps({"weight_map": {"a": "b"}}).encode(),
    }


FILES = st.deferred(lambda: st.sampled_from(list(whole_files().values())))
NAMES = st.sampled_from(("weights.pth", "weights.pkl", "weights.safetensors", "weights", "weights.npz"))


@given(content=damaged(FILES) | st.binary(max_size=80), name=NAMES)
def test_a_weight_file_is_tensors_or_a_sentence(write, cases, content, name):
    path = write(content, name)
    for read in (read_content, read_inert, read_checkpoint):
        try:
            with cases:
                found = read(path)
        except (ValueError, OSError) as error:
            check_sentence(error)
            assert str(path) in str(error)
            continue
        assert isinstance(found, dict)
        if read is read_checkpoint:
            assert found["model"] and all(isinstance(key, str) for key in found["model"])
            assert all(isinstance(value, Tensor) for value in found["model"].values())


def test_compressed_tensors_are_refused_before_they_fill_the_memory(write):
    file, compressed = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"a": torch.zeros(100_000)}}, file)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="weights.pth.*its tensors would be larger than the file"):
        read_content(write(compressed.getvalue(), "weights.pth"))


@example(header={"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}})
@example(header={"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"model": "x"}})
@given(
    header=st.dictionaries(
        st.sampled_from(("a", "b", "__metadata__")),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(("F32", "F8_E5M2", "I64", "BOOL", "X", 3)),
                "shape": st.lists(st.integers(-1, 2**63), max_size=3) | st.none(),
                "data_offsets": st.tuples(st.integers(-1, 2**64), st.integers(0, 2**64)) | st.just((0, 4)),
            }
        )
        | st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers()),
    )
)
def test_a_header_of_safetensors_is_tensors_or_a_sentence(write, cases, header):
    text = json.dumps(header).encode()
    path = write(len(text).to_bytes(8, "little") + text + bytes(4), "weights.safetensors")
    try:
        with cases:
            read_checkpoint(path)
    except ValueError as error:
        check_sentence(error)


@given(
    index=damaged(st.just(b'{"weight_map": {"a": "x.bin", "b": "x.bin"}}'))
    | st.recursive(
        st.none()
        | st.integers()
        | st.text(max_size=8)
        | st.sampled_from(("x.bin", "../x.bin", "", ".", "\0", "model.safetensors.index.json")),
        lambda values: (
            st.lists(values, max_size=2)
            | st.dictionaries(st.just("weight_map") | st.text(max_size=4), values, max_size=2)
        ),
        max_leaves=5,
    ).map(lambda tree: json.dumps(tree).encode())
)
@example(index=b"[" * 100_000)
@example(index=b'{"weight_map": {"a": "\\u0000"}}')
@example(index=b'{"weight_map": {"a": "model.safetensors.index.json"}}')
def test_an_index_of_weight_files_is_tensors_or_a_sentence(write, cases, index):
    folder = write(index, "model.safetensors.index.json").parent
    (folder / "x.bin").write_bytes(whole_files()["torch before 1.6"])
    try:
        with cases:
            assert read_checkpoint(folder)["model"]
    except (ValueError, OSError) as error:
        check_sentence(error)
