"""The CUDA kernels against the reference: emulated on the processor, compiled by nvcc, and on a GPU where there is one.

`emulation/` runs the kernels' own source lane by lane on the processor, blocks, warps and lanes in an order drawn from
a seed. What it cannot test: speed, memory order between warps, nvcc's code, PyTorch's streams; the last tests do.
"""

import ctypes
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mtaclip.ops import library, ms_deform_attn
from mtaclip.ops.reference import locations_and_weights, ms_deform_attn_classic_reference, ms_deform_attn_reference

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "mtaclip" / "ops" / "csrc" / "cuda"
EMULATION = Path(__file__).with_name("emulation")
LEVELS = [(7, 5), (1, 1), (3, 4), (1, 6), (2, 2)]
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# Inputs are exact in their type and sums are in float32: what differs is one rounding of the result (half a unit of
# 2^-10 for float16, of 2^-7 for bfloat16) and, absolutely, what float32 loses of terms that cancel.
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float16: {"rtol": 2**-10, "atol": 1e-4},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-4},
}


def inputs(levels=3, points=4, channels=8, batch=2, queries=9, heads=2, dtype=torch.float64, half_points=False):
    """Arguments of the fused entry; `queries=None`: as many as pixels."""
    torch.manual_seed(levels * 1000 + points * 100 + channels)
    shapes = LEVELS[:levels]
    pixels = sum(h * w for h, w in shapes)
    queries = pixels if queries is None else queries
    precise = torch.promote_types(dtype, torch.float32)
    points_type = dtype if half_points else precise
    return [
        torch.randn(batch, pixels, heads, channels, dtype=precise).to(dtype),
        shapes,
        torch.rand(queries, 2, dtype=precise),
        (torch.randn(batch, queries, heads, levels, points, 2, dtype=precise) * 3).to(points_type),
        torch.randn(batch, queries, heads, levels * points, dtype=precise).to(points_type),
    ]


def wide_inputs(spread, dtype=torch.bfloat16, half_points=False):
    """Arguments of the fused entry with levels that are larger than a block's window, every pixel a query; `spread`:
    standard deviation of the offsets in pixels."""
    torch.manual_seed(spread)
    shapes = [(6, 10), (12, 20), (24, 40)]
    centres = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1) for h, w in shapes
    ]
    heads, reference = 2, torch.cat(centres)
    reference += torch.rand(reference.shape) / 100  # no point on a pixel's centre, where gradients jump
    precise = torch.promote_types(dtype, torch.float32)
    points_type = dtype if half_points else precise
    return [
        torch.randn(1, len(reference), heads, 32).to(dtype),
        shapes,
        reference.to(precise),
        (torch.randn(1, len(reference), heads, 3, 4, 2) * spread).to(points_type),
        torch.randn(1, len(reference), heads, 12).to(points_type),
    ]


def classic_inputs(*args, **kwargs):
    value, shapes, *rest = inputs(*args, **kwargs)
    return [value, shapes, *locations_and_weights(value, shapes, *rest)]


def gradient_for(arguments) -> Tensor:
    value, positions = arguments[0], arguments[-2]
    shape = (value.shape[0], positions.shape[1], value.shape[2] * value.shape[3])
    return torch.linspace(-1, 1, shape[0] * shape[1] * shape[2], dtype=torch.float64).view(shape).to(value.dtype)


def exact(arguments, grad) -> list[Tensor]:
    """Output and gradients of value, positions and weights in float64, from the very same inputs."""
    function = ms_deform_attn_reference if len(arguments) == 5 else ms_deform_attn_classic_reference
    tensors = [a.double().requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    output = function(*tensors)
    return [output, *torch.autograd.grad((output * grad.double()).sum(), [tensors[0], *tensors[-2:]])]


def assert_all_close(results, expected, arguments) -> None:
    types = [arguments[0].dtype, arguments[0].dtype, arguments[-2].dtype, arguments[-1].dtype]
    for ours, theirs, dtype in zip(results, expected, types, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, **TOLERANCE[dtype])


# --- the kernels on the processor -------------------------------------------------------------------------------------


class Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("value", "reference_points", "positions", "weights", "grad_output")),
        *((name, ctypes.c_void_p) for name in ("output", "grad_value", "grad_positions", "grad_weights")),
        *((name, ctypes.c_void_p) for name in ("sums", "bounds", "shapes")),
        *((name, ctypes.c_int64) for name in ("batch", "queries", "heads", "channels", "levels", "points")),
        *((name, ctypes.c_int64) for name in ("type", "fused", "half_points", "fixed_point", "seed", "forward")),
    ]


