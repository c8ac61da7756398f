"""Text tower behind learned contexts, and tokens, against the authors' text encoder."""

import open_clip
import pytest
import torch

from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts, tokenize


def small_clip(config: dict) -> torch.nn.Module:
    return open_clip.CLIP(
        embed_dim=config["embed_dim"],
        quick_gelu=True,
        vision_cfg={"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None},
        text_cfg={
            "context_length": config["context_length"],
            "vocab_size": config["vocab_size"],
            "width": config["transformer_width"],
            "heads": config["transformer_heads"],
            "layers": config["transformer_layers"],
        },
    )


@pytest.fixture
def load_texts():
    def load(golden: dict) -> PromptedTexts:
        config = golden["config"]
        encoder = CLIPTextEncoder(small_clip(config), config["context_length"])
        encoder.load_state_dict(golden["state_dict"])
        texts = PromptedTexts(
            encoder,
            golden["class_names"],
            num_contexts=config["n_contexts"],
            context_length=config["n_learnable"],
            token_length=config["text_tokens"],
        )
        texts.contexts.data.copy_(golden["contexts"])
        texts.tokens = golden["token_ids"]
        return texts

    return load


def test_embeddings_and_context_gradient_equal_the_authors(text_file, load_texts):
    golden = torch.load(text_file, weights_only=True)
    texts = load_texts(golden)
    embeddings = texts()
    torch.testing.assert_close(embeddings, golden["embeddings"], rtol=0, atol=1e-5)
    embeddings.backward(golden["grad_output"])
    scale = golden["grad_contexts"].abs().max()
    torch.testing.assert_close(texts.contexts.grad / scale, golden["grad_contexts"] / scale, rtol=0, atol=2e-5)
    assert all(p.grad is None for p in texts.encoder.parameters()), "the text tower is frozen"


def test_kept_embeddings_equal_fresh_ones(text_file, load_texts):
    golden = torch.load(text_file, weights_only=True)
    texts = load_texts(golden).eval()
    with torch.no_grad():
        first, second = texts(), texts()
    assert first is second
    torch.testing.assert_close(first, golden["embeddings"], rtol=0, atol=1e-5)


def test_tokens_equal_clips(text_file):
    golden = torch.load(text_file, weights_only=True)
    length = golden["config"]["text_tokens"]
    assert torch.equal(tokenize(golden["class_names"], length), golden["token_ids_clip"])
    for names, ids in (
        ("ade20k_class_names_plus_none", "ade20k_token_ids"),
        ("cityscapes_class_names_plus_none", "cityscapes_token_ids"),
    ):
        if names in golden:
            assert torch.equal(tokenize(golden[names], golden[ids].shape[1]), golden[ids].long())
