"""The folder that a run writes into, held by this process and by others."""

import subprocess
import sys
from pathlib import Path

import pytest

from mtaclip.engine.output import output_folder

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
import mtaclip
from mtaclip.engine.output import output_folder
with output_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_run_until_it_ends_or_is_killed(tmp_path):
    folder = tmp_path / "new" / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    words = f"^OUTPUT_DIR {folder} is in use by another run: wait .* or name another folder"
    with pytest.raises(OSError, match=words), output_folder(str(folder)):
        pass
    other.kill()
    other.communicate()
    with output_folder(str(folder)):
        pass


def test_what_killed_writes_left_is_removed(tmp_path):
    for name in (".scores_x.json.4194305.partial", ".model_final.pth.4194305.partial"):
        (tmp_path / name).touch()
    (tmp_path / "model_final.pth").touch()
    with output_folder(str(tmp_path)):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "model_final.pth"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "OUTPUT_DIR is empty: name the folder"),
        ("{}/file", "OUTPUT_DIR .*/file is a file, .*: name a folder"),
        ("{}/link", "OUTPUT_DIR .*/link is .* a link to nothing: name a folder"),
        ("{}/file/run", "OUTPUT_DIR .*/run cannot be written into: Not a directory; .* name another folder"),
        ("{}/" + 300 * "x", "cannot be written into: File name too long; .* name another folder"),
        ("/proc/run", "OUTPUT_DIR /proc/run cannot be written into: .*; .* name another folder"),
    ],
)
def test_what_is_no_folder_to_write_into_is_refused_in_a_sentence(tmp_path, name, words):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    with pytest.raises(OSError, match=words), output_folder(name.format(tmp_path)):
        pass
