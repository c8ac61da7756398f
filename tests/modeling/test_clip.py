"""Building open_clip towers and backbones."""

import json
import logging

import open_clip
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d

from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.clip_backbone import CLIPResNet, CLIPViT, convert_norm


def test_random_weights_asked_for_are_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        build_clip("mtaclip-tiny")
    assert not caplog.records


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    saved = build_clip("mtaclip-tiny")
    torch.save(saved.state_dict(), tmp_path / "clip.pt")
    loaded = build_clip("mtaclip-tiny", str(tmp_path / "clip.pt"))
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_other_activation_than_the_weights_is_refused():
    with pytest.raises(ValueError, match="different activations"):
        build_clip("RN50", "openai")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "this is not JSON"),
        ("[" * 200_000, "this is not JSON"),
        ("[1]", "holds a list"),
        ('{"embed_dim": 8, "vision_cfg": 1, "text_cfg": {}}', "MODEL.CLIP.ARCH.* it has no vision_cfg"),
        ('{"vision_cfg": {}}', "MODEL.CLIP.ARCH.* it has no embed_dim and no text_cfg"),
    ],
)
def test_files_that_are_no_model_configs_are_named(tmp_path, content, words):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        build_clip(str(tmp_path / "odd.json"))
    assert "odd.json" in str(error.value)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("vision_cfg", {"width": "wide"}),
        ("vision_cfg", {"image_size": None}),
        ("vision_cfg", {"layers": [1, 2]}),
        ("vision_cfg", {"layers": {}}),
        ("vision_cfg", {"head_width": 0}),
        ("vision_cfg", {"patch_size": -1}),
        ("vision_cfg", {"no such": 1}),
        ("vision_cfg", {"timm_model_name": "no such"}),
        ("vision_cfg", {"layers": 1e9}),
        ("text_cfg", {"layers": 10**9}),
        ("text_cfg", {"heads": 3}),
        ("text_cfg", {"vocab_size": "many"}),
        ("text_cfg", {"hf_model_name": "no/such"}),
    ],
)
def test_models_that_cannot_be_built_are_named(tmp_path, monkeypatch, part, settings):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = {
        "embed_dim": 4,
        "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 4, "patch_size": 4},
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 2, "layers": 1},
    }
    (tmp_path / "odd.json").write_text(json.dumps(model))
    build_clip(str(tmp_path / "odd.json"))
    model[part] |= settings
    (tmp_path / "odd.json").write_text(json.dumps(model))
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.ARCH: .*odd.json") as error:
        build_clip(str(tmp_path / "odd.json"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_resnet_strides(size):
    backbone = CLIPResNet(build_clip("mtaclip-tiny").visual).eval()
    features = backbone(torch.randn(1, 3, *size))
    for name, shape in backbone.output_shape().items():
        assert features[name].shape == (1, shape.channels, size[0] // shape.stride, size[1] // shape.stride)


def test_vit_needs_four_blocks_that_exist():
    tower = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=16, width=32, layers=2, heads=2, mlp_ratio=4
    )
    with pytest.raises(ValueError, match="VIT_TAPS"):
        CLIPViT(tower, (0, 1, 2, 3))


def test_every_backbone_parameter_gets_a_gradient():
    vit = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=16, width=32, layers=5, heads=2, mlp_ratio=4
    )
    for backbone in (CLIPResNet(build_clip("mtaclip-tiny").visual), CLIPViT(vit, (0, 1, 2, 3))):
        sum(f.square().mean() for f in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_norms():
    def modules(norm):
        backbone = convert_norm(CLIPResNet(build_clip("mtaclip-tiny").visual), norm)
        return {type(m) for m in backbone.modules()}

    assert FrozenBatchNorm2d in modules("FrozenBN") and torch.nn.BatchNorm2d not in modules("FrozenBN")
    assert torch.nn.BatchNorm2d in modules("SyncBN"), "one process has nothing to synchronise"
