"""convert_checkpoint.py from the command line: the authors' file, and files that are damaged, foreign or hostile."""

import json
import os
import pickle
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtaclip.checkpoint.released import convert_released
from mtaclip.engine import setup_cfg
from mtaclip.modeling.clip import build_clip
from mtaclip.predictor import Predictor
from projects.MTACLIP import train_net
from projects.MTACLIP.convert_checkpoint import main, make_parser

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "projects/MTACLIP/convert_checkpoint.py"
GOLDEN = Path(__file__).parents[1] / "oracles" / "data" / "oracle_e2e.pt"
HUGGING_FACE_CLIP = Path(__file__).parents[1] / "modeling" / "data" / "hugging_face_clip"
# A file as MMEngine leaves it: its message hub has history buffers, whose statistics are methods of their class.
WRITER = """
import sys, types
import numpy as np, torch
module = types.ModuleType("mmengine.logging.history_buffer")
sys.modules |= {"mmengine": types.ModuleType("mmengine"), "mmengine.logging": types.ModuleType("mmengine.logging")}
sys.modules[module.__name__] = module
exec('''
import numpy as np
class HistoryBuffer:
    def __init__(self):
        self._log_history, self._count_history = np.array([1.5, 2.5]), np.array([1, 1])
        self._statistics_methods = {"mean": HistoryBuffer.mean}
    def mean(self):
        return self._log_history.mean()
''', module.__dict__)
state = torch.load(sys.argv[1], weights_only=True)["state_dict"]
hub = {"log_scalars": {"train/loss": module.HistoryBuffer()}, "runtime_info": {"iter": 7, "best": np.float64(0.5)}}
meta = {"epoch": 0, "iter": 7, "dataset_meta": {"classes": ("a", "b")}, "seed": 3}
torch.save({"meta": meta, "state_dict": state, "message_hub": hub, "optimizer": {"state": {}}}, sys.argv[2])
"""


@pytest.fixture
def golden() -> dict:
    return torch.load(GOLDEN, weights_only=True)


@pytest.fixture(scope="module")
def released(tmp_path_factory, run_script) -> Path:
    """The golden segmentor as MMEngine stores one."""
    file = tmp_path_factory.mktemp("released") / "iter_160000.pth"
    done = run_script("-c", WRITER, GOLDEN, file)
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture
def options(tmp_path, golden) -> list[str]:
    """What the tensors of the golden segmentor do not say."""
    text, tower, config = (golden["config"][key] for key in ("text_encoder", "backbone", "head"))
    arch = {
        "embed_dim": text["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "layers": tower["layers"],
            "width": tower["width"],
            "image_size": tower["input_resolution"],
            "patch_size": None,
            "head_width": tower["width"] * 32,
        },
        "text_cfg": {
            "context_length": text["context_length"],
            "vocab_size": text["vocab_size"],
            "width": text["transformer_width"],
            "heads": text["transformer_heads"],
            "layers": text["transformer_layers"],
        },
    }
    (tmp_path / "tiny-oracle.json").write_text(json.dumps(arch))
    (tmp_path / "texts.txt").write_text("".join(f"{name}\n" for name in golden["class_names"][:-1]))
    heads = str(config["num_heads"])
    pairs = {
        "MODEL.CLIP.ARCH": str(tmp_path / "tiny-oracle.json"),
        "MODEL.MTACLIP.TEXT.VOCABULARY": str(tmp_path / "texts.txt"),
        "MODEL.MTACLIP.PIXEL_DECODER.HEADS": heads,
        "MODEL.MTACLIP.DECODER.HEADS": heads,
        "TEST.SLIDING_WINDOW.CROP_SIZE": str(golden["config"]["crop"]),
        "TEST.SLIDING_WINDOW.STRIDE": str(golden["config"]["stride"]),
    }
    return ["--opts", *(item for pair in pairs.items() for item in pair)]


