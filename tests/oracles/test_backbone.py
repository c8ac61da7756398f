"""CLIP image towers against the authors' backbones."""

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer

from mtaclip.checkpoint.loading import load_state
from mtaclip.checkpoint.released import convert_released
from mtaclip.modeling.clip_backbone import CLIPResNet, CLIPViT


class Segmentor(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def check(golden: dict, backbone) -> None:
    model = Segmentor(backbone).eval()
    converted = convert_released({f"backbone.{k}": v for k, v in golden["state_dict"].items()}).state
    load_state(model, converted, "golden backbone")
    for run in golden["runs"]:
        features = backbone(run["image"])
        assert list(features) == ["res2", "res3", "res4", "res5"]
        for name, expected in zip(features, run["features"], strict=True):
            torch.testing.assert_close(features[name], expected, rtol=0, atol=1e-5)
            assert features[name].shape[1] == backbone.output_shape()[name].channels


def test_resnet(backbone_file):
    golden = torch.load(backbone_file, weights_only=True)["resnet"]
    config = golden["config"]
    tower = ModifiedResNet(
        config["layers"],
        output_dim=config["output_dim"],
        heads=1,
        image_size=config["input_resolution"],
        width=config["width"],
    )
    check(golden, CLIPResNet(tower))


def test_vit(backbone_file):
    golden = torch.load(backbone_file, weights_only=True)["vit"]
    config = golden["config"]
    tower = VisionTransformer(
        image_size=config["input_resolution"],
        patch_size=config["patch_size"],
        width=config["width"],
        layers=config["layers"],
        heads=config["heads"],
        mlp_ratio=4,
        output_dim=config["output_dim"],
        act_layer=QuickGELU,
    )
    check(golden, CLIPViT(tower, tuple(config["out_indices"])))
