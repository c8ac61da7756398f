"""Every key is declared, explained and read; every YAML file loads; what is wrong is said in a sentence."""

import json
import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone

import mtaclip.config
from mtaclip.config import add_mtaclip_config
from mtaclip.data.build import build_train_loader
from mtaclip.data.folder import use_folder
from mtaclip.engine import Trainer, setup_cfg

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "bases")
TINY = ROOT / "configs" / "miniature" / "mtaclip_tiny.yaml"


def leaves(node: CfgNode, prefix: str = "") -> dict[str, CfgNode]:
    """{dotted key: node that holds it} of all values."""
    found = {}
    for name, value in node.items():
        if isinstance(value, CfgNode):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = node
    return found


def own_keys() -> set[str]:
    cfg = get_cfg()
    before = set(leaves(cfg))
    add_mtaclip_config(cfg)
    return set(leaves(cfg)) - before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_file_loads(path, shapes):
    options = ["DATASETS.FOLDER.ROOT", str(shapes)] if path.parent.name == "custom" else []
    cfg = setup_cfg(path, options, device="cpu")
    assert f"output/{path.parent.name}/{path.stem}" == cfg.OUTPUT_DIR
    assert path.stem.startswith("mtaclip") == cfg.MODEL.MTACLIP.TEXT.ENABLED


def test_all_combinations_exist():
    names = {f"{p.parent.name}/{p.stem}" for p in CONFIGS if p.parent.name not in ("miniature", "custom")}
    assert names == {
        f"{dataset}/{method}_{backbone}"
        for dataset in ("ade20k", "cityscapes")
        for method in ("mtaclip", "mask2former")
        for backbone in ("R50", "R101", "ViT-B16")
    }


def test_every_key_has_a_comment_above_it():
    lines = Path(mtaclip.config.__file__).read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"    cfg\.[\w.]+ = (?!CN)", line):
            assert lines[number - 1].strip().startswith("# "), line


