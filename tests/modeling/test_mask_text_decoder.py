"""The decoder: shortcuts against the plain way, modes, gradients."""

import pytest
import torch
import torch.nn.functional as F

from mtaclip.modeling.layers import MultiheadAttention, sine_position
from mtaclip.modeling.mask_text_decoder import MaskTextDecoder, shrink

SIZES = [(2, 3), (4, 6), (8, 12)]
DIM, CLASSES, QUERIES, CONTEXTS, TEXT_DIM, BATCH = 32, 4, 6, 2, 24, 2


def decoder(**options) -> MaskTextDecoder:
    torch.manual_seed(0)
    arguments = {"num_contexts": CONTEXTS, "text_dim": TEXT_DIM} | options
    return MaskTextDecoder(
        num_classes=CLASSES, num_queries=QUERIES, dim=DIM, layers=4, heads=4, ffn_dim=48, **arguments
    )


def inputs():
    torch.manual_seed(1)
    memories = [torch.randn(BATCH, DIM, *size) for size in SIZES]
    return memories, torch.randn(BATCH, DIM, 16, 24), torch.randn(CONTEXTS, CLASSES + 1, TEXT_DIM)


def test_masks_of_shrunk_features_are_shrunk_masks():
    embeddings, features = torch.randn(BATCH, 5, DIM), torch.randn(BATCH, DIM, 16, 24)
    masks = torch.einsum("bqd,bdhw->bqhw", embeddings, features)
    for size in SIZES:
        plain = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        fast = torch.einsum("bqd,bdhw->bqhw", embeddings, shrink(features, size))
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_attention_equals_torchs():
    ours, theirs = MultiheadAttention(DIM, 4), torch.nn.MultiheadAttention(DIM, 4, batch_first=True)
    torch.nn.init.normal_(ours.in_proj_weight)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, DIM), torch.randn(2, 7, DIM), torch.randn(2, 7, DIM)
    allowed = torch.rand(2, 5, 7) > 0.4
    allowed[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=(~allowed).repeat_interleave(4, 0))
    torch.testing.assert_close(ours(query, key, value, allowed), expected, rtol=1e-5, atol=1e-5)


def test_sine_position_by_hand():
    # One row, two columns, d = 4: y = 2 pi, x = pi and 2 pi; two channels an axis, both of wavelength 1: sin, cos.
    grid = sine_position(1, 2, 4, torch.empty(0))
    expected = torch.tensor([[0.0, 1.0, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(grid, expected, rtol=0, atol=1e-4)


def test_shapes_and_modes():
    model = decoder(predict_initial=True)
    train = model.train()(*inputs())
    assert train.class_logits.shape == (5, BATCH, QUERIES, CLASSES + 1)
    assert train.mask_embeddings.shape == (5, BATCH, QUERIES, DIM)
    assert train.similarity.shape == (5, CONTEXTS, BATCH, QUERIES, CLASSES + 1)
    assert train.similarity.abs().max() <= 1 + 1e-6
    evaluated = model.eval()(*inputs())
    assert evaluated.class_logits.shape == (1, BATCH, QUERIES, CLASSES + 1) and evaluated.similarity is None
    torch.testing.assert_close(evaluated.class_logits[0], train.class_logits[-1])
    torch.testing.assert_close(evaluated.mask_logits(), train.mask_logits())


def test_text_changes_the_masks():
    model = decoder().eval()
    memories, features, text = inputs()
    assert not torch.allclose(
        model(memories, features, text).mask_logits(), model(memories, features, -text).mask_logits()
    )


def test_without_texts_it_is_a_mask_decoder():
    model = decoder(num_contexts=0, text_dim=0)
    memories, features, _ = inputs()
    predictions = model(memories, features)
    assert predictions.similarity is None and model.query_position.shape == (QUERIES, DIM)
    assert not any("alignment" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("with_text", [True, False])
def test_every_parameter_gets_a_gradient(with_text):
    model = decoder() if with_text else decoder(num_contexts=0, text_dim=0)
    memories, features, text = inputs()
    predictions = model(memories, features, text if with_text else None)
    total = predictions.class_logits.sum() + predictions.mask_logits().square().sum()
    if with_text:
        total = total + predictions.similarity.square().sum()
    total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_token_that_sees_nothing_sees_everything():
    model = decoder()
    nothing = torch.full((1, DIM, 2, 3), -1.0)
    torch.nn.init.zeros_(model.mask_head[-1].weight)
    torch.nn.init.ones_(model.mask_head[-1].bias)
    assert model._attention_mask(torch.randn(1, 3, DIM), nothing).all()
    half = torch.cat([nothing[..., :1], -nothing[..., 1:]], dim=-1)
    allowed = model._attention_mask(torch.randn(1, 3, DIM), half).view(1, 3, 2, 3)
    assert not allowed[..., 0].any() and allowed[..., 1:].all()
