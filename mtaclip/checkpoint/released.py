"""Names of the authors' released code (github.com/anurag-198/MTA_CLIP, on MMSegmentation) in this project's terms."""

from collections.abc import Mapping

from torch import Tensor

from mtaclip.checkpoint.renaming import Conversion, Rule, Unused, rename

KIND = "a released MTA-CLIP"

# Attention pool, final norms and projections of the image tower, two projections of the head, the segmentor's gamma.
_UNUSED = Unused("the released model never uses it")
_RULES: list[Rule] = [
    (r"gamma", _UNUSED),
    (r"contexts", "texts.contexts"),
    (r"text_encoder\.(.+)", r"texts.encoder.\1"),
    (r"backbone\.(attnpool\..+|ln_post\..+|proj)", _UNUSED),
    (r"backbone\.(class_embedding|positional_embedding|ln_pre\..+)", r"backbone.\1"),
    (r"backbone\.transformer\.resblocks\.(.+)", r"backbone.blocks.\1"),
    *((rf"backbone\.fpn{i}\.(.+)", rf"backbone.pyramid.res{i + 1}.\1") for i in range(1, 5)),
    (r"backbone\.(.+)", r"backbone.tower.\1"),
    (r"decode_head\.(lang_embed|visual_emb_proj)\..+", _UNUSED),
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
    (r"decode_head\.pixel_decoder\.level_encoding\.weight", "pixel_decoder.level_embedding"),
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
    (r"decode_head\.query_feat\.weight", "decoder.query_content"),
    (r"decode_head\.query_embed_decoder\.weight", "decoder.query_position"),
    (r"decode_head\.level_embed\.weight", "decoder.level_embedding"),
    (r"decode_head\.gamma", "decoder.alignment.gamma"),
    (r"decode_head\.query_project\.(.+)", r"decoder.alignment.text_in.\1"),
    (r"decode_head\.norm_project\.(.+)", r"decoder.alignment.token_norm.\1"),
    (r"decode_head\.query_reproject\.(.+)", r"decoder.alignment.text_out.\1"),
    (r"decode_head\.norm_reproject\.(.+)", r"decoder.alignment.text_out_norm.\1"),
    (r"decode_head\.mask_reproject\.(.+)", r"decoder.alignment.mask_out.\1"),
]


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the released code's names."""
    return any(key.startswith("decode_head.") for key in state)


def convert_released(state: Mapping[str, Tensor]) -> Conversion:
    """Rename a released state dict.

    Args:
        state: with the prefixes "backbone.", "text_encoder.", "decode_head." of the released segmentor.

    Raises:
        ValueError: a name that no rule explains.
    """
    is_vit = "backbone.class_embedding" in state
    patches = "backbone.patch_embedding.weight" if is_vit else "backbone.tower.conv1.weight"
    return rename(state, [(r"backbone\.conv1\.weight", patches), *_RULES], KIND)
