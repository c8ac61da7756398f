"""Names of Mask2Former's own code (github.com/facebookresearch/Mask2Former, on Detectron2) in this project's terms.

Its ResNet is Detectron2's and so is ours; its Swin Transformer is `mtaclip.modeling.swin_backbone`'s by other names.
"""

from collections.abc import Mapping

from torch import Tensor

from mtaclip.checkpoint.renaming import Conversion, Rule, Unused, rename

KIND = "a Mask2Former checkpoint of Detectron2"

_PIXELS, _PREDICTOR = r"sem_seg_head\.pixel_decoder\.", r"sem_seg_head\.predictor\."
_LAYER = _PIXELS + r"transformer\.encoder\.layers\.(\d+)\."
_FOLLOWS = Unused("follows from the window")

_SWIN_RULES: list[Rule] = [
    (r"backbone\.patch_embed\.proj\.(.+)", r"backbone.patches.0.\1"),
    (r"backbone\.patch_embed\.norm\.(.+)", r"backbone.patches.2.\1"),
    (r"backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index", _FOLLOWS),
    (r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.(.+)", r"backbone.stages.\1.\2.mlp.0.\3"),
    (r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.(.+)", r"backbone.stages.\1.\2.mlp.3.\3"),
    (r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.((?:norm|attn).+)", r"backbone.stages.\1.\2.\3"),
    (r"backbone\.layers\.(\d+)\.downsample\.(.+)", r"backbone.merges.\1.\2"),
    *((rf"backbone\.norm{stage}\.(.+)", rf"backbone.norms.res{stage + 2}.\1") for stage in range(4)),
]
_RULES: list[Rule] = [
    (r"criterion\.empty_weight", Unused("the losses' class weights come from the config")),
    (r"backbone\.(?:stem|res\d)\..+num_batches_tracked", Unused("frozen BatchNorm counts no batches")),
    (r"(backbone\.(?:stem|res\d)\..+)", r"\1"),
    *_SWIN_RULES,
    (_PIXELS + r"input_proj\.(\d)\.(.+)", r"pixel_decoder.input_projections.\1.\2"),
    (_PIXELS + r"transformer\.level_embed", "pixel_decoder.level_embedding"),
    (_LAYER + r"self_attn\.(.+)", r"pixel_decoder.layers.\1.attention.\2"),
    (_LAYER + r"norm1\.(.+)", r"pixel_decoder.layers.\1.attention_norm.\2"),
    (_LAYER + r"linear1\.(.+)", r"pixel_decoder.layers.\1.ffn.0.\2"),
    (_LAYER + r"linear2\.(.+)", r"pixel_decoder.layers.\1.ffn.2.\2"),
    (_LAYER + r"norm2\.(.+)", r"pixel_decoder.layers.\1.ffn_norm.\2"),
    (_PIXELS + r"adapter_1\.norm\.(.+)", r"pixel_decoder.lateral.1.\1"),
    (_PIXELS + r"adapter_1\.(.+)", r"pixel_decoder.lateral.0.\1"),
    (_PIXELS + r"layer_1\.norm\.(.+)", r"pixel_decoder.output.1.\1"),
    (_PIXELS + r"layer_1\.(.+)", r"pixel_decoder.output.0.\1"),
    (_PIXELS + r"mask_features\.(.+)", r"pixel_decoder.mask_features.\1"),
    (
        _PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
        r"decoder.layers.\1.cross_attention.\2",
    ),
    (_PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.norm\.(.+)", r"decoder.layers.\1.cross_norm.\2"),
    (
        _PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)",
        r"decoder.layers.\1.self_attention.\2",
    ),
    (_PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.norm\.(.+)", r"decoder.layers.\1.self_norm.\2"),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.linear1\.(.+)", r"decoder.layers.\1.ffn.0.\2"),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.linear2\.(.+)", r"decoder.layers.\1.ffn.2.\2"),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.norm\.(.+)", r"decoder.layers.\1.ffn_norm.\2"),
    (_PREDICTOR + r"decoder_norm\.(.+)", r"decoder.output_norm.\1"),
    (_PREDICTOR + r"(?:query_feat|static_query)\.weight", "decoder.query_content"),  # the second in its oldest files
    (_PREDICTOR + r"query_embed\.weight", "decoder.query_position"),
    (_PREDICTOR + r"level_embed\.weight", "decoder.level_embedding"),
    (_PREDICTOR + r"class_embed\.(.+)", r"decoder.class_head.\1"),
    *((_PREDICTOR + rf"mask_embed\.layers\.{i}\.(.+)", rf"decoder.mask_head.{2 * i}.\1") for i in range(3)),
]


def convert_mask2former(state: Mapping[str, Tensor]) -> Conversion:
    """Rename a Mask2Former of Detectron2.

    Args:
        state: tensors by their names there.

    Raises:
        ValueError: a name that no rule explains, for example of another pixel decoder.
    """
    return rename(state, _RULES, KIND)
