"""Checkpoints of other projects compute here what they compute there."""

import importlib.util
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtaclip.checkpoint.loading import load_weights, read_checkpoint
from mtaclip.checkpoint.renaming import Unused, rename
from mtaclip.checkpoint.starting import load_start
from mtaclip.conversion.foreign import read_foreign
from mtaclip.conversion.writing import write_converted
from mtaclip.data.vocabulary import load_vocabulary
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor

DATA = Path(__file__).parent / "data"
ENCODER = "model.pixel_level_module.encoder."


@pytest.fixture
def folder(tmp_path):
    """A function from "resnet" or "swin" to a complete folder of Hugging Face, which a test may change."""

    def copy(tower: str) -> Path:
        target = shutil.copytree(DATA / tower, tmp_path / tower)
        head = {k: v for k, v in load_file(DATA / "swin/model.safetensors").items() if not k.startswith(ENCODER)}
        save_file(head | load_file(DATA / tower / "model.safetensors"), target / "model.safetensors")
        return target

    return copy


def edit(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    """Change a JSON file."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def convert(source: Path, kind: str, *opts: str) -> Predictor:
    target = source.parent / "converted.pth"
    write_converted(read_foreign(source, kind), source, target, opts=opts)
    # Of tiny maps, PyTorch's GroupNorm is less precise with channels last.
    return Predictor.from_checkpoint(target, device="cpu", opts=["SOLVER.CHANNELS_LAST", "False"])


@torch.no_grad()
def check_golden(predictor: Predictor, tower: str) -> None:
    golden = load_file(DATA / tower / "golden.safetensors")
    predictions = predictor.model.predict(predictor.model.normalise(golden["image"])[None])
    torch.testing.assert_close(predictions.class_logits[-1], golden["class"], rtol=0, atol=1e-5)
    torch.testing.assert_close(predictions.mask_logits(), golden["masks"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tower", ["resnet", "swin"])
def test_hugging_face_models_compute_the_same(folder, tower):
    predictor = convert(folder(tower), "maskformer-hf")
    check_golden(predictor, tower)
    cfg = predictor.cfg
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN)
    torch.testing.assert_close(mean, torch.tensor([102, 127.5, 153]))  # 255 times the processor's
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.MODEL.MTACLIP.DECODER.HEADS) == (64, 128, 4)
    assert predictor.class_names == ("road", "sky", "tree") and cfg.MODEL.MTACLIP.TEXT.VOCABULARY == "folder"
    assert predictor(torch.zeros(3, 40, 60, dtype=torch.uint8)).labels.shape == (40, 60)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed (the extra `bench`)"
)
@pytest.mark.parametrize("tower", ["resnet", "swin"])
@torch.no_grad()
def test_hugging_face_models_compute_the_same_live(folder, tower):
    """The same weights in the installed transformers, on an image of another size."""
    from transformers import Mask2FormerForUniversalSegmentation

    source = folder(tower)
    image = torch.randn(2, 3, 131, 100)
    theirs = Mask2FormerForUniversalSegmentation.from_pretrained(source, dtype=torch.float32)(pixel_values=image)
    ours = convert(source, "maskformer-hf").model.predict(image)
    torch.testing.assert_close(ours.class_logits[-1], theirs.class_queries_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.mask_logits(), theirs.masks_queries_logits, rtol=0, atol=1e-4)


# Names of Mask2Former's own code for those of Hugging Face, as its modules are called there.
ORIGINAL_NAMES = [
    (ENCODER + r"embedder\.embedder\.convolution\.", "backbone.stem.conv1."),
    (ENCODER + r"embedder\.embedder\.normalization\.", "backbone.stem.conv1.norm."),
    *(
        (
            ENCODER + rf"encoder\.stages\.{s}\.layers\.(\d+)\.{theirs}\.{part}\.",
            rf"backbone.res{s + 2}.\1.{ours}.{norm}",
        )
        for s in range(4)
        for theirs, ours in [(r"layer\.0", "conv1"), (r"layer\.1", "conv2"), (r"layer\.2", "conv3")]
        + [("shortcut", "shortcut")]
        for part, norm in [("convolution", ""), ("normalization", "norm.")]
    ),
    (ENCODER + r"embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
    (ENCODER + r"embeddings\.norm\.", "backbone.patch_embed.norm."),
    (ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.layernorm_before\.", r"backbone.layers.\1.blocks.\2.norm1."),
    (ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.layernorm_after\.", r"backbone.layers.\1.blocks.\2.norm2."),
    (ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.intermediate\.dense\.", r"backbone.layers.\1.blocks.\2.mlp.fc1."),
    (ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.output\.dense\.", r"backbone.layers.\1.blocks.\2.mlp.fc2."),
    (
        ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.attention\.output\.dense\.",
        r"backbone.layers.\1.blocks.\2.attn.proj.",
    ),
    (
        ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.attention\.self\.query\.",
        r"backbone.layers.\1.blocks.\2.attn.qkv.",
    ),
    (ENCODER + r"encoder\.layers\.(\d)\.blocks\.(\d)\.attention\.self\.rel", r"backbone.layers.\1.blocks.\2.attn.rel"),
    (ENCODER + r"encoder\.layers\.(\d)\.downsample\.", r"backbone.layers.\1.downsample."),
    *((ENCODER + rf"hidden_states_norms\.stage{s + 1}\.", f"backbone.norm{s}.") for s in range(4)),
    (r"model\.pixel_level_module\.decoder\.input_projections\.", "sem_seg_head.pixel_decoder.input_proj."),
    (r"model\.pixel_level_module\.decoder\.level_embed", "sem_seg_head.pixel_decoder.transformer.level_embed"),
    (r"model\.pixel_level_module\.decoder\.encoder\.", "sem_seg_head.pixel_decoder.transformer.encoder."),
    (r"(transformer\.encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(transformer\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"(transformer\.encoder\.layers\.\d+)\.fc(\d)\.", r"\1.linear\2."),
    (r"model\.pixel_level_module\.decoder\.(adapter_1|layer_1)\.0\.", r"sem_seg_head.pixel_decoder.\1."),
    (r"model\.pixel_level_module\.decoder\.(adapter_1|layer_1)\.1\.", r"sem_seg_head.pixel_decoder.\1.norm."),
    (r"model\.pixel_level_module\.decoder\.mask_projection\.", "sem_seg_head.pixel_decoder.mask_features."),
    (r"model\.transformer_module\.queries_embedder\.", "sem_seg_head.predictor.query_embed."),
    (r"model\.transformer_module\.queries_features\.", "sem_seg_head.predictor.query_feat."),
    (r"model\.transformer_module\.level_embed\.", "sem_seg_head.predictor.level_embed."),
    (r"model\.transformer_module\.decoder\.layernorm\.", "sem_seg_head.predictor.decoder_norm."),
    (
        r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.",
        r"sem_seg_head.predictor.mask_embed.layers.\1.",
    ),
    (r"class_predictor\.", "sem_seg_head.predictor.class_embed."),
    *(
        (
            rf"model\.transformer_module\.decoder\.layers\.(\d)\.{theirs}",
            rf"sem_seg_head.predictor.transformer_{ours}",
        )
        for theirs, ours in [
            (r"self_attn\.q_proj\.", r"self_attention_layers.\1.self_attn.in_proj_"),
            (r"self_attn\.out_proj\.", r"self_attention_layers.\1.self_attn.out_proj."),
            (r"self_attn_layer_norm\.", r"self_attention_layers.\1.norm."),
            (r"cross_attn\.", r"cross_attention_layers.\1.multihead_attn."),
            (r"cross_attn_layer_norm\.", r"cross_attention_layers.\1.norm."),
            (r"fc(\d)\.", r"ffn_layers.\1.linear\2."),
            (r"final_layer_norm\.", r"ffn_layers.\1.norm."),
        ]
    ),
]


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of Hugging Face under the names, and with the fused projections, of Mask2Former's own code."""
    result = {}
    for name, tensor in state.items():
        if re.search(r"\.(k_proj|v_proj|key|value|swin\.layernorm)\.(weight|bias)$", name):  # fused, or unused
            continue
        if match := re.search(r"\.(q_proj|query)\.(weight|bias)$", name):
            others = ("k_proj", "v_proj") if match[1] == "q_proj" else ("key", "value")
            tensor = torch.cat([tensor, *(state[name.replace(match[1], other)] for other in others)])
        for pattern, replacement in ORIGINAL_NAMES:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor.float()
    return result


@pytest.mark.parametrize("tower", ["resnet", "swin"])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_detectron2_models_compute_the_same(folder, tower, suffix):
    source = folder(tower)
    state = original(load_file(source / "model.safetensors"))
    if tower == "resnet":  # frozen BatchNorm counts no batches
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    state["criterion.empty_weight"] = torch.ones(4)
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(36, 36, dtype=torch.long)
    file = source.parent / f"model_final{suffix}"
    if suffix == ".pkl":  # as Detectron2's model zoo has them
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", "matching_heuristics": True}))
    else:
        torch.save({"model": state, "iteration": 159999}, file)
    predictor = convert(
        file, "mask2former", "MODEL.MTACLIP.DECODER.HEADS", "4", "MODEL.MTACLIP.PIXEL_DECODER.HEADS", "4",
        "MODEL.PIXEL_MEAN", "[102, 127.5, 153]", "MODEL.PIXEL_STD", "[63.75, 51, 63.75]",
    )  # fmt: skip
    check_golden(predictor, tower)
    conversion = read_foreign(file, "mask2former")
    assert set(conversion.names) | set(conversion.dropped) == set(state)
    assert "criterion.empty_weight -> dropped: the losses' class weights" in conversion.listing()


def test_the_oldest_name_of_the_queries_is_known(folder):
    source = folder("resnet")
    state = original(load_file(source / "model.safetensors"))
    state["sem_seg_head.predictor.static_query.weight"] = state.pop("sem_seg_head.predictor.query_feat.weight")
    torch.save({"model": state}, source / "old.pth")
    assert "decoder.query_content" in read_foreign(source / "old.pth", "mask2former").state


@pytest.mark.parametrize("tower", ["resnet", "swin"])
def test_a_baseline_starts_a_model_with_texts(folder, tower):
    baseline = convert(folder(tower), "maskformer-hf")
    cfg = baseline.cfg
    cfg.defrost()
    cfg.merge_from_list(["MODEL.MTACLIP.TEXT.ENABLED", True, "MODEL.CLIP.ARCH", "mtaclip-tiny"])
    model = build_model(cfg)
    load_start(model, baseline.model.state_dict(), "baseline", ["text"])
    for name, tensor in baseline.model.state_dict().items():
        rows = slice(cfg.MODEL.MTACLIP.DECODER.NUM_QUERIES if name == "decoder.query_position" else None)
        assert torch.equal(model.state_dict()[name][rows], tensor)


@pytest.mark.parametrize("count", [150, 19])
def test_class_names_tell_whose_dataset_a_model_is_for(folder, count):
    source = folder("resnet")
    state = load_file(source / "model.safetensors")
    state |= {"class_predictor.weight": torch.randn(count + 1, 32), "class_predictor.bias": torch.randn(count + 1)}
    save_file({k: v for k, v in state.items() if k != "criterion.empty_weight"}, source / "model.safetensors")
    names = load_vocabulary({150: "ade20k", 19: "cityscapes"}[count], count)
    edit(source, "config.json", lambda config: config.update(id2label=dict(enumerate(names))))
    cfg = convert(source, "maskformer-hf").cfg
    (dataset,) = cfg.DATASETS.TEST
    assert dataset == {150: "ade20k_150_sem_seg_val", 19: "cityscapes_sem_seg_val"}[count]
    edit(source, "config.json", lambda config: config.update(id2label=dict(enumerate(reversed(names)))))
    assert convert(source, "maskformer-hf").class_names == tuple(names[::-1])
    assert [file.name for file in source.parent.iterdir() if file.is_file()] == ["converted.pth"]


@pytest.mark.parametrize("first", ["a", "b; c", " "])
def test_names_that_are_no_texts_make_no_vocabulary(folder, first):
    source = folder("swin")
    edit(source, "config.json", lambda config: config.update(id2label={"0": first, "1": "a", "2": "b"}))
    cfg = convert(source, "maskformer-hf").cfg
    assert cfg.MODEL.MTACLIP.TEXT.VOCABULARY == "ade20k" and cfg.DATASETS.TEST == cfg.DATASETS.FOLDER.NAMES == ()


def test_a_model_with_class_names_of_its_own_is_published_with_them(folder, tmp_path):
    convert(folder("swin"), "maskformer-hf").save_pretrained(tmp_path / "published")
    published = Predictor.from_pretrained(tmp_path / "published", "cpu")
    assert published.class_names == ("road", "sky", "tree")
    card = ModelCard.load(tmp_path / "published" / "README.md")
    assert "the Mask2Former baseline of MTA-CLIP with a Swin Transformer as image tower" in card.text
    assert "with the image tower of CLIP" not in card.text
    assert card.data.tags == ["semantic-segmentation", "detectron2"]


@pytest.mark.parametrize(
    ("processor", "expected", "note"),
    [
        ({"size": {"height": 384, "width": 512}}, (384, 512), "384 x 512"),
        ({"size": {"shortest_edge": 512, "longest_edge": 2048}}, (512, 2048), ""),
        ({"do_resize": False}, (0, 1333), ""),
        ({"size": None}, (800, 1333), "names no size"),
        ({"do_normalize": False}, (64, 128), ""),
    ],
)
def test_sizes_of_the_image_processor(folder, processor, expected, note):
    source = folder("swin")
    edit(source, "preprocessor_config.json", lambda config: config.update(processor))
    conversion = read_foreign(source, "maskformer-hf")
    assert note in " ".join(conversion.notes)
    cfg = convert(source, "maskformer-hf").cfg
    edges = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    assert edges == expected


def test_a_folder_without_an_image_processor_says_so(folder):
    source = folder("swin")
    (source / "preprocessor_config.json").unlink()
    conversion = read_foreign(source, "maskformer-hf")
    assert "no preprocessor_config.json" in " ".join(conversion.notes)
    assert convert(source, "maskformer-hf").cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]


