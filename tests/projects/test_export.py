import sys

import pytest
import torch

from mtaclip.checkpoint import Checkpointer
from mtaclip.engine import setup_cfg
from mtaclip.modeling.build import build_model
from projects.MTACLIP.export import main

PROGRAM = "projects/MTACLIP/export.py"
TINY = [
    "MODEL.MTACLIP.PIXEL_DECODER.LAYERS",
    "1",
    "MODEL.MTACLIP.DECODER.LAYERS",
    "1",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES",
    "8",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, config_path):
    folder = tmp_path_factory.mktemp("checkpoint")
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), TINY, device="cpu")
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(folder), config=cfg).save("model_final", iteration=7)
    return folder / "model_final.pth"


@pytest.mark.slow
@pytest.mark.parametrize(("form", "ending"), [("torch", "pt2"), ("onnx", "onnx")])
def test_the_file_is_written_and_compared_with_the_model(run_script, checkpoint, tmp_path, form, ending):
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    file = tmp_path / "new" / f"model.{ending}"
    size = ("--height", 64, "--width", 96)
    done = run_script(PROGRAM, "--checkpoint", checkpoint, "--format", form, "--output", file, *size)
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 1e5
    assert "On 64 x 96 pixels of noise, class scores differ" in done.stdout + done.stderr
    assert "100.0000 % of the labels are equal" in done.stdout + done.stderr
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.slow
def test_a_file_that_is_not_its_model_is_not_written(checkpoint, tmp_path, capsys):
    """With TEST.QUERY_EPS 1 the model leaves out queries that the file has."""
    (tmp_path / "model.pt2").write_bytes(b"an older one")
    arguments = ["--format", "torch", "--output", str(tmp_path / "model.pt2"), "--height", "64", "--width", "96"]
    with pytest.raises(SystemExit, match="2"):
        main(["--checkpoint", str(checkpoint), *arguments, "--opts", "TEST.QUERY_EPS", "1.0"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "nothing was written: on 64 x 96 pixels of noise" in last and "more than 1e-03" in last
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"an older one"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--format", "onnx", "--output", "model.pt2"],
            "--output: a file of --format onnx ends in .onnx, got model.pt2",
        ),
        (["--format", "torch", "--output", "model.pt2", "--height", "64"], "--height and --width belong together"),
        (["--format", "torch", "--output", "model.pt2", "--height", "64", "--width", "63"], "got 64 x 63"),
        (
            ["--format", "torch", "--output", "model.pt2", "--opts", "TEST.AUG.ENABLED", "True"],
            "TEST.AUG.ENABLED False",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(checkpoint, capsys, arguments, words):
    with pytest.raises(SystemExit, match="2"):
        main(["--checkpoint", str(checkpoint), *arguments])
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_without_the_libraries_one_sentence_says_how_to_get_them(checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(SystemExit, match="2"):
        main(["--checkpoint", str(checkpoint), "--format", "onnx", "--output", "model.onnx"])
    assert capsys.readouterr().err.strip().endswith('pip install "mtaclip[export]".')
