"""Names of Hugging Face's CLIP models in open_clip's terms. Only models with a ViT as image tower exist there."""

from collections.abc import Mapping

from torch import Tensor

from mtaclip.checkpoint.renaming import Conversion, Rule, Unused, rename

KIND = "a CLIP model of Hugging Face"

# What the parts of a transformer block are called.
_BLOCK = {
    r"self_attn\.q_proj\.": "attn.in_proj_#0",
    r"self_attn\.k_proj\.": "attn.in_proj_#1",
    r"self_attn\.v_proj\.": "attn.in_proj_#2",
    r"self_attn\.out_proj\.": "attn.out_proj.",
    r"layer_norm1\.": "ln_1.",
    r"layer_norm2\.": "ln_2.",
    r"mlp\.fc1\.": "mlp.c_fc.",
    r"mlp\.fc2\.": "mlp.c_proj.",
}
_RULES: list[Rule] = [
    (r"(?:text_model|vision_model)\.embeddings\.position_ids", Unused("a constant")),
    (r"logit_scale", "logit_scale"),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_projection\.weight", "text_projection"),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(.+)", r"visual.ln_pre.\1"),  # spelt so there
    (r"vision_model\.post_layernorm\.(.+)", r"visual.ln_post.\1"),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(.+)", r"ln_final.\1"),
]
for _model, _blocks in (("vision_model", "visual.transformer.resblocks"), ("text_model", "transformer.resblocks")):
    for _theirs, _ours in _BLOCK.items():
        _name, _, _part = _ours.partition("#")
        _RULES.append(
            (
                rf"{_model}\.encoder\.layers\.(\d+)\.{_theirs}(weight|bias)",
                rf"{_blocks}.\1.{_name}\2{'#' if _part else ''}{_part}",
            )
        )
_TRANSPOSED = ("visual.proj", "text_projection")


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of Hugging Face's CLIP."""
    return any(key.startswith(("vision_model.", "text_model.")) for key in state)


def convert_hugging_face(state: Mapping[str, Tensor]) -> Conversion:
    """Rename a state dict of Hugging Face's CLIP, whole or one of its towers, to open_clip's names.

    Args:
        state: tensors by name; queries, keys and values of an attention are three projections each.

    Raises:
        ValueError: a name that no rule explains, or an attention without all its projections.
    """
    conversion = rename(state, _RULES, KIND)
    for name in _TRANSPOSED:
        if name in conversion.state:
            conversion.state[name] = conversion.state[name].mT.contiguous()
    return conversion
