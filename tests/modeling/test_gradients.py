"""Every shipped configuration, made tiny: each trained parameter takes part in every step.

DistributedDataParallel without `find_unused_parameters`, as this project runs it, waits for all of them.
"""

import json
from pathlib import Path

import pytest
import torch

from mtaclip.engine import Trainer, setup_cfg

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("*/*.yaml") if p.parent.name != "bases")
VIT = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def test_all_configurations_are_found():
    assert len(SHIPPED) >= 14 and {Path(name).parent.name for name in SHIPPED} >= {"ade20k", "cityscapes", "miniature"}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_trained_parameter_gets_a_gradient(name, tmp_path, shapes):
    arch = "mtaclip-tiny"
    if "ViT" in name:
        arch = tmp_path / "tiny-vit.json"
        arch.write_text(json.dumps(VIT))
    options = [
        "DATASETS.FOLDER.ROOT", str(shapes),
        "MODEL.CLIP.ARCH", str(arch),
        "MODEL.CLIP.PRETRAINED", "",
        "MODEL.CLIP.VIT_TAPS", "(0,1,2,3)",
        "MODEL.MTACLIP.HIDDEN_DIM", "64",
        "MODEL.MTACLIP.PIXEL_DECODER.FFN_DIM", "64",
        "MODEL.MTACLIP.DECODER.FFN_DIM", "64",
        "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8",
        "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
        "INPUT.CROP.SIZE", "(64,96)",
    ]  # fmt: skip
    torch.manual_seed(0)
    model = Trainer.build_model(setup_cfg(CONFIGS / name, options, device="cpu"))
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    labels = torch.tensor([0, 3, 255], dtype=torch.uint8)[torch.randint(3, (64, 96))]
    sum(model([{"image": image, "sem_seg": labels}] * 2).values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
