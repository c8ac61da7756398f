"""The Triton kernels against the reference: interpreted on the CPU, compiled for GPUs that are not there, and on one.

Triton chooses between compiling and interpreting when it is imported, so one other process does all the interpreting.
"""

import os
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from mtaclip.ops.reference import (
    locations_and_weights,
    ms_deform_attn_classic_reference,
    ms_deform_attn_reference,
    precise_type,
)

pytest.importorskip("triton")

LEVELS = [(7, 5), (1, 1), (3, 4), (1, 6)]
FAR = [-1e30, 1e30, float("inf"), float("-inf"), float("nan"), -9.0, 50.0, 3e9]
# float32: the two implementations round coordinates differently, and a gradient of a position multiplies the
# difference of two pixels by it. 16 bits: both round the same float32 sums, at worst to neighbouring numbers.
TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 2e-4},
    torch.float16: {"rtol": 2**-10, "atol": 2e-4},
    torch.bfloat16: {"rtol": 2**-7, "atol": 2e-4},
}


def inputs(device, levels=3, points=2, channels=8, batch=1, heads=2, dtype=torch.float32, queries=7, fused=True):
    """Value, shapes, reference points (None for the classic form), positions, weights, gradient of the output."""
    torch.manual_seed(0)
    shapes, precise = LEVELS[:levels], precise_type(torch.empty(0, dtype=dtype))
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, channels).to(dtype)
    reference = torch.rand(queries, 2, dtype=precise)
    positions = torch.randn(batch, queries, heads, levels, points, 2, dtype=precise) * 3
    weights = torch.randn(batch, queries, heads, levels * points, dtype=precise)
    grad = torch.randn(batch, queries, heads * channels).to(dtype)
    if not fused:
        positions, weights = locations_and_weights(value, shapes, reference, positions, weights)
    tensors = [value, reference if fused else None, positions, weights, grad]
    value, *rest = [None if tensor is None else tensor.to(device) for tensor in tensors]
    return value, shapes, *rest


def flat(shapes):
    return [size for shape in shapes for size in shape]


def expected(value, shapes, reference, positions, weights, grad):
    """Output and three gradients by the reference."""
    leaves = [tensor.detach().requires_grad_() for tensor in (value, positions, weights)]
    if reference is None:
        output = ms_deform_attn_classic_reference(leaves[0], shapes, *leaves[1:])
    else:
        output = ms_deform_attn_reference(leaves[0], shapes, reference, *leaves[1:])
    return output.detach(), *torch.autograd.grad(output, leaves, grad)


def computed(value, shapes, reference, positions, weights, grad, deterministic=False):
    """Output and three gradients by the kernels."""
    from mtaclip.ops import triton_kernels as kernels  # here, because importing decides how they run

    arguments = (value, reference, positions, weights, flat(shapes))
    return kernels.forward(*arguments), *kernels.backward(grad, *arguments, deterministic)


def compare(device, deterministic=False, narrow=False, **how):
    value, shapes, reference, positions, weights, grad = inputs(device, **how)
    if narrow:
        positions, weights = positions.to(value.dtype), weights.to(value.dtype)
    arguments = (value, shapes, reference, positions, weights, grad)
    for ours, theirs in zip(computed(*arguments, deterministic), expected(*arguments), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCES[theirs.dtype])


def compare_strided(device):
    value, shapes, reference, positions, weights, grad = inputs(device)
    whole = computed(value, shapes, reference, positions, weights, grad)
    parts = computed(
        value.mT.contiguous().mT,
        shapes,
        reference.mT.contiguous().mT,
        positions.transpose(1, 2).contiguous().transpose(1, 2),
        weights.mT.contiguous().mT,
        grad.mT.contiguous().mT,
    )
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def far_points(device, fused):
    """Each query has its own way of pointing nowhere; the last one points to pixels, and only it counts."""
    arguments = list(inputs(device, queries=len(FAR) + 1, fused=fused))
    arguments[3][:, :-1] = torch.tensor(FAR, device=device)[:, None, None, None, None]
    alone = [*arguments[:2], arguments[2] if arguments[2] is None else arguments[2][-1:]]
    alone += [tensor[:, -1:].contiguous() for tensor in arguments[3:]]
    output, by_value, by_positions, by_weights = computed(*arguments)
    for tensor in (output, by_positions, by_weights):
        assert torch.equal(tensor[:, :-1], torch.zeros_like(tensor[:, :-1]))
    theirs = expected(*alone)
    for ours, expectation in zip((output[:, -1:], by_value, by_positions[:, -1:]), theirs[:3], strict=True):
        torch.testing.assert_close(ours, expectation, **TOLERANCES[torch.float32])


def points_beside_the_border(device):
    """One coordinate nowhere and the other inside: still nothing."""
    for axis in (0, 1):
        arguments = inputs(device)
        arguments[3].zero_()
        arguments[3][..., axis] = float("nan")
        for tensor in computed(*arguments):
            assert torch.equal(tensor, torch.zeros_like(tensor))


def no_queries(device):
    output, by_value, by_positions, by_weights = computed(*inputs(device, queries=0))
    assert output.shape == (1, 0, 16) and not by_value.any() and by_positions.shape == (1, 0, 2, 3, 2, 2)
    assert by_weights.shape == (1, 0, 2, 6)


