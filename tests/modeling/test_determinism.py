import os

import pytest
import torch
from detectron2.utils.events import EventStorage

from mtaclip.data.build import build_train_loader
from mtaclip.engine import Trainer, setup_cfg

SMALL = ["INPUT.CROP.SIZE", "(64,64)", "MODEL.MTACLIP.LOSS.NUM_POINTS", "64", "DATALOADER.NUM_WORKERS", "0"]
# Operations of training whose gradients on a GPU have other bits in every run or are refused, by their nodes' names:
# those of PyTorch's documentation of `use_deterministic_algorithms` that are computed by a node of their own. Bilinear
# `interpolate`, which it lists too, is composed of others on a GPU.
REFUSED = ("GridSampler", "AdaptiveAvgPool", "AdaptiveMaxPool", "NllLoss2D", "NllLossND", "ReflectionPad", "Bicubic")


@pytest.fixture
def deterministic(monkeypatch):
    """Options; what they change in this process is undone."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield ["SOLVER.DETERMINISTIC", "True", *SMALL]
    torch.use_deterministic_algorithms(False)


def test_the_key_sets_what_pytorch_asks_for(deterministic, config_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    Trainer.build_model(setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), SMALL, device="cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    Trainer.build_model(setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), deterministic, device="cpu"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    Trainer.build_model(setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), SMALL, device="cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_workspace_is_refused(deterministic, config_path, monkeypatch):
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), deterministic, device="cpu")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    Trainer.build_model(cfg)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":1024:2")
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG is ':1024:2'.*unset it, or set it to :4096:8"):
        Trainer.build_model(cfg)


@pytest.mark.parametrize("backbone", ["build_clip_backbone", "build_swin_backbone"])
def test_no_gradient_is_one_that_a_gpu_refuses(deterministic, config_path, miniature, backbone):
    options = [*deterministic, "MODEL.BACKBONE.NAME", backbone]
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), options, device="cpu")
    model = Trainer.build_model(cfg)
    with EventStorage():
        losses = model(next(iter(build_train_loader(cfg))))
    found, waiting = set(), [loss.grad_fn for loss in losses.values()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    assert len(found) > 500
    assert not [node.name() for node in found if any(name in node.name() for name in REFUSED)]
