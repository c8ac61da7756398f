"""Files that hold more than tensors: what is read of them, and that nothing is run."""

import collections
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mtaclip.checkpoint.files import read_content, state_of
from mtaclip.checkpoint.inert import read_inert


class Payload:
    """Calls a function when it is unpickled by a program that allows everything."""

    def __init__(self, function: Callable, argument: object) -> None:
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


class Log:
    """What a training program may keep."""

    def __init__(self) -> None:
        self.values = np.array([1.0, 2.0])
        self.method = self.mean

    def mean(self) -> float:
        return self.values.mean()


def test_objects_of_a_torch_file_become_inert(tmp_path):
    saved = {"state_dict": {"weight": torch.arange(3.0)}, "log": Log(), "where": Path("x"), "classes": ("a", "b")}
    torch.save(saved, tmp_path / "file.pth")
    content = read_inert(tmp_path / "file.pth")
    assert torch.equal(content["state_dict"]["weight"], torch.arange(3.0)) and content["classes"] == ("a", "b")
    assert not isinstance(content["log"], Log) and vars(content["log"]) == {}
    assert read_inert(tmp_path / "file.pth").keys() == saved.keys()  # nothing is left allowed or forbidden
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file.pth", weights_only=True)


@pytest.mark.parametrize("function", [subprocess.getoutput, eval, os.system])
def test_nothing_is_called(tmp_path, function):
    mark = tmp_path / "called"
    argument = f"open({str(mark)!r}, 'w')" if function is eval else f"touch {mark}"
    saved = {"state_dict": {"weight": torch.ones(1)}, "meta": Payload(function, argument)}
    torch.save(saved, tmp_path / "file.pth")
    if function is os.system:  # PyTorch knows its module and refuses the file
        with pytest.raises(ValueError, match=r"file\.pth: damaged, or it holds pickled objects"):
            read_inert(tmp_path / "file.pth")
    else:
        assert torch.equal(read_inert(tmp_path / "file.pth")["state_dict"]["weight"], torch.ones(1))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        saved = {"model": {"weight": np.ones(1)}, "meta": Payload(function, argument)}
        (tmp_path / "file.pkl").write_bytes(pickle.dumps(saved, protocol))
        with pytest.raises(ValueError, match=r"file\.pkl"):
            read_inert(tmp_path / "file.pkl")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(function, argument)))
    assert mark.exists(), "the payload works"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read(tmp_path, protocol):
    arrays = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "long": np.array([[1], [2]]),
        "scalar": np.float32(2.5),
        "other order of bytes": np.array([1.0, 2.0], dtype=">f4"),
        "truth": np.array([True, False]),
        "empty": np.zeros((0, 3)),
    }
    saved = {"model": collections.OrderedDict(arrays), "__author__": "somebody"}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(saved, protocol))
    state = state_of(read_inert(tmp_path / "file.pkl"), "file.pkl")
    for name, array in arrays.items():
        assert torch.equal(state[name], torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))))


