"""Names of Hugging Face's CLIP models in open_clip's terms. Only models with a ViT as image tower exist there."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# First match wins; None: a constant that open_clip does not store.
_RULES: list[tuple[str, str | None]] = [
    (r"(text_model|vision_model)\.embeddings\.position_ids$", None),
    (r"logit_scale$", "logit_scale"),
    (r"visual_projection\.weight$", "visual.proj"),
    (r"text_projection\.weight$", "text_projection"),
    (r"vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight$", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(.+)", r"visual.ln_pre.\1"),  # spelt so there
    (r"vision_model\.post_layernorm\.(.+)", r"visual.ln_post.\1"),
    (r"vision_model\.encoder\.layers\.(.+)", r"visual.transformer.resblocks.\1"),
    (r"text_model\.embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(.+)", r"ln_final.\1"),
    (r"text_model\.encoder\.layers\.(.+)", r"transformer.resblocks.\1"),
]
# What the parts of a transformer block are called.
_BLOCK = {
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
_TRANSPOSED = ("visual.proj", "text_projection")
_PROJECTIONS = ("q", "k", "v")


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of Hugging Face's CLIP."""
    return any(key.startswith(("vision_model.", "text_model.")) for key in state)


def convert_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of Hugging Face's CLIP, whole or one of its towers.

    Args:
        state: tensors by name; queries, keys and values of an attention are three projections each.

    Returns:
        The tensors under open_clip's names, with queries, keys and values in one projection.

    Raises:
        ValueError: a name that no rule explains, or an attention without all its projections.
    """
    converted: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name = _open_clip_name(key)
        match = re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", name or "")
        if match:
            projections.setdefault(f"{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = tensor
        elif name is not None:
            converted[name] = tensor.T.contiguous() if name in _TRANSPOSED else tensor
    for name, parts in projections.items():
        if len(parts) < len(_PROJECTIONS):
            raise ValueError(f"of the three projections that make {name!r} only {', '.join(sorted(parts))} are there")
        converted[name] = torch.cat([parts[letter] for letter in _PROJECTIONS])
    return converted


def _open_clip_name(key: str) -> str | None:
    for pattern, replacement in _RULES:
        match = re.match(pattern, key)
        if match:
            name = None if replacement is None else match.expand(replacement)
            for theirs, ours in _BLOCK.items():
                name = name and name.replace(theirs, ours)
            return name
    raise ValueError(f"tensor {key!r} is not part of a CLIP model of Hugging Face")
