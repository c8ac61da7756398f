"""Weight files of every format, whole and damaged: tensors, or one sentence."""

import io
import json
import zipfile

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from mtaclip.checkpoint.files import read_content
from mtaclip.checkpoint.inert import read_inert
from mtaclip.checkpoint.loading import read_checkpoint
from tests.inputs.files import checkpoints
from tests.inputs.mutations import damaged
from tests.inputs.sentences import check_sentence

FILES = st.deferred(lambda: st.sampled_from(list(checkpoints().values())))
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
    (folder / "x.bin").write_bytes(checkpoints()["torch before 1.6"])
    try:
        with cases:
            assert read_checkpoint(folder)["model"]
    except (ValueError, OSError) as error:
        check_sentence(error)
