"""Computing activations again changes memory and nothing else."""

import gc

import open_clip
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.clip_backbone import CLIPResNet, CLIPViT


def make(kind: str, recompute: bool):
    torch.manual_seed(0)
    if kind == "resnet":
        return CLIPResNet(build_clip("mtaclip-tiny").visual, recompute)
    tower = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=16, width=32, layers=5, heads=2, mlp_ratio=4
    )
    return CLIPViT(tower, (0, 1, 2, 3), recompute)


def train(backbone) -> tuple[dict[str, torch.Tensor], int]:
    """Everything that two steps leave behind, and the bytes that are held between forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        images = torch.randn(2, 3, 96, 128, generator=generator).requires_grad_()
        features = None
        gc.collect()  # or what is freed now and then would count
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            features = backbone(images)
        sum(f.square().mean() for f in features.values()).backward()
    seen = {"images": images.grad} | {name: f.detach() for name, f in features.items()}
    seen |= {f"gradient of {name}": p.grad for name, p in backbone.named_parameters()} | dict(backbone.named_buffers())
    return seen, sum(event.self_cpu_memory_usage for event in watched.key_averages())


@pytest.mark.parametrize(("kind", "share"), [("resnet", 0.7), ("vit", 0.9)])
def test_equal_to_the_bit(kind, share):
    """Features, gradients and the running statistics of BatchNorm, which sees every image once; in less memory."""
    plain, much = train(make(kind, False))
    again, little = train(make(kind, True))
    assert list(plain) == list(again)
    for name, expected in plain.items():
        assert torch.equal(again[name], expected), name
    assert little < share * much
