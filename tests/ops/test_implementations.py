"""The compiled and the fast PyTorch implementation against the reference: values, gradients, borders, registration."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtaclip.ops import compiled, library, ms_deform_attn, ms_deform_attn_classic
from mtaclip.ops.pytorch import ms_deform_attn_classic_pytorch, ms_deform_attn_pytorch
from mtaclip.ops.reference import locations_and_weights, ms_deform_attn_classic_reference, ms_deform_attn_reference

ROOT = Path(__file__).resolve().parents[2]
LEVELS = [(7, 5), (1, 1), (3, 4), (1, 6)]
LEVELS_OF_512 = [(16, 16), (32, 32), (64, 64)]
LEVELS_OF_1024_2048 = [(32, 64), (64, 128), (128, 256)]
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 2e-4},
}
needs_library = pytest.mark.skipif(bool(library.CPU.problem), reason=library.CPU.problem)


def inputs(levels=3, points=4, channels=8, batch=2, queries=9, heads=2, dtype=torch.float64, shapes=None):
    torch.manual_seed(0)
    shapes = shapes or LEVELS[:levels]
    levels = len(shapes)
    return [
        torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, dtype=dtype),
        shapes,
        torch.rand(queries, 2, dtype=dtype),
        torch.randn(batch, queries, heads, levels, points, 2, dtype=dtype) * 3,
        torch.randn(batch, queries, heads, levels * points, dtype=dtype),
    ]


def classic_inputs(*args, **kwargs):
    value, shapes, *rest = inputs(*args, **kwargs)
    return [value, shapes, *locations_and_weights(value, shapes, *rest)]


def flat(shapes):
    return [size for shape in shapes for size in shape]


def fused_operator(value, shapes, *rest):
    return torch.ops.mtaclip.ms_deform_attn(value, *rest, flat(shapes))


def classic_operator(value, shapes, *rest):
    return torch.ops.mtaclip.ms_deform_attn_classic(value, *rest, flat(shapes))


def gradients(function, arguments):
    tensors = [a.detach().requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    output = function(*tensors)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), [t for t in tensors if torch.is_tensor(t)])]


def assert_equal(function, reference, arguments):
    """Values, with and without gradients asked for, and gradients of all tensors equal the reference's."""
    expected = gradients(reference, arguments)
    pairs = zip([*gradients(function, arguments), function(*arguments)], [*expected, expected[0]], strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        torch.testing.assert_close(
            ours, theirs, **TOLERANCE[theirs.dtype], msg=lambda text, number=number: f"tensor {number}: {text}"
        )


FUSED = [
    pytest.param(fused_operator, marks=needs_library, id="compiled"),
    pytest.param(ms_deform_attn_pytorch, id="pytorch"),
]
CLASSIC = [
    pytest.param(classic_operator, marks=needs_library, id="compiled"),
    pytest.param(ms_deform_attn_classic_pytorch, id="pytorch"),
]


# --- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUSED)
def test_fused_values_and_all_gradients_equal_the_reference(function, dtype):
    for channels in range(1, 81):  # odd ones and those between vectors' lengths too
        sizes = {"levels": channels % 4 + 1, "points": channels % 8 + 1, "batch": channels % 3 + 1}
        arguments = inputs(**sizes, channels=channels, queries=channels % 5 + 2, dtype=dtype)
        assert_equal(function, ms_deform_attn_reference, arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", CLASSIC)
def test_classic_values_and_all_gradients_equal_the_reference(function, dtype):
    for channels in range(1, 81):
        sizes = {"levels": channels // 3 % 4 + 1, "points": channels // 2 % 8 + 1, "batch": channels % 3 + 1}
        arguments = classic_inputs(**sizes, channels=channels, queries=channels % 5 + 2, dtype=dtype)
        assert_equal(function, ms_deform_attn_classic_reference, arguments)


@pytest.mark.parametrize("function", FUSED)
@pytest.mark.parametrize("shapes", [[(1, 1)], [(1, 9), (9, 1)], [(13, 11), (1, 1), (5, 3)], [(2, 2)] * 4])
@pytest.mark.parametrize("queries", [1, 3, 65])
def test_odd_sizes(function, shapes, queries):
    assert_equal(function, ms_deform_attn_reference, inputs(shapes=shapes, channels=32, queries=queries, heads=3))


@needs_library
@pytest.mark.parametrize("kernels", compiled.INSTRUCTION_SETS)
def test_every_instruction_set_equals_the_reference(kernels):
    """The sweeps above and the edges below, in a process of its own unless they have used it already."""
    if kernels == compiled.instruction_set(library.CPU):
        return
    variables = {**os.environ, "MTACLIP_CPU": kernels, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += ["-k", "(values_and_all_gradients and compiled) or points_beside_an_edge"]
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    if "which this processor does not have" in result.stdout + result.stderr:
        pytest.skip(f"this processor has no {kernels}")
    assert result.returncode == 0 and "12 passed" in result.stdout, result.stdout


def beside_edges(shapes, steps):
    """Inputs with a point so many steps of float32 inside the right, lower, left and upper edge of every level."""
    arguments = inputs(shapes=shapes, queries=4, channels=32, dtype=torch.float32)
    _, _, reference, offsets, _ = arguments
    reference.fill_(0.5)
    for level, (height, width) in enumerate(shapes):  # powers of two, so that all of this is exact
        for query, (axis, size, far) in enumerate([(0, width, 1), (1, height, 1), (0, width, 0), (1, height, 0)]):
            step = steps * size * 2.0**-24
            place = size - step if far else step - 1
            offsets[:, query, :, level] = 0.25  # of the other points
            offsets[:, query, :, level, 0, axis] = place - (size / 2 - 0.5)
    return arguments


@needs_library
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("shapes", [[(32, 64)], [(8, 4), (16, 2)]])
def test_points_beside_an_edge(steps, shapes):
    """Memory that nothing was written to holds NaN meanwhile, so that it shows if a kernel reads it."""
    arguments = beside_edges(shapes, steps)
    expected = gradients(ms_deform_attn_reference, [a.double() if torch.is_tensor(a) else a for a in arguments])
    torch.use_deterministic_algorithms(True)
    try:
        actual = gradients(fused_operator, arguments)
    finally:
        torch.use_deterministic_algorithms(False)
    for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        error = (ours - theirs).norm() / theirs.norm()
        assert error < 1e-5, f"tensor {number}"


FAR = [-1e30, 1e30, float("inf"), float("-inf"), float("nan"), -9.0, 50.0]


def assert_zeros(tensors):
    assert all(torch.equal(tensor, torch.zeros_like(tensor)) for tensor in tensors)


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("function", FUSED)
def test_points_far_outside_give_zeros_and_no_gradient(function, far):
    arguments = inputs()
    arguments[3] = torch.full_like(arguments[3], far)
    assert_zeros([function(*arguments)])
    if function is fused_operator or math.isfinite(far):  # with gradients, plain PyTorch is the reference
        output, by_value, _, by_offsets, by_logits = gradients(function, arguments)
        assert_zeros([output, by_value, by_offsets, by_logits])


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("function", CLASSIC)
def test_classic_points_far_outside_give_zeros_and_no_gradient(function, far):
    arguments = classic_inputs()
    arguments[2] = torch.full_like(arguments[2], far)
    assert_zeros([function(*arguments)])
    if function is classic_operator or math.isfinite(far):
        assert_zeros(gradients(function, arguments))


@pytest.mark.parametrize("function", FUSED)
def test_fused_gradcheck(function):
    value, shapes, *rest = inputs(batch=1, queries=2, heads=1, channels=3, points=2)
    tensors = [t.requires_grad_() for t in (value, *rest)]
    assert torch.autograd.gradcheck(lambda v, *r: function(v, shapes, *r), tensors)


@pytest.mark.parametrize("function", CLASSIC)
def test_classic_gradcheck(function):
    value, shapes, *rest = classic_inputs(batch=1, queries=2, heads=1, channels=3, points=2)
    tensors = [t.detach().requires_grad_() for t in (value, *rest)]
    assert torch.autograd.gradcheck(lambda v, *r: function(v, shapes, *r), tensors)


@pytest.mark.parametrize("function", FUSED)
def test_strided_inputs(function):
    value, shapes, reference, offsets, logits = inputs()
    strided = [
        value.mT.contiguous().mT,
        shapes,
        reference.repeat(1, 2)[:, :2],
        offsets.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat([logits, logits], dim=-1)[..., : logits.shape[-1]],
    ]
    assert not any(tensor.is_contiguous() for tensor in strided if torch.is_tensor(tensor))
    assert_equal(function, ms_deform_attn_reference, strided)


@pytest.mark.parametrize("function", FUSED)
def test_no_queries_and_no_images(function):
    value, shapes, reference, offsets, logits = inputs()
    output, by_value, *_ = gradients(function, [value, shapes, reference[:0], offsets[:, :0], logits[:, :0]])
    assert output.shape == (2, 0, 16) and not by_value.any()
    output, *_ = gradients(function, [value[:0], shapes, reference, offsets[:0], logits[:0]])
    assert output.shape == (0, 9, 16)


# --- precision -------------------------------------------------------------------------------------------------------


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@needs_library
@pytest.mark.parametrize("shapes", [LEVELS_OF_512, LEVELS_OF_1024_2048], ids=["512x512", "1024x2048"])
def test_values_in_bf16_keep_coordinates_precise(shapes):
    """The error stays that of rounding the values, whatever the image's size, and so do the gradients' errors."""
    arguments = inputs(shapes=shapes, batch=1, queries=400, channels=32, dtype=torch.float32)
    arguments[3] = arguments[3].clamp(-4, 4)
    expected = gradients(ms_deform_attn_reference, [a.double() if torch.is_tensor(a) else a for a in arguments])
    in_bf16 = gradients(ms_deform_attn, [arguments[0].bfloat16(), *arguments[1:]])
    assert [tensor.dtype for tensor in in_bf16] == [torch.bfloat16] * 2 + [torch.float32] * 3
    assert all(relative_error(a, e) <= 4e-3 for a, e in zip(in_bf16, expected, strict=True))
    # Offsets in bf16 lose digits of pixels near the point, not of places in the image: no more on the larger one.
    arguments[3] = arguments[3].bfloat16()
    assert 4e-3 < relative_error(ms_deform_attn(arguments[0].bfloat16(), *arguments[1:]), expected[0]) <= 1.2e-2


@needs_library
@pytest.mark.parametrize("entry", ["fused", "classic"])
def test_autocast_takes_values_in_bf16_and_trains_float32_parameters(entry):
    face, reference = ms_deform_attn, ms_deform_attn_reference
    arguments = inputs(dtype=torch.float32)
    if entry == "classic":
        face, reference = ms_deform_attn_classic, ms_deform_attn_classic_reference
        arguments = classic_inputs(dtype=torch.float32)
    expected = gradients(reference, arguments)
    parameters = [a.detach().requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    with torch.autocast("cpu", torch.bfloat16):
        output = face(*parameters)
    assert output.dtype == torch.bfloat16 and relative_error(output, expected[0]) < 4e-3
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    (output * weights).sum().backward()
    for parameter, gradient in zip(filter(torch.is_tensor, parameters), expected[1:], strict=True):
        assert parameter.grad.dtype == torch.float32 and relative_error(parameter.grad, gradient) < 8e-3


@needs_library
def test_results_have_the_same_bits_for_any_number_of_threads():
    arguments, before = inputs(channels=32, queries=300, batch=1, dtype=torch.float32), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):  # with more than two, gradients of the value are split by level
            torch.set_num_threads(threads)
            output, by_value, _, by_offsets, by_logits = gradients(fused_operator, arguments)
            results.append([output, by_value, by_offsets, by_logits])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


# --- as operators of PyTorch -----------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entry", ["ms_deform_attn", "ms_deform_attn_classic"])
def test_operator_registration(entry, dtype):
    value, shapes, *rest = (inputs if entry == "ms_deform_attn" else classic_inputs)(dtype=torch.float32)
    tensors = [t.detach().requires_grad_() for t in (value.to(dtype), *rest)]
    operator, backward = getattr(torch.ops.mtaclip, entry), getattr(torch.ops.mtaclip, f"{entry}_backward")
    torch.library.opcheck(operator.default, (*tensors, flat(shapes)))
    grad = torch.ones_like(operator(*tensors, flat(shapes))).detach()
    for deterministic in (False, True):
        arguments = (grad, *(t.detach() for t in tensors), flat(shapes), deterministic)
        torch.library.opcheck(backward.default, arguments)


@needs_library
@pytest.mark.parametrize("function", [fused_operator, classic_operator])
def test_a_second_derivative_is_refused(function):
    value, shapes, *rest = (inputs if function is fused_operator else classic_inputs)()
    value.requires_grad_()
    (first,) = torch.autograd.grad((function(value, shapes, *rest) ** 2).sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


class Attention(torch.nn.Module):
    """The entry between other operations, for images of any size."""

    def forward(self, maps, reference, offsets, logits):
        shapes = [tuple(level.shape[1:3]) for level in maps]
        value = torch.cat([level.flatten(1, 2) for level in maps], dim=1)
        return ms_deform_attn(value * 2, shapes, reference, offsets, logits).relu()


def maps_and_tensors(sizes):
    value, shapes, *rest = inputs(shapes=sizes, dtype=torch.float32)
    pieces = value.split([h * w for h, w in shapes], dim=1)
    return [piece.unflatten(1, shape).requires_grad_() for piece, shape in zip(pieces, shapes, strict=True)], *rest


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow, id="inductor")])
def test_torch_compile_with_images_of_any_size(backend):
    torch.compiler.reset()
    compiled_module = torch.compile(Attention(), fullgraph=True, dynamic=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for sizes in ([(12, 17), (6, 11)], [(10, 14), (5, 7)], [(20, 6), (7, 3)]):
            arguments = maps_and_tensors(sizes)
            expected, actual = Attention()(*arguments), compiled_module(*arguments)
            torch.testing.assert_close(actual, expected)
            theirs = torch.autograd.grad(expected.square().sum(), arguments[0])
            for a, e in zip(torch.autograd.grad(actual.square().sum(), arguments[0]), theirs, strict=True):
                torch.testing.assert_close(a, e)


@needs_library
def test_torch_export_keeps_the_operator():
    arguments = maps_and_tensors([(6, 8), (3, 4)])
    program = torch.export.export(Attention(), arguments)
    assert any(node.target is torch.ops.mtaclip.ms_deform_attn.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*arguments), Attention()(*arguments))
