import open_clip
import pytest
import torch

from mtaclip.alignment import nearest_words
from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts


@pytest.fixture(scope="module")
def texts() -> PromptedTexts:
    torch.manual_seed(0)
    encoder = CLIPTextEncoder(build_clip("mtaclip-tiny"), 9)
    return PromptedTexts(encoder, ["road", "none"], num_contexts=2, context_length=3, token_length=5)


def put(texts: PromptedTexts, context: int, place: int, token: int) -> None:
    with torch.no_grad():
        texts.contexts[context, place] = 3.0 * texts.encoder.token_embedding.weight[token]


def test_a_vector_that_is_a_word_finds_it(texts):
    words = open_clip.tokenizer.SimpleTokenizer().encode("a photo of street")
    for (context, place), token in zip(((0, 0), (0, 2), (1, 0), (1, 1)), words, strict=True):
        put(texts, context, place, token)
    found = nearest_words(texts, count=3)
    assert [len(found), len(found[0]), len(found[0][0])] == [2, 3, 3]
    assert [found[0][0][0].text, found[0][2][0].text, found[1][0][0].text, found[1][1][0].text] == [
        "a",
        "photo",
        "of",
        "street",
    ]
    assert found[0][0][0].similarity == pytest.approx(1.0, abs=1e-5)
    assert all(vector[0].similarity >= vector[1].similarity for context in found for vector in context)


def test_beginnings_of_words_have_a_dash_and_odd_bytes_a_number(texts):
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    put(texts, 0, 0, tokenizer.encoder["stre"])
    put(texts, 0, 1, tokenizer.encoder[tokenizer.byte_encoder[0xE2]])
    first, second, _ = nearest_words(texts, count=1)[0]
    assert [first[0].text, second[0].text] == ["stre-", "\\xe2-"]


def test_start_and_end_are_no_words(texts):
    put(texts, 1, 2, open_clip.tokenizer.SimpleTokenizer().eot_token_id)
    assert nearest_words(texts, count=1)[1][2][0].similarity < 0.99
