"""Multi-scale deformable attention against a loop over points, wrong arguments, and the choice of what computes it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtaclip.ops import compiled, library, ms_deform_attn, ms_deform_attn_classic
from mtaclip.ops.ms_deform_attn import implementation
from mtaclip.ops.reference import locations_and_weights

ROOT = Path(__file__).resolve().parents[2]

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


# --- wrong arguments -------------------------------------------------------------------------------------------------

FUSED = ["value", "spatial_shapes", "reference_points", "sampling_offsets", "attention_logits"]
CLASSIC = ["value", "spatial_shapes", "sampling_locations", "attention_weights"]


def arguments_of(entry):
    arguments = list(tensors())
    if entry is ms_deform_attn_classic:
        arguments[2:] = locations_and_weights(*arguments)
    return arguments


@pytest.mark.parametrize(
    ("entry", "name"),
    [(ms_deform_attn, name) for name in FUSED] + [(ms_deform_attn_classic, name) for name in CLASSIC],
)
def test_a_wrong_shape_names_its_argument(entry, name):
    arguments, index = arguments_of(entry), (FUSED if entry is ms_deform_attn else CLASSIC).index(name)
    for change in (lambda a: a[:, :-1] if name == "value" else a[:-1], lambda a: a[None] if torch.is_tensor(a) else []):
        wrong = [*arguments[:index], change(arguments[index]), *arguments[index + 1 :]]
        with pytest.raises(ValueError, match=f"^{entry.__name__}: .*{name}"):
            entry(*wrong)


@pytest.mark.parametrize(
    ("entry", "name"),
    [(ms_deform_attn, name) for name in FUSED if name != "spatial_shapes"]
    + [(ms_deform_attn_classic, name) for name in CLASSIC if name != "spatial_shapes"],
)
def test_a_wrong_type_or_device_names_its_argument(entry, name):
    arguments, index = arguments_of(entry), (FUSED if entry is ms_deform_attn else CLASSIC).index(name)
    for change in (torch.Tensor.long, lambda t: t.to("meta")):
        wrong = [*arguments[:index], change(arguments[index]), *arguments[index + 1 :]]
        with pytest.raises(ValueError, match=f"^{entry.__name__}: .*{name}"):
            entry(*wrong)


@pytest.mark.parametrize(
    "shapes",
    [
        torch.tensor(SHAPES),
        [(3, 5), (2, 2), (1,)],
        [(-3, -5), (2, 2), (1, 1)],
        [15, 4, 1],
        [(3.0, 5.0), (2, 2), (1, 1)],
    ],
)
def test_spatial_shapes_that_are_no_sizes_are_refused(shapes):
    value, _, *rest = tensors()
    with pytest.raises(ValueError, match=r"spatial_shapes must be pairs \(height, width\) of positive whole numbers"):
        ms_deform_attn(value, shapes, *rest)


def test_the_operator_itself_refuses_what_would_read_foreign_memory():
    value, shapes, *rest = tensors()
    sizes = [size for shape in shapes for size in shape]
    for wrong in ([*sizes[:-1], 2], sizes[:-2]):
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            torch.ops.mtaclip.ms_deform_attn(value, *rest, wrong)


# --- the choice ------------------------------------------------------------------------------------------------------

STEP = """
import torch
from mtaclip.ops import library, ms_deform_attn
value, offsets = torch.randn(1, 4, 2, 8, requires_grad=True), torch.randn(1, 4, 2, 1, 2, 2, requires_grad=True)
ms_deform_attn(value, [(2, 2)], torch.rand(4, 2), offsets, torch.randn(1, 4, 2, 2)).sum().backward()
assert value.grad.abs().sum() > 0 and offsets.grad.isfinite().all()
"""


def run(code, root=ROOT, **variables):
    env = {**os.environ, "PYTHONPATH": str(root), **variables}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=root, env=env, capture_output=True, text=True
    )


@pytest.mark.skipif(bool(library.CPU.problem), reason=library.CPU.problem)
def test_the_compiled_library_computes_what_it_takes():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert implementation(torch.empty(0, dtype=dtype)) == "compiled"


def test_float16_on_the_cpu_runs_in_plain_pytorch_and_says_so_once(caplog):
    half = [a.half() if torch.is_tensor(a) else a for a in tensors(torch.float32)]
    outputs = [ms_deform_attn(*half) for _ in range(2)]
    expected = ms_deform_attn(*(a.float() if torch.is_tensor(a) else a for a in half))
    assert outputs[0].dtype == torch.float16
    torch.testing.assert_close(outputs[0].float(), expected, rtol=2**-10, atol=1e-6)
    if not library.CPU.problem:
        assert [record.getMessage() for record in caplog.records] == [
            "The compiled operator does not take torch.float16 on the device type 'cpu'. "
            "Deformable attention runs in plain PyTorch."
        ]


def test_a_package_without_compiled_libraries_trains_says_so_once_and_leaves_triton_alone(tmp_path):
    shutil.copytree(ROOT / "mtaclip", tmp_path / "mtaclip", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    code = STEP + STEP + "import sys; assert library.CPU.problem and library.CUDA.problem\n"
    result = run(code + "assert 'mtaclip.ops.triton_kernels' not in sys.modules", root=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("The compiled operator for CPU is not built") == 1
    assert result.stderr.count("for CUDA") == 0


@pytest.mark.parametrize("name", ["pytorch", "reference"])
def test_mtaclip_ops_chooses(name):
    check = f"from mtaclip.ops.ms_deform_attn import implementation; assert implementation(value) == {name!r}"
    result = run(STEP + check, MTACLIP_OPS=name)
    assert result.returncode == 0 and not result.stderr, result.stderr


@pytest.mark.parametrize(
    ("code", "variables", "sentence"),
    [
        ("import mtaclip.ops", {"MTACLIP_OPS": "fast"}, "MTACLIP_OPS must be one of compiled, triton, pytorch"),
        ("import mtaclip.ops", {"MTACLIP_CPU": "sse"}, "MTACLIP_CPU must be one of avx512, avx2, baseline or unset"),
        (STEP, {"MTACLIP_OPS": "triton"}, "MTACLIP_OPS=triton cannot be followed: Triton does not compute on"),
    ],
    ids=["unknown implementation", "unknown instruction set", "implementation for another device"],
)
def test_a_choice_that_cannot_be_followed_is_one_sentence(code, variables, sentence):
    result = run(code, **variables)
    assert result.returncode == 1
    assert sentence in result.stderr.splitlines()[-1]


def test_an_instruction_set_that_the_processor_lacks_is_refused():
    compiled.check_instruction_set("avx2", "avx2")
    compiled.check_instruction_set("", "avx2")
    with pytest.raises(ValueError, match="MTACLIP_CPU asks for avx512, which this processor does not have"):
        compiled.check_instruction_set("avx512", "avx2")


def test_the_classic_entry_checks_where_levels_start():
    value, shapes, *rest = tensors()
    locations, weights = locations_and_weights(value, shapes, *rest)
    expected = ms_deform_attn_classic(value, shapes, locations, weights)
    assert torch.equal(ms_deform_attn_classic(value, shapes, locations, weights, [0, 15, 19]), expected)
    with pytest.raises(ValueError, match=r"level_start_index must be \[0, 15, 19\]"):
        ms_deform_attn_classic(value, shapes, locations, weights, [0, 15, 20])
