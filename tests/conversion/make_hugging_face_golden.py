"""Writes `tests/conversion/data/`: small random models of Hugging Face and what they compute from an image.

    python tests/conversion/make_hugging_face_golden.py

It needs transformers (made with 5.24), which the tests do not. A folder is what `save_pretrained` leaves, in float16
to be small; to be smaller still, the ResNet's has only the tensors of its image tower, and the others are those of the
Swin Transformer's model. `golden.safetensors` holds an image, uint8 (3, H, W), and what the model computes from it in
float32: class logits (1, Q, K) and mask logits (1, Q, H/4, W/4).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
)

FOLDER = Path(__file__).parent / "data"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
TOWER = "model.pixel_level_module.encoder."
SIZE = (66, 70)  # pads maps and windows; in the third stage, one window is larger than the map
MEAN, STD = [0.4, 0.5, 0.6], [0.25, 0.2, 0.25]


def random_model(tower: PretrainedConfig) -> Mask2FormerForUniversalSegmentation:
    """A model none of whose tensors is trivial: biases, norms and running statistics are random, too."""
    config = Mask2FormerConfig(
        backbone_config=tower,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_layers=1,
        encoder_feedforward_dim=8,
        decoder_layers=4,
        dim_feedforward=12,
        num_attention_heads=4,
        num_queries=5,
        id2label={0: "road", 1: "sky", 2: "tree"},
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.float32 and not name.startswith("criterion"):
                spread = tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.2
                tensor.copy_(torch.randn(tensor.shape) * spread)
            if name.endswith(("norm.weight", "normalization.weight", "running_var")):
                tensor.abs_().add_(0.5)
    return model.half().float()


def save(model: Mask2FormerForUniversalSegmentation, folder: Path) -> None:
    """Write the model's folder and its golden tensors."""
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        output = model(pixel_values=((image / 255 - mean) / std)[None])
    golden = {"image": image, "class": output.class_queries_logits, "masks": output.masks_queries_logits}
    model.half().save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 128}
    Mask2FormerImageProcessor(size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")


def main() -> None:
    """Write the folders."""
    torch.manual_seed(0)
    swin = random_model(
        SwinConfig(embed_dim=4, depths=[1, 2, 2, 1], num_heads=[1, 2, 2, 4], window_size=6, out_features=STAGES)
    )
    resnet = random_model(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 16, 32], depths=[3, 4, 6, 3], out_features=STAGES)
    )
    head = {name: tensor for name, tensor in swin.state_dict().items() if not name.startswith(TOWER)}
    resnet.load_state_dict(head, strict=False)
    save(swin, FOLDER / "swin")
    save(resnet, FOLDER / "resnet")
    file = FOLDER / "resnet" / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name.startswith(TOWER)}, file)


if __name__ == "__main__":
    main()
