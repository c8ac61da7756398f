"""CLIP weights in the formats that people have, and what is checked before they are used."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtaclip.modeling.clip import build_clip

HUGGING_FACE = Path(__file__).parent / "data" / "hugging_face_clip"  # made by transformers 5.24, with its embeddings
TEXT = {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "head_width": 8, "patch_size": None}


@pytest.fixture
def arch(tmp_path):
    """A function that writes the config of a small CLIP model and returns its path for MODEL.CLIP.ARCH."""

    def write(vision: dict = VIT, *, quick_gelu: bool = True, **changes) -> str:
        name = f"small-{len(list(tmp_path.glob('small-*')))}-{tmp_path.name}.json"  # open_clip remembers names for ever
        vision = vision | {key: value for key, value in changes.items() if key in vision}
        text = TEXT | {key: value for key, value in changes.items() if key in TEXT}
        config = {"embed_dim": 8, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": text}
        (tmp_path / name).write_text(json.dumps(config))
        return str(tmp_path / name)

    return write


def random_clip(arch: str) -> nn.Module:
    torch.manual_seed(1)
    return build_clip(arch).eval()


def save_openai(model: nn.Module, path: Path) -> None:
    """As OpenAI published its models: a TorchScript archive in half precision, with three numbers more."""
    for name, value in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 50)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    torch.jit.script(model.half()).save(str(path))


def hugging_face_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a ViT of open_clip under Hugging Face's names."""
    renamed = {}
    for name, tensor in state.items():
        model = "vision_model" if name.startswith("visual.") else "text_model"
        if "resblocks" in name:
            layer, rest = name.split("resblocks.")[1].split(".", 1)
            parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            for ours, theirs in (parts | {"attn.out_proj": "self_attn.out_proj"}).items():
                rest = rest.replace(ours, theirs)
            if "in_proj_" in rest:
                kind = rest.split("in_proj_")[1]
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{model}.encoder.layers.{layer}.self_attn.{letter}_proj.{kind}"] = part.clone()
            else:
                renamed[f"{model}.encoder.layers.{layer}.{rest}"] = tensor
        elif name in ("visual.proj", "text_projection"):
            renamed[{"visual.proj": "visual_projection.weight"}.get(name, f"{name}.weight")] = tensor.T.contiguous()
        else:
            for ours, theirs in {
                "visual.class_embedding": "vision_model.embeddings.class_embedding",
                "visual.conv1": "vision_model.embeddings.patch_embedding",
                "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
                "visual.ln_pre": "vision_model.pre_layrnorm",
                "visual.ln_post": "vision_model.post_layernorm",
                "token_embedding": "text_model.embeddings.token_embedding",
                "positional_embedding": "text_model.embeddings.position_embedding.weight",
                "ln_final": "text_model.final_layer_norm",
                "logit_scale": "logit_scale",
            }.items():
                if name.startswith(ours):
                    renamed[theirs + name.removeprefix(ours)] = tensor
    return renamed