def test_a_config_file_decides_what_tensors_do_not(folder, tmp_path, config_path):
    source, target = folder("resnet"), tmp_path / "out" / "converted.pth"
    file = tmp_path / "mine.yaml"
    base = config_path("bases/common.yaml")
    file.write_text(f"_BASE_: {base}\nMODEL: {{SEM_SEG_HEAD: {{NUM_CLASSES: 7}}, DEVICE: cpu}}\nSEED: 5\n")
    write_converted(read_foreign(source, "maskformer-hf"), source, target, config_file=file, opts=["SEED", "6"])
    cfg = Predictor.from_checkpoint(target, device="cpu").cfg
    assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.SOLVER.WEIGHT_DECAY, cfg.SEED) == (3, 0.02, 6)
    assert cfg.MODEL.PIXEL_MEAN[1] == pytest.approx(127.5)  # the image processor's, not the file's
    assert [file.name for file in target.parent.iterdir()] == ["converted.pth"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_norm": True}, r"pre_norm is True, and only False can be converted"),
        ({"model_type": "maskformer"}, r"model_type is 'maskformer', and only 'mask2former'"),
        ({"backbone_config": {"model_type": "focalnet"}}, r"the backbone is 'focalnet', and only resnet and swin"),
        ({"backbone_config": None}, r"the backbone is None"),
        ({"backbone_config": {"model_type": "swin", "mlp_ratio": 2.0}}, r"backbone_config\.mlp_ratio is 2\.0"),
        ({"id2label": ["road"]}, r"not as maskformer-hf writes it"),
        ({"backbone_config": ["swin"]}, r"not as maskformer-hf writes it"),
        ({"backbone_config": {"model_type": "resnet"}}, r"no rule for .* explains \d+ of its tensors: model\.pixel"),
    ],
)
def test_a_model_that_cannot_be_ours_is_refused(folder, change, message):
    source = folder("swin")
    edit(source, "config.json", lambda config: config.update(change))
    with pytest.raises(ValueError, match=message):
        read_foreign(source, "maskformer-hf")


