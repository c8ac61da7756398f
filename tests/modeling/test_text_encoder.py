"""Prompts: positions of tokens, the frozen tower, when kept embeddings are forgotten."""

import open_clip
import pytest
import torch

from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts, tokenize

TEXTS = ["road", "traffic light", "none"]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip("mtaclip-tiny")


def prompted(clip, texts=TEXTS) -> PromptedTexts:
    encoder = CLIPTextEncoder(clip, length=9)
    return PromptedTexts(encoder, texts, num_contexts=2, context_length=4, token_length=5)


def test_contexts_that_are_words_give_clips_own_embedding(clip):
    """With the embeddings of "a photo of the" as context the result is that of the whole sentence."""
    tokenizer = open_clip.get_tokenizer("RN50")
    words = torch.tensor(tokenizer.encode("a photo of the"))
    encoder = CLIPTextEncoder(clip, length=9)
    context = clip.token_embedding(words)[None]
    ours = encoder(context, tokenize(TEXTS, 5))[0]
    theirs = clip.encode_text(tokenizer([f"a photo of the {text}" for text in TEXTS]))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_the_contexts_are_trained(clip):
    texts = prompted(clip)
    texts().sum().backward()
    assert [name for name, p in texts.named_parameters() if p.requires_grad] == ["contexts"]
    assert texts.contexts.grad.abs().sum() > 0


def test_embeddings_are_kept_and_forgotten(clip):
    texts = prompted(clip).eval()
    with torch.no_grad():
        first = texts()
        assert texts() is first
        texts.contexts.mul_(2)
        assert texts() is first, "nothing that forgets has happened yet"
        texts.train().eval()
        second = texts()
        assert not torch.equal(first, second)
        texts.load_state_dict(texts.state_dict())
        assert texts() is not second
        third = texts()
        texts.set_texts(["none", "road", "traffic light"])
        torch.testing.assert_close(texts(), third[:, [2, 0, 1]])


def test_in_eval_mode_gradients_still_reach_the_contexts(clip):
    texts = prompted(clip).eval()
    with torch.no_grad():
        texts()
    assert texts().requires_grad


def test_a_long_text_is_refused():
    with pytest.raises(ValueError, match=r"'a b c d'.*4 tokens.*3.*TOKEN_LENGTH.*6"):
        tokenize(["road", "a b c d"], 5)