def test_pickles_of_python_2_are_read(tmp_path):
    """A byte string there is text here, as the release's own loader has it."""
    pickled = pickle.dumps({"model": {"weight": np.ones(2, np.float32)}, "author": "caf\u00e9"}, protocol=2)
    pickled = pickled.replace(b"X\x05\x00\x00\x00caf\xc3\xa9", b"U\x04caf\xe9")
    (tmp_path / "file.pkl").write_bytes(pickled)
    assert read_inert(tmp_path / "file.pkl")["author"] == "caf\u00e9"


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x04.", b"PK\x03\x04", b"not a checkpoint", pickle.dumps([1])])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth: "):
        read_inert(tmp_path / "file.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_inert(tmp_path / "nowhere.pth")


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _number(code: str, state: bytes) -> bytes:
    """A pickled NumPy number of 8 bytes with a data type of one's own."""
    made = b"cnumpy\ndtype\n(" + _text(code) + b"\x89\x88tR" + state + b"b"
    return b"\x80\x04}" + _text("w") + b"cnumpy.core.multiarray\nscalar\n(" + made + b"C\x08" + b"A" * 8 + b"tRs."


@pytest.mark.parametrize(
    "pickled",
    [
        _number("O8", b"(K\x03" + _text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"),
        _number("f8", b"(K\x03" + _text("|O8,") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"),
        _number("V8", b"(K\x03" + _text("|") + b"N(" + _text("a") + b"t}K\x08K\x01K\x00t"),
    ],
)
def test_bytes_do_not_become_addresses(tmp_path, pickled):
    """NumPy takes the bytes of such a number for the address of an object."""
    (tmp_path / "file.pkl").write_bytes(pickled)
    with pytest.raises(ValueError, match=r"file\.pkl: "):
        read_inert(tmp_path / "file.pkl")


def test_arrays_must_have_their_size(tmp_path):
    pickled = pickle.dumps({"model": {"weight": np.arange(6, dtype=np.int8)}}, protocol=2)
    for size in (b"K\x07", b"J\xff\xff\xff\x7f"):
        (tmp_path / "file.pkl").write_bytes(pickled.replace(b"K\x06\x85", size + b"\x85"))
        with pytest.raises(ValueError, match=r"file\.pkl: "):
            read_inert(tmp_path / "file.pkl")


def _shared(steps: int, often: int = 0) -> bytes:
    """A pickled dict; its key holds 2 ** steps empty tuples, which are the same, and is set `often` more times."""
    value = ()
    for _ in range(steps):
        value = (value, value)
    key = pickle.dumps(value, protocol=2)[2:-1]  # which gets the number of its last byte
    return b"\x80\x02}" + key + b"K\x01s" + (b"h" + key[-1:] + b"K\x01s") * often + b"."


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (_shared(60), "tuples"),
        (b"\x80\x02S'\\xff'\n0" + _shared(60)[2:], "tuples"),
        (b"\x80\x02I0x1\n0" + _shared(60)[2:], "tuples"),
        (_shared(18, 999), "tuples"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "one of its 1 values the number 2147483647"),
    ],
    ids=["hash of years", "behind a text", "behind a number", "one hash often", "table of 32 GB"],
)
@pytest.mark.parametrize("name", ["file.pkl", "data.pkl"])
def test_few_bytes_take_no_time_and_no_memory(tmp_path, pickled, reason, name):
    file = tmp_path / name
    file.write_bytes(pickled)
    if name == "data.pkl":  # as `torch.save` and `torch.jit.save` have it
        file = tmp_path / "file.pth"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
    for read in (read_content, read_inert):
        with pytest.raises(ValueError, match=rf"{file.name}: no checkpoint .*{reason}"):
            read(file)


@pytest.mark.parametrize("magic", [b"\x80\x02\x8a\x0a", b"\x80\x02\x8b\x0a\0\0\0"], ids=["short", "long"])
def test_no_pickle_of_an_older_torch_file_takes_time(tmp_path, magic):
    """`torch.load` reads five: its magic number, its version, the system's, the content and the keys of storages."""
    content = magic + b"l\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}." * 2
    (tmp_path / "file.pth").write_bytes(content + _shared(60) + bytes(8))
    for read in (read_content, read_inert):
        with pytest.raises(ValueError, match=r"file\.pth: no checkpoint .*tuples"):
            read(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (b"", "has no operation at byte 30"),
        (b"\xfe.", "has no operation at byte 30"),
        (b"X\xff\xff", "damaged"),
        (b"I1", "ends in a line"),
        (b"\x8e" + b"\xff" * 6 + b"\0\0.", "damaged"),
        (b"0" * 9 + b".", "damaged"),
        (b"h\x07.", "damaged"),
    ],
)
def test_a_pickle_without_an_end_is_named(tmp_path, end, words):
    (tmp_path / "file.pkl").write_bytes(b"\x80\x02}" + _text("model") + b"}" + _text("weight") + b"N" * 5 + end)
    for read in (read_content, read_inert):
        with pytest.raises(ValueError, match=rf"file\.pkl: .*{words}"):
            read(tmp_path / "file.pkl")


def test_what_follows_the_pickles_is_not_read_as_one(tmp_path):
    """The numbers of a tensor in an older file of PyTorch, here such as look like a hostile pickle."""
    weight = torch.frombuffer(bytearray(b"}r\xff\xff\xff\x7f.."), dtype=torch.int8)
    torch.save({"weight": weight}, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_inert(tmp_path / "file.pth")["weight"], weight)


def test_pickles_in_text_of_python_2_are_read(tmp_path):
    """Its byte strings are text with escapes there."""
    (tmp_path / "file.pkl").write_bytes(b"(dp0\nS'author'\np1\nS'caf\\xe9'\np2\nsS'iter'\np3\nL7L\ns.")
    assert read_inert(tmp_path / "file.pkl") == {"author": "caf\u00e9", "iter": 7}


def test_long_tuples_are_read(tmp_path):
    torch.save({"numbers": (None,) * 1_000_001}, tmp_path / "file.pth")
    assert len(read_content(tmp_path / "file.pth")["numbers"]) == 1_000_001


def test_a_zip_file_whose_names_are_damaged_is_named(tmp_path):
    torch.save({"model": {"a": torch.zeros(4)}}, tmp_path / "file.pth")
    content = bytearray((tmp_path / "file.pth").read_bytes())
    start = content.rindex(b"PK\x03\x04", 0, content.index(b"data.pkl"))
    content[start + 6 : start + 8] = b"\0\x08"  # the name is UTF-8
    content[start + 26] += 60  # and longer, up to the pickle
    (tmp_path / "file.pth").write_bytes(content)
    for read in (read_content, read_inert):
        with pytest.raises(ValueError, match=r"file\.pth: .*damaged"):
            read(tmp_path / "file.pth")


def test_tuples_in_tuples_are_read(tmp_path):
    (tmp_path / "file.pkl").write_bytes(_shared(8))
    (key,) = read_inert(tmp_path / "file.pkl")
    assert str(key).count("()") == 2**8
