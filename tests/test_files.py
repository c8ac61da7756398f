"""Files that are complete or not there, and what is said of those that cannot be written."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from mtaclip.files import not_written, remove_partial_files, replace_file

NO_PROCESS = 4194305  # Linux gives smaller numbers


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "\u00fc" * 125 + ".png", "x" * 250 + "\u00fc.x"])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    assert 250 < len(name.encode()) <= 255

    def write(file):
        (hidden,) = tmp_path.iterdir()
        assert hidden.name.startswith(f".{name[:100]}") and hidden.name.endswith(f".{os.getpid()}.partial")
        file.write(b"content")

    replace_file(tmp_path / name, write)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"content"


def test_files_that_another_process_writes_stay(tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    names = [
        f".{name}.partial" for name in (f"a.{other.pid}", f"b.{NO_PROCESS}", f"c.{os.getpid()}", "d.0", "e", "f.x")
    ]
    names += [f".g.{10**30}.partial", ".h.-1.partial", f".i.{'9' * 200}.partial"]
    for name in names:
        (tmp_path / name).touch()
    try:
        remove_partial_files(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == names[:1]
    finally:
        other.kill()
        other.wait()
    remove_partial_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_free_space_is_told_where_it_can_be_known(tmp_path, monkeypatch):
    error = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    assert "Stale file handle (" in not_written(tmp_path / "new" / "file", error)
    assert " MiB free in its file system)" in not_written(tmp_path / "new" / "file", error)

    def stale(*_, **__):
        raise error

    for name in ("stat", "statvfs"):  # as a server of files that has gone
        monkeypatch.setattr(os, name, stale)
    assert not_written(tmp_path / "file", error) == f"{tmp_path / 'file'}: not written: Stale file handle"
    assert not_written(Path("/"), error) == "/: not written: Stale file handle"