def test_the_authors_file_becomes_a_predictor_with_their_outputs(tmp_path, run_script, released, golden, options):
    target = tmp_path / "new" / "mtaclip.pth"
    with pytest.raises(ValueError, match=r"iter_160000\.pth"):
        Predictor.from_checkpoint(released)  # MMEngine's objects are in it
    done = run_script(PROGRAM, "--from", "mtaclip-mmseg", released, target, "--list", *options)
    assert done.returncode == 0, done.stderr
    expected = convert_released(golden["state_dict"])
    lines = done.stdout.splitlines()
    assert len([line for line in lines if " -> " in line]) == len(golden["state_dict"])
    for name in expected.dropped:
        assert f"{name} -> dropped: the released model never uses it" in lines
    assert "decode_head.query_feat.weight -> decoder.query_content" in lines
    assert lines[-1] == f"written: {target}"
    stored = torch.load(target, weights_only=True)
    for name, tensor in expected.state.items():
        assert torch.equal(stored["model"][name], tensor)

    # Of tiny maps, PyTorch's GroupNorm is less precise with channels last.
    predictor = Predictor.from_checkpoint(target, device="cpu", opts=["SOLVER.CHANNELS_LAST", "False"])
    predictor.model.texts.tokens = golden["token_ids"]  # of its vocabulary of ten tokens
    for run in golden["runs"]:
        (height, width), image = run["ori_shape"], run["image_bgr_uint8"].flip(0)
        (result,) = predictor.model([{"image": image, "height": height, "width": width, "scores": True}])
        torch.testing.assert_close(result["sem_seg"], run["seg_logits"], rtol=0, atol=2e-4)
        assert torch.equal(result["labels"].long(), run["pred"][0].long())


def refused(capsys, *arguments: object) -> str:
    """The sentence of a call that fails."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err.partition("error: ")[2]
    assert message.count("\n") == 1
    return message


def test_an_unexplained_tensor_is_an_error(tmp_path, capsys, golden, options):
    torch.save(
        {"state_dict": golden["state_dict"] | {"decode_head.extra.weight": torch.ones(1)}}, tmp_path / "more.pth"
    )
    message = refused(capsys, "--from", "mtaclip-mmseg", tmp_path / "more.pth", tmp_path / "out.pth", *options)
    assert "no rule for a released MTA-CLIP explains 1 of its tensors: decode_head.extra.weight." in message
    assert not (tmp_path / "out.pth").exists()


def test_the_wrong_kind_is_an_error(tmp_path, capsys, golden):
    torch.save({"state_dict": golden["state_dict"]}, tmp_path / "file.pth")
    message = refused(capsys, "--from", "mask2former", tmp_path / "file.pth", tmp_path / "out.pth")
    assert "file.pth: no rule for a Mask2Former checkpoint of Detectron2 explains" in message
    torch.save({"model": {"weight": torch.ones(1)}}, tmp_path / "file.pth")
    message = refused(capsys, "--from", "mtaclip-mmseg", tmp_path / "file.pth", tmp_path / "out.pth")
    assert "file.pth: holds no decode_head" in message


def test_other_mistakes_are_sentences(tmp_path, capsys, released, options):
    call = ["--from", "mtaclip-mmseg", released, tmp_path / "out.pth"]
    assert "no weight file" in refused(capsys, *call[:2], tmp_path / "nowhere.pth", tmp_path / "out.pth")
    assert "Non-existent" in refused(capsys, *call, "--opts", "MODEL.CLIP.ARC", "RN50")
    assert "no file 'nowhere.yaml'" in refused(capsys, *call, "--config-file", "nowhere.yaml")
    assert "does not fit the model" in refused(capsys, *call, *options, "MODEL.MTACLIP.DECODER.FFN_DIM", "65")
    file = tmp_path / "file"
    file.write_text("")
    assert "error" not in refused(capsys, *call[:3], file / "out.pth", *options)


def test_nothing_is_lost_by_a_slip(tmp_path, capsys):
    source = shutil.copytree(HUGGING_FACE_CLIP, tmp_path / "clip")
    call = ["--from", "clip-hf", source]
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    assert "name a file elsewhere" in refused(capsys, *call, source / "config.pth")
    assert "name a file elsewhere" in refused(
        capsys, "--from", "mask2former", source / "config.json", source / "config.json"
    )
    assert "is a folder: name the file" in refused(capsys, *call, tmp_path)
    assert "end in .pth" in refused(capsys, *call, tmp_path / "out.json")
    for name in ("out.pth", "out.json"):
        (tmp_path / name).write_text("mine")
        message = refused(capsys, *call, tmp_path / "out.pth")
        assert f"{name} is there already: name another file, or replace it (--overwrite)" in message
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    (tmp_path / "out.pth").write_text("mine")
    assert main(["--from", "clip-hf", str(source), str(tmp_path / "out.pth"), "--overwrite"]) == 0


class Payload:
    """Runs a command when it is unpickled by a program that allows everything."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("kind", ["mtaclip-mmseg", "mask2former"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("save", ["pickle", "torch"])
def test_a_hostile_file_runs_nothing(tmp_path, capsys, kind, protocol, save):
    content = {"model": {"weight": torch.ones(1) if save == "torch" else 1.0}, "meta": Payload(tmp_path / "pwned")}
    if save == "torch":
        torch.save(content, tmp_path / "file.pth", pickle_protocol=protocol)
    else:
        (tmp_path / "file.pth").write_bytes(pickle.dumps(content, protocol=protocol))
    message = refused(capsys, "--from", kind, tmp_path / "file.pth", tmp_path / "out.pth")
    assert "file.pth: damaged, or it holds pickled objects" in message
    assert not (tmp_path / "pwned").exists()