def cuda_include() -> Path | None:
    """A folder with CUDA's headers: of a toolkit, or of the packages that PyTorch brings along."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    candidates = [*(home / "include" for home in homes), *packages.glob("*/include"), Path("/usr/local/cuda/include")]
    needed = ("cuda_bf16.h", "cuda_fp16.h", "vector_types.h", "crt/host_defines.h")
    return next((c for c in candidates if all((c / name).is_file() for name in needed)), None)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """A function `(arguments, grad=None, deterministic=False, seed=0)` that runs the kernels: the output, or the
    gradients of value, positions and weights."""
    compiler, include = shutil.which("g++"), cuda_include()
    if compiler is None or include is None:
        pytest.skip("the emulated kernels need g++ and CUDA's headers")
    file = tmp_path_factory.mktemp("emulation") / "emulation.so"
    options = ["-shared", "-fPIC", "-std=c++20", "-O1", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    folders = ["-isystem", str(include), "-I", str(SOURCES)]
    command = [compiler, *options, *warnings, *folders, str(EMULATION / "emulate.cpp"), "-o", str(file)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    function = ctypes.CDLL(str(file)).emulate
    function.argtypes, function.restype = [ctypes.POINTER(Call)], ctypes.c_char_p

    def run(arguments, grad=None, deterministic=False, seed=0):
        fused = len(arguments) == 5
        value, shapes, positions, weights = arguments[0], arguments[1], arguments[-2], arguments[-1]
        batch, _, heads, channels = value.shape
        queries, levels, points = positions.shape[1], len(shapes), positions.shape[4]
        sizes = torch.tensor(shapes, dtype=torch.int64)
        tensors = {"value": value, "positions": positions, "weights": weights, "shapes": sizes}
        if fused:
            tensors["reference_points"] = arguments[2]
        if grad is None:
            tensors["output"] = value.new_full((batch, queries, heads * channels), torch.nan)
        else:
            tensors["grad_output"] = grad
            tensors["grad_positions"] = torch.full_like(positions, torch.nan)
            tensors["grad_weights"] = torch.full_like(weights, torch.nan)
            precise = torch.promote_types(value.dtype, torch.float32)
            tensors["sums"] = torch.zeros(value.shape, dtype=torch.int64 if deterministic else precise)
            same = not deterministic and value.dtype == precise
            tensors["grad_value"] = tensors["sums"] if same else torch.full_like(value, torch.nan)
            tensors["bounds"] = torch.zeros(3, dtype=torch.int64)
        call = Call(batch=batch, queries=queries, heads=heads, channels=channels, levels=levels, points=points)
        call.type, call.fused, call.forward = TYPES[value.dtype], fused, grad is None
        call.half_points = positions.dtype == value.dtype and value.dtype.itemsize == 2
        call.fixed_point, call.seed = deterministic, seed
        for name, tensor in tensors.items():
            assert tensor.is_contiguous()
            setattr(call, name, tensor.data_ptr())
        message = function(ctypes.byref(call)).decode()
        if message:
            raise RuntimeError(message)
        if grad is None:
            return tensors["output"]
        return [tensors["grad_value"], tensors["grad_positions"], tensors["grad_weights"]]

    return run


def check(emulator, arguments, seed=0, deterministic=False) -> None:
    grad = gradient_for(arguments)
    results = [emulator(arguments, seed=seed), *emulator(arguments, grad, deterministic, seed)]
    assert_all_close(results, exact(arguments, grad), arguments)


# levels, points, channels, batch, queries, heads; every branch of the choice of a kernel for every type of value
CASES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 8, 2, 9, 2),
    (3, 4, 16, 3, 9, 1),
    (3, 4, 32, 1, 9, 2),
    (3, 4, 32, 2, None, 2),
    (3, 4, 32, 1, 70, 3),
    (2, 5, 32, 1, None, 1),
    (4, 8, 64, 1, 3, 1),
    (2, 2, 80, 1, 3, 3),
    (4, 5, 7, 2, 5, 2),
    (1, 8, 33, 1, 5, 4),
    (5, 7, 24, 1, 9, 1),
    (4, 4, 48, 1, None, 1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_emulated_values_and_gradients_equal_the_reference(emulator, case, dtype):
    check(emulator, inputs(*case, dtype=dtype))


@pytest.mark.parametrize("case", CASES[3:7], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_emulated_half_precision_offsets_and_logits(emulator, case, dtype):
    check(emulator, inputs(*case, dtype=dtype, half_points=True))


@pytest.mark.parametrize("case", CASES[2:5], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_emulated_classic_entry(emulator, case, dtype, deterministic):
    check(emulator, classic_inputs(*case, dtype=dtype), deterministic=deterministic)


@pytest.mark.parametrize("channels", list(range(1, 81, 3)))
def test_emulated_head_sizes(emulator, channels):
    for dtype in (torch.float32, torch.bfloat16):
        check(emulator, inputs(2, 2, channels, 1, 2, 1, dtype=dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("queries", [9, None])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_emulated_results_in_any_order_of_blocks_and_lanes(emulator, dtype, queries, seed):
    check(emulator, inputs(3, 4, 32, 2, queries, 2, dtype=dtype), seed=seed)


@pytest.mark.parametrize("far", [-1e30, 1e30, float("inf"), float("-inf"), float("nan"), -9.0, 50.0])
@pytest.mark.parametrize("channels", [5, 32])
def test_emulated_points_far_outside_give_zeros_and_no_gradient(emulator, far, channels):
    half = inputs(channels=channels, dtype=torch.bfloat16)
    for arguments in (inputs(channels=channels, dtype=torch.float32), classic_inputs(channels=channels), half):
        arguments[-2] = torch.full_like(arguments[-2], far)
        for deterministic in (False, True):
            grads = emulator(arguments, gradient_for(arguments), deterministic)
            assert not any(tensor.any() for tensor in (emulator(arguments), *grads))


@pytest.mark.parametrize("entry", [inputs, classic_inputs])
def test_emulated_points_on_borders_and_without_weight(emulator, entry):
    arguments = entry(3, 4, 32, dtype=torch.float64)
    positions, weights = arguments[-2], arguments[-1]
    if entry is classic_inputs:
        edges = torch.tensor([-0.07, 0.01, 0.5, 0.99, 1.07], dtype=torch.float64)
        positions.copy_(edges[torch.randint(5, positions.shape)])
        weights[..., ::3] = 0
    else:
        weights[..., ::3] = -torch.inf
    check(emulator, arguments)


@pytest.mark.parametrize("spread", [0, 2, 30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_emulated_points_inside_and_outside_a_window(emulator, spread, dtype):
    check(emulator, wide_inputs(spread, dtype, half_points=spread == 2), seed=1)


@pytest.mark.parametrize("scale", [0.0, 1e-35, 1e-20, 1e20, 1e36])
def test_emulated_merged_gradients_of_any_size(emulator, scale):
    arguments = inputs(3, 4, 32, 1, None, 2, dtype=torch.bfloat16)
    grad = (gradient_for(arguments).float() * scale).bfloat16()
    ours, theirs = emulator(arguments, grad)[0].double(), exact(arguments, grad)[1]
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-4 * scale)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_emulated_merged_gradients_are_not_finite_only_where_a_term_is_not(emulator, bad):
    arguments = inputs(3, 4, 32, 1, None, 2, dtype=torch.bfloat16)
    clean = gradient_for(arguments)
    grad, logits = clean.clone(), arguments[-1].clone()
    grad[0, 3, 5] = bad  # of the first head, channel 5
    found, expected = emulator(arguments, grad)[0], emulator(arguments, clean)[0]
    hit = ~found.isfinite()
    assert hit[0, :, 0, 5].any() and not hit[0, :, 1].any() and not hit[0, :, 0, :5].any()
    torch.testing.assert_close(found[~hit], expected[~hit], **TOLERANCE[torch.bfloat16])
    arguments[-1][0, 3, 0, 0] = torch.nan  # the softmax takes it to all points of the query
    found = emulator(arguments, clean)[0]
    assert found[0, :, 0].isnan().any() and not found[0, :, 1].isnan().any()
    arguments[-1].copy_(logits)
    assert not emulator(arguments, clean)[0].isnan().any()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[4], CASES[9]], ids=str)
def test_emulated_deterministic_gradients_have_the_same_bits_in_any_order(emulator, dtype, case):
    arguments = inputs(*case, dtype=dtype)
    grad = gradient_for(arguments)
    first = emulator(arguments, grad, deterministic=True)
    for seed in range(1, 5):
        for ours, theirs in zip(emulator(arguments, grad, deterministic=True, seed=seed), first, strict=True):
            assert torch.equal(ours, theirs)
    assert_all_close([emulator(arguments), *first], exact(arguments, grad), arguments)


def test_the_emulated_order_of_additions_differs_between_seeds(emulator):
    arguments = inputs(*CASES[4], dtype=torch.float32)
    results = [emulator(arguments, gradient_for(arguments), seed=seed)[0] for seed in range(4)]
    assert not all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("scale", [0.0, 1e-32, 1e-20, 1e20, 1e36])
def test_emulated_deterministic_gradients_of_any_size(emulator, scale):
    arguments = inputs(dtype=torch.float32)
    grad = gradient_for(arguments)
    plain = emulator(arguments, grad)[0]
    by_value = emulator(arguments, grad * scale, deterministic=True)[0]
    torch.testing.assert_close(by_value, plain * scale, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_emulated_deterministic_gradients_that_are_not_finite_are_nan(emulator, bad):
    arguments = inputs(dtype=torch.float32)
    grad = gradient_for(arguments)
    grad[0, 0, 0] = bad
    assert emulator(arguments, grad, deterministic=True)[0].isnan().all()
    arguments = classic_inputs(dtype=torch.float32)
    arguments[-1][0, 0, 0, 0, 0] = bad
    assert emulator(arguments, gradient_for(arguments), deterministic=True)[0].isnan().all()


def test_emulated_deterministic_terms_that_are_not_finite_give_nan(emulator):
    arguments = inputs(dtype=torch.float32)
    arguments[-1][0, 0, 0, 0] = torch.nan
    assert emulator(arguments, gradient_for(arguments), deterministic=True)[0].isnan().all()
    arguments = classic_inputs(dtype=torch.float32)
    arguments[-1].mul_(1e30)
    assert emulator(arguments, 1e30 * gradient_for(arguments), deterministic=True)[0].isnan().all()


def test_many_points_are_taken_and_too_many_refused(emulator):
    check(emulator, inputs(2, 300, 8, 1, 2, 1, dtype=torch.float32))
    with pytest.raises(RuntimeError, match="more points"):
        emulator(inputs(2, 2000, 8, 1, 2, 1, dtype=torch.float32))


# --- nvcc -------------------------------------------------------------------------------------------------------------

ARCHITECTURES = ["compute_80,code=sm_80", "compute_90,code=sm_90", "compute_90,code=compute_90"]


def nvcc() -> str | None:
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    found = [home / "bin" / "nvcc" for home in homes if (home / "bin" / "nvcc").is_file()]
    return str(found[0]) if found else shutil.which("nvcc")


@pytest.mark.slow
@pytest.mark.skipif(nvcc() is None, reason="there is no nvcc; CUDA_HOME can say where CUDA is")
@pytest.mark.parametrize("file", sorted(file.name for file in SOURCES.glob("*.cu")))
def test_the_sources_compile_without_a_warning(file, tmp_path):
    from torch.utils.cpp_extension import include_paths

    folders = [option for folder in include_paths() for option in ("-isystem", folder)]
    defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA", "-DMTACLIP_TORCH=2.10", "-DMTACLIP_CUDA=13.0"]
    options = ["-c", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-Wall"]
    codes = [f"-gencode=arch={architecture}" for architecture in ARCHITECTURES]
    command = [nvcc(), *options, *codes, *defines, *folders, str(SOURCES / file), "-o", str(tmp_path / "object.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "warning" in line and "csrc/cuda" in line]


# --- on a GPU ---------------------------------------------------------------------------------------------------------

WHY_NOT = "there is no GPU" if not torch.cuda.is_available() else library.CUDA.problem
needs_gpu = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def on_gpu(arguments) -> list:
    return [a.cuda() if torch.is_tensor(a) else a for a in arguments]


def operators(arguments):
    """The forward and the backward operator for these arguments, and the arguments as they take them."""
    name = "ms_deform_attn" if len(arguments) == 5 else "ms_deform_attn_classic"
    value, shapes, *rest = arguments
    flat = [size for shape in shapes for size in shape]
    return getattr(torch.ops.mtaclip, name), getattr(torch.ops.mtaclip, f"{name}_backward"), (value, *rest, flat)


def run_on_gpu(arguments, grad, deterministic=False) -> list[Tensor]:
    forward, backward, given = operators(on_gpu(arguments))
    return [t.cpu() for t in (forward(*given), *backward(grad.cuda(), *given, deterministic))]


@needs_gpu
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_values_and_gradients_on_a_gpu_equal_the_reference(case, dtype, deterministic):
    variants = [inputs(*case, dtype=dtype), classic_inputs(*case, dtype=dtype)]
    if dtype.itemsize == 2:
        variants.append(inputs(*case, dtype=dtype, half_points=True))
    for arguments in variants:
        grad = gradient_for(arguments)
        assert_all_close(run_on_gpu(arguments, grad, deterministic), exact(arguments, grad), arguments)


@needs_gpu
@pytest.mark.parametrize("spread", [0, 2, 30])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_points_inside_and_outside_a_window_on_a_gpu(spread, dtype):
    arguments = wide_inputs(spread, dtype)
    grad = gradient_for(arguments)
    assert_all_close(run_on_gpu(arguments, grad), exact(arguments, grad), arguments)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("far", [-1e30, float("inf"), float("nan"), 50.0])
def test_points_far_outside_on_a_gpu(far, dtype):
    arguments = inputs(channels=32, dtype=dtype)
    arguments[3] = torch.full_like(arguments[3], far)
    assert not any(tensor.any() for tensor in run_on_gpu(arguments, gradient_for(arguments)))


@needs_gpu
def test_gradcheck_on_a_gpu():
    for arguments in (inputs(2, 2, 3, 1, 2, 1), classic_inputs(2, 2, 3, 1, 2, 1)):
        forward, _, (*tensors, flat) = operators(on_gpu(arguments))
        tensors = [t.requires_grad_() for t in tensors]
        assert torch.autograd.gradcheck(lambda *t, f=forward, s=flat: f(*t, s), tensors, nondet_tol=1e-12)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deterministic_gradients_on_a_gpu_have_the_same_bits(dtype):
    arguments = on_gpu(inputs(3, 4, 32, 4, 2000, 8, dtype=dtype))
    grad = gradient_for(arguments).cuda()

    def gradients():
        forward, _, (*tensors, flat) = operators(arguments)
        tensors = [t.detach().requires_grad_() for t in tensors]
        return torch.autograd.grad(forward(*tensors, flat), [tensors[0], *tensors[-2:]], grad)

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first = gradients()
        for _ in range(10):
            assert all(torch.equal(a, b) for a, b in zip(gradients(), first, strict=True))
    finally:
        torch.use_deterministic_algorithms(before)


@needs_gpu
@pytest.mark.parametrize("entry", [inputs, classic_inputs])
def test_operator_registration_on_a_gpu(entry):
    forward, backward, (*tensors, flat) = operators(on_gpu(entry()))
    grad = torch.ones_like(forward(*tensors, flat))
    torch.library.opcheck(backward.default, (grad, *tensors, flat, True))
    torch.library.opcheck(forward.default, (*(t.requires_grad_() for t in tensors), flat))


@needs_gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_cuda_graph_replays(deterministic):
    arguments = on_gpu(inputs(3, 4, 32, 2, None, 2, dtype=torch.float32))
    forward, backward, given = operators(arguments)
    grad = gradient_for(arguments).cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        forward(*given), backward(grad, *given, deterministic)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [forward(*given), *backward(grad, *given, deterministic)]
    arguments[0].neg_()
    for _ in range(2):  # sums begin at zero every time
        graph.replay()
    for ours, theirs in zip(results, [forward(*given), *backward(grad, *given, deterministic)], strict=True):
        torch.testing.assert_close(ours, theirs)


@needs_gpu
def test_compile_and_autocast_on_a_gpu():
    value, shapes, *rest = on_gpu(inputs(3, 4, 32, dtype=torch.float32))

    def function(value, *rest):
        return ms_deform_attn(value, shapes, *rest).relu()

    expected = function(value, *rest)
    torch.testing.assert_close(torch.compile(function, fullgraph=True)(value, *rest), expected)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            output = function(value, *rest)
        assert output.dtype == dtype
        torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=2e-2)


@needs_gpu
def test_strided_and_unaligned_inputs_and_no_queries_on_a_gpu():
    arguments = on_gpu(inputs(3, 4, 32, dtype=torch.float32))
    value, shapes, reference, offsets, logits = arguments
    forward, backward, given = operators(arguments)
    expected = forward(*given)
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in (value, reference, offsets, logits)]
    assert torch.equal(forward(*shifted, given[-1]), expected)
    assert torch.equal(forward(value.mT.contiguous().mT, *given[1:]), expected)
    none = [value, reference[:0], offsets[:, :0], logits[:, :0], given[-1]]
    assert forward(*none).shape == (2, 0, 64)
    assert not backward(expected[:, :0], *none, False)[0].any()


@needs_gpu
@pytest.mark.parametrize("index", [1, 2, 3])
def test_wrong_arguments_on_a_gpu_are_named(index):
    forward, _, given = operators(on_gpu(inputs(dtype=torch.float32)))
    for change in (torch.Tensor.long, torch.Tensor.cpu, lambda t: t[..., :1]):
        wrong = [change(a) if i == index else a for i, a in enumerate(given)]
        with pytest.raises(RuntimeError, match="mtaclip: "):
            forward(*wrong)
    with pytest.raises(RuntimeError, match="spatial_shapes"):
        forward(*given[:-1], [1, 2])
