"""Multi-scale deformable attention against a loop over points, and its gradients."""

import pytest
import torch

from mtaclip.ops import ms_deform_attn

SHAPES = [(3, 5), (2, 2), (1, 1)]


def tensors(dtype=torch.float64, batch=2, queries=4, heads=2, channels=3, points=2):
    torch.manual_seed(0)
    levels, pixels = len(SHAPES), sum(h * w for h, w in SHAPES)
    return (
        torch.randn(batch, pixels, heads, channels, dtype=dtype),
        SHAPES,
        torch.rand(queries, 2, dtype=dtype),
        torch.randn(batch, queries, heads, levels, points, 2, dtype=dtype) * 2,
        torch.randn(batch, queries, heads, levels * points, dtype=dtype),
    )


def by_hand(value, shapes, reference, offsets, logits):
    """One point after the other, bilinear between pixel centres, zero outside."""
    batch, _, heads, channels = value.shape
    queries, points = offsets.shape[1], offsets.shape[4]
    weights = logits.softmax(-1)
    out = torch.zeros(batch, queries, heads, channels, dtype=value.dtype)
    starts = [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]
    for b, q, m, level, p in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, queries, heads, len(shapes), points))
    ).tolist():
        height, width = shapes[level]
        x = reference[q, 0] * width + offsets[b, q, m, level, p, 0] - 0.5
        y = reference[q, 1] * height + offsets[b, q, m, level, p, 1] - 0.5
        for row in (int(y.floor()), int(y.floor()) + 1):
            for column in (int(x.floor()), int(x.floor()) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * weights[b, q, m, level * points + p]
                    out[b, q, m] += share * value[b, starts[level] + row * width + column, m]
    return out.flatten(2)


def test_equals_a_loop_over_points():
    torch.testing.assert_close(ms_deform_attn(*tensors()), by_hand(*tensors()))


def test_gradients():
    value, shapes, reference, offsets, logits = tensors(batch=1, queries=2, heads=1, channels=2, points=1)
    inputs = [t.requires_grad_() for t in (value, offsets, logits)]
    assert torch.autograd.gradcheck(lambda v, o, a: ms_deform_attn(v, shapes, reference, o, a), inputs)


def test_half_precision_values_keep_precise_coordinates():
    value, shapes, reference, offsets, logits = tensors(torch.float32)
    expected = ms_deform_attn(value.bfloat16().float(), shapes, reference, offsets, logits)
    with torch.autocast("cpu", torch.bfloat16):
        actual = ms_deform_attn(value.bfloat16(), shapes, reference, offsets, logits)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4])
def test_a_wrong_shape_names_its_argument(index):
    names = ["value", "spatial_shapes", "reference_points", "sampling_offsets", "attention_logits"]
    arguments = list(tensors())
    arguments[index] = arguments[index][:-1] if index else arguments[index][:, :-1]
    with pytest.raises(ValueError, match=names[index]):
        ms_deform_attn(*arguments)