def save_hugging_face(model: nn.Module, folder: Path, activation: str = "quick_gelu", **changes) -> None:
    """A folder of a CLIP model on the Hugging Face Hub."""
    folder.mkdir(exist_ok=True)
    save_file(hugging_face_state(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    tower = {"hidden_act": activation, "num_attention_heads": 2}
    config = {"model_type": "clip", "text_config": tower, "vision_config": tower | {"patch_size": 16}} | changes
    (folder / "config.json").write_text(json.dumps(config))


def save(model: nn.Module, how: str, path: Path) -> None:
    state = model.state_dict()
    if how == "openai":
        save_openai(model, path)
    elif how == "state dict":
        torch.save(state, path)
    elif how == "open_clip training":
        torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    elif how == "safetensors":
        save_file(state, path)
    elif how == "hugging face":
        save_hugging_face(model, path)
    elif how == "open_clip folder":
        path.mkdir()
        torch.save(state, path / "open_clip_pytorch_model.bin")
        (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))


@pytest.mark.parametrize(
    ("how", "vision"),
    [
        *((how, VIT) for how in ("openai", "state dict", "open_clip training", "safetensors")),
        *((how, VIT) for how in ("hugging face", "open_clip folder")),
        *((how, RESNET) for how in ("openai", "state dict", "safetensors")),
    ],
)
def test_every_format_gives_the_same_model(arch, tmp_path, how, vision):
    name = arch(vision)
    saved = random_clip(name)
    expected = {key: tensor.clone() for key, tensor in saved.state_dict().items()}
    save(saved, how, tmp_path / "weights")
    loaded = build_clip(name, str(tmp_path / "weights"))
    for key, tensor in loaded.state_dict().items():
        if key != "logit_scale":  # of the loss that trains CLIP, which is not used
            rounded = expected[key].half() if how == "openai" and tensor.is_floating_point() else expected[key]
            assert torch.equal(tensor, rounded.to(tensor)), key


def test_embeddings_are_those_of_transformers(arch):
    """Images and texts through the model of a folder that transformers wrote, against its own embeddings."""
    expected = load_file(HUGGING_FACE / "expected.safetensors")
    model = build_clip(arch(), str(HUGGING_FACE)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(expected["images"]), expected["image_embeddings"])
        torch.testing.assert_close(model.encode_text(expected["tokens"]), expected["text_embeddings"])


def test_one_file_of_hugging_face_needs_the_config_beside_it(arch, tmp_path):
    file = shutil.copy(HUGGING_FACE / "model.safetensors", tmp_path / "renamed.bin")
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there, but belongs to the weights"):
        build_clip(arch(), str(file))
    shutil.copy(HUGGING_FACE / "config.json", tmp_path)
    build_clip(arch(), str(file))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({"vision_config": 3, "text_config": {"hidden_act": ["gelu"]}}, "hidden_act .*quick_gelu"),
        ({"vision_config": {"hidden_act": "gelu"}}, r"hidden_act \['gelu', 'quick_gelu'\]"),
        ({"vision_config": {"hidden_act": "relu"}, "text_config": {"hidden_act": "relu"}}, r"hidden_act \['relu'\]"),
        ({"vision_config": {"num_attention_heads": 4}}, "image tower of .* has 4 attention heads, .* 2"),
        ({"vision_config": {"num_attention_heads": 0}}, r"config\.json: num_attention_heads of the image tower is 0"),
        ({"text_config": {"num_attention_heads": "2"}}, r"config\.json: num_attention_heads of the text tower is '2'"),
        ({"vision_config": {"layer_norm_eps": 0.1}}, r"config\.json: layer_norm_eps of the image tower is 0\.1"),
        ({"text_config": {"num_attention_heads": 8}}, "text tower of .* has 8 attention heads, .* 2"),
    ],
)
def test_configs_of_other_models_are_refused(arch, tmp_path, change, words):
    save_hugging_face(random_clip(arch()), tmp_path / "hub", **change)
    with pytest.raises(ValueError, match=words):
        build_clip(arch(), str(tmp_path / "hub"))


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff"])
def test_a_broken_config_is_named(arch, tmp_path, content):
    save_hugging_face(random_clip(arch()), tmp_path / "hub")
    (tmp_path / "hub" / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json: (damaged, this is not JSON|holds a list)"):
        build_clip(arch(), str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("how", "quick_gelu"), [("openai", False), ("hugging face", False), ("open_clip folder", False), ("gelu", True)]
)
def test_another_activation_than_the_weights_is_refused(arch, tmp_path, how, quick_gelu):
    if how == "gelu":
        save_hugging_face(random_clip(arch()), tmp_path / "weights", activation="gelu")
    else:
        save(random_clip(arch()), how, tmp_path / "weights")
    with pytest.raises(ValueError, match="different activations"):
        build_clip(arch(quick_gelu=quick_gelu), str(tmp_path / "weights"))
    build_clip(arch(quick_gelu=not quick_gelu), str(tmp_path / "weights"))


def test_image_positions_are_resized_bilinearly(arch, tmp_path):
    """A 2 x 2 grid with rows a, b for one of 4 x 4: a, 3/4 a + 1/4 b, 1/4 a + 3/4 b, b, whatever the column."""
    state = random_clip(arch()).state_dict()
    a, b = torch.full((16,), 4.0), torch.full((16,), 8.0)
    state["visual.positional_embedding"] = torch.stack([torch.ones(16), a, a, b, b])
    torch.save(state, tmp_path / "clip.pt")
    table = build_clip(arch(image_size=64), str(tmp_path / "clip.pt")).visual.positional_embedding
    assert table[0].tolist() == [1.0] * 16, "the class token's position stays"
    assert table[1:, 0].view(4, 4).tolist() == [[4.0] * 4, [5.0] * 4, [7.0] * 4, [8.0] * 4]


def test_a_resnet_of_another_resolution_loads(arch, tmp_path):
    torch.save(random_clip(arch(RESNET)).state_dict(), tmp_path / "clip.pt")
    assert build_clip(arch(RESNET, image_size=128), str(tmp_path / "clip.pt")).visual.attnpool is not None


def test_text_positions_are_the_first_rows(arch, tmp_path):
    state = random_clip(arch()).state_dict()
    torch.save(state, tmp_path / "clip.pt")
    shorter = build_clip(arch(context_length=7), str(tmp_path / "clip.pt"))
    assert torch.equal(shorter.positional_embedding, state["positional_embedding"][:7])
    with pytest.raises(ValueError, match=r"positional_embedding \(12, 16\) instead of \(20, 16\)"):
        build_clip(arch(context_length=20), str(tmp_path / "clip.pt"))


def test_one_tower_is_enough_where_only_that_is_needed(arch, tmp_path):
    saved = random_clip(arch())
    image = {name: tensor for name, tensor in saved.state_dict().items() if name.startswith("visual.")}
    save_file(image, tmp_path / "image.safetensors")
    loaded = build_clip(arch(), str(tmp_path / "image.safetensors"), tower="image")
    assert torch.equal(loaded.visual.proj, saved.visual.proj)
    for tower in ("text", None):
        with pytest.raises(ValueError, match=r"image\.safetensors holds no text tower"):
            build_clip(arch(), str(tmp_path / "image.safetensors"), tower=tower)
    del image["visual.conv1.weight"]
    save_file(image, tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors missing \(visual\.conv1\.weight\)"):
        build_clip(arch(), str(tmp_path / "image.safetensors"), tower="image")


def test_weights_of_another_model_name_the_first_tensors(arch, tmp_path):
    torch.save(random_clip(arch()).state_dict(), tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"clip\.pt does not fit MODEL\.CLIP\.ARCH .*visual\..* instead of"):
        build_clip(arch(RESNET), str(tmp_path / "clip.pt"))


def test_neither_a_tag_nor_a_file(arch):
    with pytest.raises(ValueError, match=r"'opanai' is neither a file or folder nor a tag.*\['openai', 'yfcc15m'"):
        build_clip("RN50", "opanai", tower="image")
