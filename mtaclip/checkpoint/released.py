"""Names of the authors' released code (github.com/anurag-198/MTA_CLIP, on MMSegmentation) in this project's terms."""

import re
from collections.abc import Mapping

from torch import Tensor

# First match wins. None: the released code never uses the tensor (attention pool, final norms and projections of the
# image tower, two unused projections of the head, the segmentor's own gamma).
_RULES: list[tuple[str, str | None]] = [
    (r"gamma$", None),
    (r"contexts$", "texts.contexts"),
    (r"text_encoder\.(.+)", r"texts.encoder.\1"),
    (r"backbone\.(attnpool\..+|ln_post\..+|proj)$", None),
    (r"backbone\.conv1\.weight$", "{patch}"),
    (r"backbone\.(class_embedding|positional_embedding|ln_pre\..+)$", r"backbone.\1"),
    (r"backbone\.transformer\.resblocks\.(.+)", r"backbone.blocks.\1"),
    *((rf"backbone\.fpn{i}\.(.+)", rf"backbone.pyramid.res{i + 1}.\1") for i in range(1, 5)),
    (r"backbone\.(.+)", r"backbone.tower.\1"),
    (r"decode_head\.(lang_embed|visual_emb_proj)\..+", None),
    (r"decode_head\.pixel_decoder\.input_convs\.(\d)\.conv\.(.+)", r"pixel_decoder.input_projections.\1.0.\2"),
    (r"decode_head\.pixel_decoder\.input_convs\.(\d)\.gn\.(.+)", r"pixel_decoder.input_projections.\1.1.\2"),
    (r"decode_head\.pixel_decoder\.encoder\.layers\.(\d+)\.self_attn\.(.+)", r"pixel_decoder.layers.\1.attention.\2"),
    (
        r"decode_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.0\.(.+)",
        r"pixel_decoder.layers.\1.attention_norm.\2",
    ),
    (r"decode_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.1\.(.+)", r"pixel_decoder.layers.\1.ffn_norm.\2"),
    (
        r"decode_head\.pixel_decoder\.encoder\.layers\.(\d+)\.ffn\.layers\.0\.0\.(.+)",
        r"pixel_decoder.layers.\1.ffn.0.\2",
    ),
    (r"decode_head\.pixel_decoder\.encoder\.layers\.(\d+)\.ffn\.layers\.1\.(.+)", r"pixel_decoder.layers.\1.ffn.2.\2"),
    (r"decode_head\.pixel_decoder\.level_encoding\.weight$", "pixel_decoder.level_embedding"),
    (r"decode_head\.pixel_decoder\.lateral_convs\.0\.conv\.(.+)", r"pixel_decoder.lateral.0.\1"),
    (r"decode_head\.pixel_decoder\.lateral_convs\.0\.gn\.(.+)", r"pixel_decoder.lateral.1.\1"),
    (r"decode_head\.pixel_decoder\.output_convs\.0\.conv\.(.+)", r"pixel_decoder.output.0.\1"),
    (r"decode_head\.pixel_decoder\.output_convs\.0\.gn\.(.+)", r"pixel_decoder.output.1.\1"),
    (r"decode_head\.pixel_decoder\.mask_feature\.(.+)", r"pixel_decoder.mask_features.\1"),
    (
        r"decode_head\.transformer_decoder\.layers\.(\d+)\.(cross|self)_attn\.attn\.(.+)",
        r"decoder.layers.\1.\2_attention.\3",
    ),
    (r"decode_head\.transformer_decoder\.layers\.(\d+)\.norms\.0\.(.+)", r"decoder.layers.\1.cross_norm.\2"),
    (r"decode_head\.transformer_decoder\.layers\.(\d+)\.norms\.1\.(.+)", r"decoder.layers.\1.self_norm.\2"),
    (r"decode_head\.transformer_decoder\.layers\.(\d+)\.norms\.2\.(.+)", r"decoder.layers.\1.ffn_norm.\2"),
    (r"decode_head\.transformer_decoder\.layers\.(\d+)\.ffn\.layers\.0\.0\.(.+)", r"decoder.layers.\1.ffn.0.\2"),
    (r"decode_head\.transformer_decoder\.layers\.(\d+)\.ffn\.layers\.1\.(.+)", r"decoder.layers.\1.ffn.2.\2"),
    (r"decode_head\.transformer_decoder\.post_norm\.(.+)", r"decoder.output_norm.\1"),
    (r"decode_head\.cls_embed\.(.+)", r"decoder.class_head.\1"),
    (r"decode_head\.mask_embed\.(.+)", r"decoder.mask_head.\1"),
    (r"decode_head\.query_feat\.weight$", "decoder.query_content"),
    (r"decode_head\.query_embed_decoder\.weight$", "decoder.query_position"),
    (r"decode_head\.level_embed\.weight$", "decoder.level_embedding"),
    (r"decode_head\.gamma$", "decoder.alignment.gamma"),
    (r"decode_head\.query_project\.(.+)", r"decoder.alignment.text_in.\1"),
    (r"decode_head\.norm_project\.(.+)", r"decoder.alignment.token_norm.\1"),
    (r"decode_head\.query_reproject\.(.+)", r"decoder.alignment.text_out.\1"),
    (r"decode_head\.norm_reproject\.(.+)", r"decoder.alignment.text_out_norm.\1"),
    (r"decode_head\.mask_reproject\.(.+)", r"decoder.alignment.mask_out.\1"),
]


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the released code's names."""
    return any(key.startswith("decode_head.") for key in state)


def convert_released(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename a released state dict.

    Args:
        state: with the prefixes "backbone.", "text_encoder.", "decode_head." of the released segmentor.

    Returns:
        The tensors under this project's names, and the released names that were dropped because nothing uses them.

    Raises:
        ValueError: a name that no rule explains.
    """
    is_vit = "backbone.class_embedding" in state
    converted, dropped = {}, []
    for key, tensor in state.items():
        name = released_name(key, is_vit)
        if name is None:
            dropped.append(key)
        else:
            converted[name] = tensor
    return converted, dropped


def released_name(key: str, is_vit: bool) -> str | None:
    """This project's name of a released tensor; None if nothing uses it.

    Raises:
        ValueError: no rule explains the name.
    """
    for pattern, replacement in _RULES:
        match = re.match(pattern, key)
        if match is None:
            continue
        if replacement is None:
            return None
        if replacement == "{patch}":
            return "backbone.patch_embedding.weight" if is_vit else "backbone.tower.conv1.weight"
        return match.expand(replacement)
    raise ValueError(f"Tensor {key!r} is not part of a released MTA-CLIP checkpoint.")