def any_order_gives_the_same_bits(device, fused, dtype):
    value, shapes, reference, positions, weights, grad = inputs(device, fused=fused, dtype=dtype, queries=40, batch=1)
    order = torch.randperm(40, device=device)
    first = computed(value, shapes, reference, positions, weights, grad, deterministic=True)[1]
    reference = reference if reference is None else reference[order]
    shuffled = [tensor[:, order] for tensor in (positions, weights, grad)]
    assert torch.equal(first, computed(value, shapes, reference, *shuffled, deterministic=True)[1])


def extreme_gradients(device):
    """Fixed point keeps the precision of tiny and huge gradients, and does not hide those that are not finite."""
    value, shapes, reference, positions, weights, grad = inputs(device, queries=3, levels=1, batch=1)
    by_value = computed(value, shapes, reference, positions, weights, grad, deterministic=True)[1]
    for factor in (2.0**-80, 2.0**80):
        scaled = computed(value, shapes, reference, positions, weights, grad * factor, deterministic=True)[1]
        torch.testing.assert_close(scaled / factor, by_value)
    zero = computed(value, shapes, reference, positions, weights, grad * 0, deterministic=True)[1]
    assert torch.equal(zero, torch.zeros_like(value))
    for wrong in (float("inf"), float("nan")):
        grad[0, 0, 0] = wrong
        assert computed(value, shapes, reference, positions, weights, grad, deterministic=True)[1].isnan().all()


# (function, its keyword arguments) of every check, for both devices.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 8, 2, 3),
    (3, 4, 16, 3, 2),
    (3, 4, 32, 1, 4),
    (4, 8, 64, 1, 1),
    (2, 2, 80, 1, 2),
    (4, 5, 7, 2, 1),
    (1, 8, 33, 1, 2),
]
NAMES = ("levels", "points", "channels", "batch", "heads")
CHECKS = [(compare, dict(zip(NAMES, shape, strict=True))) for shape in SHAPES]
CHECKS += [(compare, {**CHECKS[i][1], "fused": False}) for i in (2, 5)]
CHECKS += [(compare, {**CHECKS[i][1], "dtype": torch.float64, "fused": i != 6}) for i in (1, 2, 6)]
for dtype in (torch.float16, torch.bfloat16):
    CHECKS += [(compare, {"points": 4, "channels": 32, "heads": 4, "dtype": dtype, "fused": f}) for f in (True, False)]
    CHECKS += [(compare, {"levels": 2, "dtype": dtype, "narrow": True})]
CHECKS += [(compare, {"levels": 2, "deterministic": True, "fused": fused}) for fused in (True, False)]
CHECKS += [(compare, {"levels": 2, "deterministic": True, "dtype": torch.bfloat16})]
CHECKS += [(compare_strided, {}), (points_beside_the_border, {}), (no_queries, {}), (extreme_gradients, {})]
CHECKS += [(far_points, {"fused": fused}) for fused in (True, False)]
CHECKS += [(any_order_gives_the_same_bits, {"fused": True, "dtype": torch.float32})]
CHECKS += [(any_order_gives_the_same_bits, {"fused": False, "dtype": torch.float64})]


def name(item):
    return item.__name__ if callable(item) else "-".join(f"{key}={value}" for key, value in item.items()) or "default"


every_check = pytest.mark.parametrize(("check", "how"), CHECKS, ids=name)


@pytest.fixture(scope="module")
def interpreter():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()  # the process starts here and keeps the variable
        yield pool


@every_check
def test_interpreted(interpreter, check, how):
    if check in (far_points, points_beside_the_border) and TorchVersion(version("triton")) < "3.8":
        pytest.skip("the interpreter of Triton before 3.8 takes NaN for the greater number, unlike the compiler")
    interpreter.submit(check, "cpu", **how).result()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_check
def test_on_a_gpu(check, how):
    check("cuda", **how)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("deterministic", [False, True])
def test_in_a_cuda_graph(deterministic):
    arguments = inputs("cuda", points=4, channels=32)
    before = computed(*arguments, deterministic)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = computed(*arguments, deterministic)
    graph.replay()
    for one, other in zip(before, captured, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_compiles_without_spilling(direction, dtype, capability, tmp_path, monkeypatch, record_property):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mtaclip.ops import triton_kernels as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, f"_{direction}_kernel")
    value, shapes, _, positions, *_ = inputs("cpu", points=4, channels=32, heads=8, dtype=dtype)
    _, constants = kernels._layout(value, positions, 16 // value.element_size() if direction == "forward" else 4)
    constants |= {"WIDTH": 16, "scale": None}
    constants = {key: constants[key] for key in kernel.arg_names if key in constants}
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = dict.fromkeys(("grad", "value", "output"), own) | dict.fromkeys(("pixels", "queries"), "i32")
    types |= {"shapes": ("fp32",) * 6} | dict.fromkeys(constants, "constexpr")
    signature = {key: types.get(key, "*fp32") for key in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, key in enumerate(signature) if signature[key][0] == "*"}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": kernels.WARPS})
    adds = re.findall(r"(?:red|atom)\.\S*add\.\S*f32", compiled.asm["ptx"])
    assert bool(adds) == (direction == "backward")
    (tmp_path / "cubin").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True).stdout
    record_property("usage", " ".join(re.findall(r"(?:REG|STACK|SHARED):\d+", usage)))
    assert int(re.search(r"STACK:(\d+)", usage)[1]) <= 16, usage