def test_objects_that_are_kept_out_cannot_stand_for_tensors(tmp_path, capsys):
    torch.save({"state_dict": {"decode_head.query_feat.weight": Path("x")}}, tmp_path / "file.pth")
    message = refused(capsys, "--from", "mtaclip-mmseg", tmp_path / "file.pth", tmp_path / "out.pth")
    assert "file.pth: holds no state dict of tensors by name" in message


@pytest.mark.parametrize("length", [0, 1, 100, 5000])
def test_a_truncated_file_is_named(tmp_path, capsys, released, length):
    (tmp_path / "file.pth").write_bytes(released.read_bytes()[:length])
    message = refused(capsys, "--from", "mtaclip-mmseg", tmp_path / "file.pth", tmp_path / "out.pth")
    assert "file.pth: not a checkpoint" in message


def test_a_clip_folder_becomes_a_file_of_open_clip(tmp_path, capsys):
    target = tmp_path / f"{tmp_path.name}.pth"  # open_clip remembers names for ever
    assert main(["--from", "clip-hf", str(HUGGING_FACE_CLIP), str(target), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "text_model.final_layer_norm.bias -> ln_final.bias" in lines
    assert len([line for line in lines if " -> " in line]) == len(load_file(HUGGING_FACE_CLIP / "model.safetensors"))
    expected = load_file(HUGGING_FACE_CLIP / "expected.safetensors")
    model = build_clip(str(target.with_suffix(".json")), str(target)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(expected["images"]), expected["image_embeddings"])
        torch.testing.assert_close(model.encode_text(expected["tokens"]), expected["text_embeddings"])


def test_half_a_clip_folder_is_an_error(tmp_path, capsys):
    source = tmp_path / "clip"
    source.mkdir()
    shutil.copy(HUGGING_FACE_CLIP / "config.json", source)
    state = load_file(HUGGING_FACE_CLIP / "model.safetensors")
    call = ["--from", "clip-hf", source, tmp_path / "out.pth"]
    save_file({k: v for k, v in state.items() if "post_layernorm.bias" not in k}, source / "model.safetensors")
    assert "1 tensors missing (visual.ln_post.bias)" in refused(capsys, *call)
    save_file({k: v for k, v in state.items() if not k.startswith("text")}, source / "model.safetensors")
    assert "not a complete CLIP model of Hugging Face, it lacks positional_embedding." in refused(capsys, *call)
    assert "leave --config-file and --opts out" in refused(capsys, *call, "--opts", "SEED", "1")
    assert not (tmp_path / "out.pth").exists() and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("heads", "words"), [(7, "7 attention heads do not divide"), (0, "is 0, which is no number"), ("2", "is '2'")]
)
def test_impossible_heads_of_a_clip_folder_are_a_sentence(tmp_path, capsys, heads, words):
    source = shutil.copytree(HUGGING_FACE_CLIP, tmp_path / "clip")
    config = json.loads((source / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = heads
    (source / "config.json").write_text(json.dumps(config))
    assert words in refused(capsys, "--from", "clip-hf", source, tmp_path / "out.pth")


def test_objects_in_a_clip_folder_are_not_to_be_allowed(tmp_path, capsys):
    """There is no option for it here, so none is advised."""
    shutil.copy(HUGGING_FACE_CLIP / "config.json", tmp_path)
    torch.save(load_file(HUGGING_FACE_CLIP / "model.safetensors") | {"x": Path("y")}, tmp_path / "pytorch_model.bin")
    message = refused(capsys, "--from", "clip-hf", tmp_path, tmp_path.parent / "out.pth")
    assert "holds pickled objects" in message and "ALLOW_PICKLE" not in message


def test_every_documented_command_is_understood():
    page = (ROOT / "docs/weights.md").read_text(encoding="utf-8")
    section = page.partition("## Checkpoints of other projects")[2].partition("\n## ")[0]
    commands = re.findall(rf"python {PROGRAM} (--.*)", section + (ROOT / PROGRAM).read_text(encoding="utf-8"))
    kinds = [make_parser().parse_args(shlex.split(command)).kind for command in commands]
    assert len(kinds) == 8 and set(kinds) == {"mtaclip-mmseg", "mask2former", "maskformer-hf", "clip-hf"}
    (command,) = re.findall(r"python train_net\.py (--.*)", section)
    args = train_net.make_parser().parse_args(shlex.split(command))
    assert setup_cfg(ROOT / args.config_file, args.opts).MODEL.BACKBONE.NAME == "build_swin_backbone"