@pytest.mark.parametrize(
    ("heads", "message"), [(0, r"swin: its model cannot be built"), (5, r"HIDDEN_DIM 32"), ("many", r"HEADS")]
)
def test_impossible_heads_are_refused(folder, heads, message):
    source = folder("swin")
    edit(source, "config.json", lambda config: config.update(num_attention_heads=heads))
    with pytest.raises(ValueError, match=message):
        convert(source, "maskformer-hf")


def test_damaged_folders_are_named(folder, tmp_path):
    source = folder("swin")
    with pytest.raises(ValueError, match=r"model\.safetensors is a file: name the folder"):
        read_foreign(source / "model.safetensors", "maskformer-hf")
    (source / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: holds a list"):
        read_foreign(source, "maskformer-hf")
    (source / "config.json").write_text('{"model_type"')
    with pytest.raises(ValueError, match=r"config\.json: damaged, this is not JSON"):
        read_foreign(source, "maskformer-hf")
    (source / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there"):
        read_foreign(source, "maskformer-hf")


def test_every_tensor_is_needed_and_explained(folder):
    source = folder("swin")
    # Copies, because old versions of safetensors return views of the file, which is overwritten here.
    state = {name: tensor.clone() for name, tensor in load_file(source / "model.safetensors").items()}
    for name, message in [
        ("model.transformer_module.level_embed.weight", r"missing \(decoder\.level_embedding\)"),
        ("model.transformer_module.queries_features.weight", r"not a complete model of this kind, it lacks decoder\.q"),
        ("model.transformer_module.decoder.layers.0.self_attn.k_proj.weight", r"of which not all are there"),
    ]:
        save_file({key: tensor for key, tensor in state.items() if key != name}, source / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            convert(source, "maskformer-hf")
        assert not (source.parent / "converted.pth").exists()
    save_file(state | {"class_predictor.scale": torch.ones(1)}, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"swin: no rule for .* explains 1 of its tensors: class_predictor\.scale"):
        read_foreign(source, "maskformer-hf")


def test_rules():
    rules = [(r"a\.(\d)", r"b.\1"), (r"old\.(\d)", r"b.\1"), (r"x", Unused("it is old"))]
    conversion = rename({"a.1": torch.ones(2), "x": torch.ones(1)}, rules[:3], "a test")
    assert conversion.state.keys() == {"b.1"} and conversion.dropped == {"x": "it is old"}
    with pytest.raises(ValueError, match=r"old\.1 and another tensor would both become b\.1"):
        rename({"a.1": torch.ones(2), "old.1": torch.ones(2)}, rules, "a test")
    with pytest.raises(ValueError, match=r"no rule for a test explains 4 of its tensors: c, d, e, \.\.\."):
        rename(dict.fromkeys("cdef", torch.ones(1)), rules, "a test")


@pytest.mark.parametrize("read", [lambda path: read_foreign(path, "mtaclip-mmseg"), read_checkpoint])
def test_signs_that_a_terminal_obeys_are_escaped(tmp_path, read):
    torch.save({"state_dict": {"decode_head.query\x1b[2J\0": torch.zeros(1)}}, tmp_path / "names.pth")
    with pytest.raises(ValueError, match=r"names\.pth: no rule .*: decode_head\.query\\x1b\[2J\\x00\.$"):
        read(tmp_path / "names.pth")


def test_also_in_the_name_of_a_class(tmp_path, monkeypatch):
    odd = type("Odd\x1b[2J", (), {"__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], odd.__name__, odd, raising=False)
    torch.save({"model": {"a": odd()}}, tmp_path / "names.pth")
    with pytest.raises(ValueError, match=r"'a' is a Odd\\x1b\[2J\.$"):
        read_foreign(tmp_path / "names.pth", "mtaclip-mmseg")


def test_also_where_a_name_does_not_fit(tmp_path):
    torch.save({"bias": torch.zeros(1), "weight": torch.zeros(1, 1), "x\x1b": torch.zeros(1)}, tmp_path / "names.pth")
    with pytest.raises(ValueError, match=r"1 tensors unexpected \(x\\x1b\)"):
        load_weights(torch.nn.Linear(1, 1), tmp_path / "names.pth")
