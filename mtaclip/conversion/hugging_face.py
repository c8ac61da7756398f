"""Names and configs of Hugging Face's `Mask2FormerForUniversalSegmentation` in this project's terms."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mtaclip.checkpoint.renaming import Conversion, Rule, Unused, rename

KIND = "a Mask2Former of Hugging Face"

_TOWER, _PIXELS = r"model\.pixel_level_module\.encoder\.", r"model\.pixel_level_module\.decoder\."
_LAYER = _PIXELS + r"encoder\.layers\.(\d+)\."
_QUERIES = r"model\.transformer_module\."
_DECODER = _QUERIES + r"decoder\.layers\.(\d+)\."
_STAGE = _TOWER + r"encoder\.layers\.(\d)\."
_BLOCK = _STAGE + r"blocks\.(\d+)\."
_RESIDUAL = _TOWER + r"encoder\.stages\.{}\.layers\.(\d+)\."

_RESNET_RULES: list[Rule] = [
    (_TOWER + r".+num_batches_tracked", Unused("frozen BatchNorm counts no batches")),
    (_TOWER + r"embedder\.embedder\.convolution\.(.+)", r"backbone.stem.conv1.\1"),
    (_TOWER + r"embedder\.embedder\.normalization\.(.+)", r"backbone.stem.conv1.norm.\1"),
]
for _stage in range(4):
    _theirs, _ours = _RESIDUAL.format(_stage), rf"backbone.res{_stage + 2}.\1."
    _RESNET_RULES += [
        (_theirs + r"shortcut\.convolution\.(.+)", _ours + r"shortcut.\2"),
        (_theirs + r"shortcut\.normalization\.(.+)", _ours + r"shortcut.norm.\2"),
    ]
    for _index in range(3):
        _RESNET_RULES += [
            (_theirs + rf"layer\.{_index}\.convolution\.(.+)", _ours + rf"conv{_index + 1}.\2"),
            (_theirs + rf"layer\.{_index}\.normalization\.(.+)", _ours + rf"conv{_index + 1}.norm.\2"),
        ]

_SWIN_RULES: list[Rule] = [
    (_TOWER + r"(?:swin\.)?layernorm\..+", Unused("norm of a classifier")),
    (_TOWER + r"embeddings\.patch_embeddings\.projection\.(.+)", r"backbone.patches.0.\1"),
    (_TOWER + r"embeddings\.norm\.(.+)", r"backbone.patches.2.\1"),
    (_BLOCK + r"attention\.self\.relative_position_index", Unused("follows from the window")),
    (
        _BLOCK + r"attention\.self\.relative_position_bias_table",
        r"backbone.stages.\1.\2.attn.relative_position_bias_table",
    ),
    *(
        (_BLOCK + rf"attention\.self\.{name}\.(.+)", rf"backbone.stages.\1.\2.attn.qkv.\3#{part}")
        for part, name in enumerate(("query", "key", "value"))
    ),
    (_BLOCK + r"attention\.output\.dense\.(.+)", r"backbone.stages.\1.\2.attn.proj.\3"),
    (_BLOCK + r"layernorm_before\.(.+)", r"backbone.stages.\1.\2.norm1.\3"),
    (_BLOCK + r"layernorm_after\.(.+)", r"backbone.stages.\1.\2.norm2.\3"),
    (_BLOCK + r"intermediate\.dense\.(.+)", r"backbone.stages.\1.\2.mlp.0.\3"),
    (_BLOCK + r"output\.dense\.(.+)", r"backbone.stages.\1.\2.mlp.3.\3"),
    (_STAGE + r"downsample\.(.+)", r"backbone.merges.\1.\2"),
    *(
        (_TOWER + rf"hidden_states_norms\.stage{stage + 1}\.(.+)", rf"backbone.norms.res{stage + 2}.\1")
        for stage in range(4)
    ),
]
_HEAD_RULES: list[Rule] = [
    (r"criterion\.empty_weight", Unused("the losses' class weights come from the config")),
    (_PIXELS + r"level_embed", "pixel_decoder.level_embedding"),
    (_PIXELS + r"input_projections\.(\d)\.(.+)", r"pixel_decoder.input_projections.\1.\2"),
    (_LAYER + r"self_attn\.(.+)", r"pixel_decoder.layers.\1.attention.\2"),
    (_LAYER + r"self_attn_layer_norm\.(.+)", r"pixel_decoder.layers.\1.attention_norm.\2"),
    (_LAYER + r"fc1\.(.+)", r"pixel_decoder.layers.\1.ffn.0.\2"),
    (_LAYER + r"fc2\.(.+)", r"pixel_decoder.layers.\1.ffn.2.\2"),
    (_LAYER + r"final_layer_norm\.(.+)", r"pixel_decoder.layers.\1.ffn_norm.\2"),
    (_PIXELS + r"adapter_1\.(.+)", r"pixel_decoder.lateral.\1"),
    (_PIXELS + r"layer_1\.(.+)", r"pixel_decoder.output.\1"),
    (_PIXELS + r"mask_projection\.(.+)", r"pixel_decoder.mask_features.\1"),
    (_DECODER + r"cross_attn\.(.+)", r"decoder.layers.\1.cross_attention.\2"),
    (_DECODER + r"cross_attn_layer_norm\.(.+)", r"decoder.layers.\1.cross_norm.\2"),
    *(
        (_DECODER + rf"self_attn\.{name}_proj\.(.+)", rf"decoder.layers.\1.self_attention.in_proj_\2#{part}")
        for part, name in enumerate("qkv")
    ),
    (_DECODER + r"self_attn\.out_proj\.(.+)", r"decoder.layers.\1.self_attention.out_proj.\2"),
    (_DECODER + r"self_attn_layer_norm\.(.+)", r"decoder.layers.\1.self_norm.\2"),
    (_DECODER + r"fc1\.(.+)", r"decoder.layers.\1.ffn.0.\2"),
    (_DECODER + r"fc2\.(.+)", r"decoder.layers.\1.ffn.2.\2"),
    (_DECODER + r"final_layer_norm\.(.+)", r"decoder.layers.\1.ffn_norm.\2"),
    (_QUERIES + r"decoder\.layernorm\.(.+)", r"decoder.output_norm.\1"),
    *(
        (_QUERIES + rf"decoder\.mask_predictor\.mask_embedder\.{i}\.0\.(.+)", rf"decoder.mask_head.{2 * i}.\1")
        for i in range(3)
    ),
    (_QUERIES + r"queries_features\.weight", "decoder.query_content"),
    (_QUERIES + r"queries_embedder\.weight", "decoder.query_position"),
    (_QUERIES + r"level_embed\.weight", "decoder.level_embedding"),
    (r"class_predictor\.(weight|bias)", r"decoder.class_head.\1"),
]
_RULES = {"resnet": _RESNET_RULES + _HEAD_RULES, "swin": _SWIN_RULES + _HEAD_RULES}
# What this project's model has no other choice for: keys of config.json and the only value of each.
_ONLY = {
    "model_type": "mask2former",
    "activation_function": "relu",
    "pre_norm": False,
    "enforce_input_projection": False,
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
}
_ONLY_IN_TOWER = {
    "resnet": {"hidden_act": "relu", "downsample_in_first_stage": False, "num_channels": 3},
    "swin": {
        "hidden_act": "gelu",
        "patch_size": 4,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
        "num_channels": 3,
    },
}
_POINTS = 4  # of the pixel decoder's attention, a constant there


def convert_hugging_face(
    state: Mapping[str, Tensor], config: Mapping[str, Any], processor: Mapping[str, Any] | None
) -> Conversion:
    """Rename a Mask2Former of Hugging Face and translate what it says about itself.

    Args:
        state: tensors by their names there.
        config: content of config.json.
        processor: content of preprocessor_config.json; None if there is none.

    Raises:
        ValueError: a name that no rule explains, or a model that this project's cannot be.
    """
    tower = config.get("backbone_config") or {}
    kind = tower.get("model_type")
    _check(config, _ONLY, "")
    if kind not in _RULES:
        raise ValueError(f"config.json: the backbone is {kind!r}, and only {' and '.join(_RULES)} can be converted")
    _check(tower, _ONLY_IN_TOWER[kind], "backbone_config.")
    conversion = rename(state, _RULES[kind], KIND)
    heads = config.get("num_attention_heads", 8)
    conversion.facts = {
        "MODEL.MTACLIP.PIXEL_DECODER.HEADS": heads,
        "MODEL.MTACLIP.PIXEL_DECODER.POINTS": _POINTS,
        "MODEL.MTACLIP.DECODER.HEADS": heads,
    }
    if kind == "resnet":
        conversion.facts["MODEL.RESNETS.STRIDE_IN_1X1"] = bool(tower.get("downsample_in_bottleneck", False))
    else:
        conversion.facts["MODEL.SWIN.DROP_PATH"] = float(tower.get("drop_path_rate", 0.1))
    conversion.classes = _classes(config)
    if processor is None:
        conversion.notes.append("There is no preprocessor_config.json: size and normalisation of images are assumed.")
    else:
        conversion.facts |= _normalisation(processor)
        conversion.guesses, conversion.notes = _size(processor)
    return conversion


def _check(config: Mapping[str, Any], only: Mapping[str, Any], where: str) -> None:
    for key, value in only.items():
        if config.get(key, value) != value:
            raise ValueError(f"config.json: {where}{key} is {config[key]!r}, and only {value!r} can be converted")


def _classes(config: Mapping[str, Any]) -> list[str]:
    """Class names; none where nobody gave them any."""
    by_id = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    names = [name for _, name in sorted(by_id.items())]
    return [] if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def _normalisation(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and deviation for pixels in 0..255, of an image processor that may scale them first."""
    scale = 1 / processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if processor.get("do_normalize", True):
        mean, std = processor["image_mean"], processor["image_std"]
    return {
        "MODEL.PIXEL_MEAN": [round(scale * value, 6) for value in mean],
        "MODEL.PIXEL_STD": [round(scale * value, 6) for value in std],
    }


def _size(processor: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The size that an image processor gives images, and what of that cannot be done here."""
    size = processor.get("size") or {}
    if not processor.get("do_resize", True):
        return {"INPUT.MIN_SIZE_TEST": 0}, []
    if "shortest_edge" in size:
        longest = size.get("longest_edge") or 1333
        return {"INPUT.MIN_SIZE_TEST": size["shortest_edge"], "INPUT.MAX_SIZE_TEST": longest}, []
    if "height" in size and "width" in size:
        edges = sorted((size["height"], size["width"]))
        note = (
            f"There, every image becomes {size['height']} x {size['width']} pixels (height x width); here, it keeps "
            f"its shape within edges of {edges[0]} and {edges[1]} pixels (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST)."
        )
        return {"INPUT.MIN_SIZE_TEST": edges[0], "INPUT.MAX_SIZE_TEST": edges[1]}, [note]
    return {}, ["preprocessor_config.json names no size of images: it is assumed."]
