"""The compiled and the fast PyTorch implementation against the reference: values, gradients, borders, registration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtaclip.ops import library, ms_deform_attn, ms_deform_attn_classic
from mtaclip.ops.pytorch import ms_deform_attn_pytorch
from mtaclip.ops.reference import locations_and_weights, ms_deform_attn_classic_reference, ms_deform_attn_reference

ROOT = Path(__file__).resolve().parents[2]
LEVELS = [(7, 5), (1, 1), (3, 4), (1, 6)]
needs_library = pytest.mark.skipif(bool(library.PROBLEM), reason=library.PROBLEM)


def inputs(levels=3, points=4, channels=8, batch=2, queries=9, heads=2, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = LEVELS[:levels]
    return [
        torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, dtype=dtype),
        shapes,
        torch.rand(queries, 2, dtype=dtype),
        torch.randn(batch, queries, heads, levels, points, 2, dtype=dtype) * 3,
        torch.randn(batch, queries, heads, levels * points, dtype=dtype),
    ]


def flat(shapes):
    return [size for shape in shapes for size in shape]


def compiled(value, shapes, *rest):
    return torch.ops.mtaclip.ms_deform_attn(value, *rest, flat(shapes))


def gradients(function, arguments):
    tensors = [a.detach().requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    output = function(*tensors)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), [t for t in tensors if torch.is_tensor(t)])]


IMPLEMENTATIONS = [pytest.param(compiled, marks=needs_library), ms_deform_attn_pytorch]


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("levels", "points", "channels", "batch"),
    [
        (1, 1, 1, 1),
        (2, 3, 8, 2),
        (3, 4, 16, 3),
        (3, 4, 32, 1),
        (4, 8, 64, 1),
        (2, 2, 80, 1),
        (4, 5, 7, 2),
        (1, 8, 33, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_all_gradients_equal_the_reference(function, levels, points, channels, batch, dtype):
    arguments = inputs(levels, points, channels, batch, dtype=dtype)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-4}
    for ours, theirs in zip(
        gradients(function, arguments), gradients(ms_deform_attn_reference, arguments), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_the_classic_entry_equals_its_reference():
    value, shapes, *rest = inputs()
    locations, weights = locations_and_weights(value, shapes, *rest)
    arguments = [value, shapes, locations, weights]
    pairs = zip(
        gradients(ms_deform_attn_classic, arguments),
        gradients(ms_deform_attn_classic_reference, arguments),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("far", [-1e30, 1e30, float("inf"), float("-inf"), float("nan"), -9.0, 50.0])
def test_points_far_outside_give_zeros_and_no_gradient(function, far):
    arguments = inputs()
    arguments[3] = torch.full_like(arguments[3], far)
    output, by_value, _, by_offsets, by_logits = gradients(function, arguments)
    for tensor in (output, by_value, by_offsets, by_logits):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@needs_library
def test_gradcheck():
    value, shapes, *rest = inputs(batch=1, queries=2, heads=1, channels=3, points=2)
    tensors = [t.requires_grad_() for t in (value, *rest)]
    assert torch.autograd.gradcheck(lambda v, *r: compiled(v, shapes, *r), tensors)


@needs_library
def test_operator_registration():
    value, shapes, *rest = inputs()
    tensors = [t.requires_grad_() for t in (value, *rest)]
    torch.library.opcheck(torch.ops.mtaclip.ms_deform_attn.default, (*tensors, flat(shapes)))
    locations, weights = (t.detach().requires_grad_() for t in locations_and_weights(value, shapes, *rest))
    torch.library.opcheck(torch.ops.mtaclip.ms_deform_attn_classic.default, (value, locations, weights, flat(shapes)))


@needs_library
def test_a_second_derivative_is_refused():
    value, shapes, *rest = inputs()
    value.requires_grad_()
    (first,) = torch.autograd.grad((compiled(value, shapes, *rest) ** 2).sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


@needs_library
def test_strided_inputs_and_no_queries():
    value, shapes, reference, offsets, logits = inputs()
    strided = [
        value.mT.contiguous().mT,
        shapes,
        reference,
        offsets.transpose(1, 2).contiguous().transpose(1, 2),
        logits,
    ]
    assert torch.equal(compiled(*strided), compiled(value, shapes, reference, offsets, logits))
    none = [value, shapes, reference[:0], offsets[:, :0], logits[:, :0]]
    output, by_value, *_ = gradients(compiled, none)
    assert output.shape == (2, 0, 16) and not by_value.any()


@needs_library
def test_results_have_the_same_bits_for_any_number_of_threads():
    arguments, before = inputs(channels=32, queries=300, batch=1, dtype=torch.float32), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):  # with more than two, gradients of the value are split by level
            torch.set_num_threads(threads)
            results.append(gradients(compiled, arguments)[:2] + gradients(compiled, arguments)[3:])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_library
def test_autocast_takes_values_in_half_precision():
    arguments = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = ms_deform_attn(*arguments)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), ms_deform_attn(*arguments), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@needs_library
def test_compile_and_export():
    value, shapes, *rest = inputs(dtype=torch.float32)

    class Module(torch.nn.Module):
        def forward(self, value, *rest):
            return ms_deform_attn(value, shapes, *rest).relu()

    expected = Module()(value, *rest)
    torch.testing.assert_close(torch.compile(Module(), fullgraph=True, backend="aot_eager")(value, *rest), expected)
    torch.testing.assert_close(torch.export.export(Module(), (value, *rest)).module()(value, *rest), expected)


@pytest.mark.parametrize("index", [2, 3, 4])
def test_a_wrong_type_or_device_names_its_argument(index):
    name = ["reference_points", "sampling_offsets", "attention_logits"][index - 2]
    for change in (torch.Tensor.long, lambda t: t.to("meta")):
        arguments = inputs()
        arguments[index] = change(arguments[index])
        with pytest.raises(ValueError, match=name):
            ms_deform_attn(*arguments)


STEP = """
import torch
from mtaclip.ops import ms_deform_attn, library
value, offsets = torch.randn(1, 4, 2, 8, requires_grad=True), torch.randn(1, 4, 2, 1, 2, 2, requires_grad=True)
ms_deform_attn(value, [(2, 2)], torch.rand(4, 2), offsets, torch.randn(1, 4, 2, 2)).sum().backward()
assert value.grad.abs().sum() > 0 and offsets.grad.isfinite().all()
"""


def run(code, **variables):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)


@needs_library
@pytest.mark.parametrize("kernels", ["baseline", "avx2"])
def test_every_instruction_set_trains_a_step(kernels):
    result = run(STEP, MTACLIP_CPU=kernels)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["pytorch", "reference"])
def test_a_step_without_the_library(name):
    result = run(STEP, MTACLIP_OPS=name)
    assert result.returncode == 0, result.stderr


def test_an_absent_library_is_said_once_and_the_step_works():
    hide = "import pathlib; file = pathlib.Path.is_file\n"
    hide += "pathlib.Path.is_file = lambda self: False if self.name == '_C_cpu.abi3.so' else file(self)\n"
    result = run(hide + STEP + STEP + "assert library.PROBLEM")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("The compiled operator is not built") == 1


def test_an_unknown_implementation_is_refused():
    assert "MTACLIP_OPS must be one of" in run("import mtaclip.ops", MTACLIP_OPS="fast").stderr


def test_a_library_that_does_not_load_is_explained(tmp_path):
    broken = tmp_path / "_C_cpu.abi3.so"
    broken.write_bytes(b"mtaclip-built-for-torch=2.10.0;")
    assert "was built for PyTorch 2.10.0 and does not load" in library.load(broken)