def test_every_key_is_read(miniature, shapes, tmp_path, monkeypatch):
    """Builds everything once, with every option on, and records which values were looked at."""
    read: set[tuple[frozenset, str]] = set()
    original = CfgNode.__getattr__

    def recording(self, name):
        if name in self:
            read.add((frozenset(self), name))
        return original(self, name)

    tiny_vit = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-vit.json").write_text(json.dumps(tiny_vit))
    vit = [
        "MODEL.CLIP.ARCH", str(tmp_path / "tiny-vit.json"),
        "MODEL.CLIP.VIT_TAPS", "(0, 1, 2, 3)",
    ]  # fmt: skip
    options = [
        "TEST.SLIDING_WINDOW.ENABLED", "True",
        "TEST.SAVE_PREDICTIONS", "True",
        "SOLVER.AMP.ENABLED", "True",
        "DATALOADER.NUM_WORKERS", "0",
        "OUTPUT_DIR", str(tmp_path),
    ]  # fmt: skip
    cfg_folder = get_cfg()
    add_mtaclip_config(cfg_folder)
    cfg_folder.DATASETS.FOLDER.ROOT = str(shapes)
    cfg, cfg_vit = setup_cfg(TINY, options, device="cpu"), setup_cfg(TINY, [*options, *vit], device="cpu")
    cfg_swin = setup_cfg(TINY, ["MODEL.BACKBONE.NAME", "build_swin_backbone"], device="cpu")
    monkeypatch.setattr(CfgNode, "__getattr__", recording)
    Trainer(cfg).resume_or_load(resume=False)
    build_train_loader(cfg)
    build_backbone(cfg_vit)
    use_folder(cfg_folder)
    build_backbone(cfg_swin)
    for split in ("val", "test"):
        Trainer.build_evaluator(cfg, f"cityscapes_sem_seg_{split}")
    Trainer.build_test_loader(cfg, "cityscapes_sem_seg_val")
    unread = {key for key in own_keys() if (frozenset(leaves(cfg)[key]), key.rsplit(".")[-1]) not in read}
    assert not unread


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.MTACLIP.NO_SUCH_KEY", "1"], ["NO_SUCH_KEY", "mtaclip/config.py"]),
        (["MODEL.META_ARCHITECTURE", "Mask3Former"], ["MODEL.META_ARCHITECTURE", "Mask3Former", "MTACLIP"]),
        (["MODEL.BACKBONE.NAME", "build_swin"], ["MODEL.BACKBONE.NAME", "build_swin", "build_clip_backbone"]),
        (["DATASETS.TRAIN", "('citiscapes',)"], ["DATASETS.TRAIN", "citiscapes", "cityscapes_sem_seg_train"]),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "20"], ["NUM_CLASSES", "20", "19"]),
        (["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "fp16"], ["SOLVER.AMP.DTYPE", "bf16"]),
        (["SOLVER.COMPILE", "True", "SOLVER.RECOMPUTE", "True"], ["SOLVER.COMPILE", "SOLVER.RECOMPUTE"]),
        (["SOLVER.DETERMINISTIC", "True", "SEED", "-1"], ["SOLVER.DETERMINISTIC", "SEED -1"]),
        (["SOLVER.DETERMINISTIC", "True", "CUDNN_BENCHMARK", "True"], ["SOLVER.DETERMINISTIC", "CUDNN_BENCHMARK"]),
        (["SOLVER.AMP.DTYPE", "fp8"], ["SOLVER.AMP.DTYPE", "fp8"]),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"], ["CLIP_TYPE", "full_model"]),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], ["LR_SCHEDULER_NAME", "WarmupPolyLR"]),
        (["SOLVER.MAX_ITER"], ["SOLVER.MAX_ITER", "no value"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER"]),
        (["MODEL.MTACLIP.PIXEL_DECODER.POINTS", "1000000"], ["PIXEL_DECODER.POINTS is 1000000", "256"]),
        (["INPUT.CROP.SIZE", "(64,10000000)"], ["INPUT.CROP.SIZE is", "65536"]),
        (["MODEL.SWIN.DEPTHS", "(2, 2, 10000, 2)"], ["MODEL.SWIN.DEPTHS is", "10000", "256"]),
        (
            ["DATASETS.FOLDER.ROOT", ".", "DATASETS.FOLDER.NAMES", r"('a', '\ud800')"],
            ["FOLDER.NAMES, name 2", "no text"],
        ),
    ],
)
def test_wrong_options_are_named(opts, words):
    with pytest.raises(ValueError) as error:
        setup_cfg(TINY, opts, device="cpu")
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.MTACLIP.CONTRASTIVE.TYPE", "mixneg"], ["CONTRASTIVE.TYPE", "mixneg", "all_prompts"]),
        (["MODEL.MTACLIP.LOSS.MASK_NORMALIZER", "mean"], ["MASK_NORMALIZER", "mean", "num_masks"]),
        (["MODEL.MTACLIP.TEXT.VOCABULARY", "ade20k"], ["150", "19", "VOCABULARY"]),
        (["MODEL.MTACLIP.TEXT.NO_OBJECT", "nothing that has a name of its own"], ["TOKEN_LENGTH"]),
        (["MODEL.MTACLIP.TEXT.CONTEXT_LENGTH", "80"], ["CONTEXT_LENGTH", "77"]),
        (["MODEL.CLIP.ARCH", "RN51"], ["MODEL.CLIP.ARCH", "RN51"]),
        (["MODEL.CLIP.PRETRAINED", "no-such-tag"], ["MODEL.CLIP.PRETRAINED", "no-such-tag"]),
        (["MODEL.CLIP.NORM", "GN"], ["MODEL.CLIP.NORM", "GN"]),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res3', 'res4', 'res5']"], ["IN_FEATURES", "res3"]),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'res3', 'res4', 'res5']"], ["IN_FEATURES", "p2"]),
        (["MODEL.MTACLIP.DECODER.HEADS", "0"], ["DECODER.HEADS is 0"]),
        (["MODEL.MTACLIP.DECODER.HEADS", "7"], ["DECODER.HEADS is 7", "HIDDEN_DIM 64"]),
        (["MODEL.MTACLIP.HIDDEN_DIM", "60"], ["HIDDEN_DIM", "60", "32"]),
    ],
)
def test_wrong_models_are_named(opts, words):
    with pytest.raises(ValueError) as error:
        Trainer.build_model(setup_cfg(TINY, opts, device="cpu"))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_config_cannot_run_code(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.yaml").write_text(f"SEED: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(ValueError, match="evil.yaml"):
        setup_cfg(tmp_path / "evil.yaml")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it must hold keys with their values"),
        (b"- SEED\n", "it must hold keys with their values"),
        (b"SEED: \xff\n", "not UTF-8 text"),
        (b"SEED: [\n", "not plain YAML"),
        (b"SEED: " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (b"_BASE_: odd.yaml\n", "its _BASE_ leads back to it"),
        (b"SED: 1\n", "SED; mtaclip/config.py lists the keys"),
    ],
)
def test_files_that_are_no_configs_are_one_sentence(tmp_path, content, words):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.yaml: .*{words}") as error:
        setup_cfg(tmp_path / "odd.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("base", ["http://127.0.0.1:1/base.yaml", "/dev/zero", "nowhere.yaml", "catalog://x"])
def test_a_base_is_a_file_of_this_machine(tmp_path, base):
    (tmp_path / "config.yaml").write_text(f"_BASE_: {base}\n")
    with pytest.raises(FileNotFoundError, match=rf"There is no config file '.*{base}': a _BASE_ is a file of this"):
        setup_cfg(tmp_path / "config.yaml")


def test_a_missing_config_is_named():
    with pytest.raises(FileNotFoundError, match=r"--config-file.*nowhere\.yaml"):
        setup_cfg("nowhere.yaml")
