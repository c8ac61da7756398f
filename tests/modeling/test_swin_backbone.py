import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from mtaclip.config import add_mtaclip_config
from mtaclip.modeling import SwinBackbone


def small(**changes) -> SwinBackbone:
    torch.manual_seed(0)
    return SwinBackbone(**({"embed_dim": 4, "depths": (1, 2, 1, 1), "heads": (1, 2, 2, 4), "window": 3} | changes))


def test_maps_of_any_size_round_up():
    backbone = small().eval()
    assert backbone.output_shape()["res5"] == ShapeSpec(channels=32, stride=32)
    features = backbone(torch.randn(2, 3, 66, 97))
    assert {name: tuple(map_.shape) for name, map_ in features.items()} == {
        "res2": (2, 4, 17, 25),
        "res3": (2, 8, 9, 13),
        "res4": (2, 16, 5, 7),
        "res5": (2, 32, 3, 4),
    }


def test_padding_equals_zeros_beyond_the_right_and_lower_edge():
    backbone, image = small().eval(), torch.randn(1, 3, 62, 95)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :62, :95] = image
    for name, features in backbone(padded).items():
        torch.testing.assert_close(backbone(image)[name], features)


def test_every_map_is_normalised():
    backbone = small().eval()
    with torch.no_grad():
        for name, features in backbone(torch.randn(1, 3, 64, 64)).items():
            torch.testing.assert_close(features.mean(dim=1), torch.zeros(features[:, 0].shape), rtol=0, atol=1e-5)
            backbone.norms[name].bias.fill_(3.0)
            torch.testing.assert_close(backbone(torch.randn(1, 3, 64, 64))[name].mean(), torch.tensor(3.0))


def test_everything_learns_and_nothing_but_weights_is_stored():
    backbone = small(drop_path=0.0).train()
    sum(features.square().sum() for features in backbone(torch.randn(1, 3, 96, 96)).values()).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
    assert backbone.state_dict().keys() == dict(backbone.named_parameters()).keys()


def test_the_config_builds_swin_t():
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    backbone = build_backbone(cfg)
    # Of ImageNet's 28,288,354 parameters, 769,000 are its classifier's and 1536 its norm's; the four norms have 2880.
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 28288354 - 769000 - 2 * 768 + 2 * 1440


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"MODEL\.SWIN\.HEADS \[1, 3, 2, 4\] must divide"):
        small(heads=(1, 3, 2, 4))
    with pytest.raises(ValueError, match=r"MODEL\.SWIN\.DEPTHS and HEADS are those of four stages"):
        small(depths=(1, 2, 1))
