"""The operators of PyTorch's library `mtaclip`: schemas, shapes, gradients, and the compiled part if it is there.

The schemas are defined here whether or not `_C_cpu.abi3.so` loads, so a traced or exported graph is the same on every
machine. Without a compiled implementation for a device, the operator computes what the plain PyTorch reference does.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mtaclip.ops.reference import ms_deform_attn_classic_reference, ms_deform_attn_reference

FILE = Path(__file__).with_name("_C_cpu.abi3.so")
REBUILD = "`pip install --no-build-isolation --no-deps -e .` in the checkout builds it"
# What the compiled part takes on the CPU.
CPU_TYPES = (torch.float32, torch.float64, torch.bfloat16)

_library = torch.library.Library("mtaclip", "DEF")
_FUSED = "Tensor value, Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, SymInt[] shapes"
_CLASSIC = "Tensor value, Tensor sampling_locations, Tensor attention_weights, SymInt[] shapes"
for _name, _arguments in (("ms_deform_attn", _FUSED), ("ms_deform_attn_classic", _CLASSIC)):
    _library.define(f"{_name}({_arguments}) -> Tensor")
    _library.define(f"{_name}_backward(Tensor grad, {_arguments}) -> (Tensor, Tensor, Tensor)")


def _pairs(shapes: list[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))


# --- without a compiled implementation -------------------------------------------------------------------------------


def _fused_in_pytorch(value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
    return ms_deform_attn_reference(value, _pairs(shapes), reference, offsets, logits).contiguous()


def _classic_in_pytorch(value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int]) -> Tensor:
    return ms_deform_attn_classic_reference(value, _pairs(shapes), locations, weights).contiguous()


_library.impl("ms_deform_attn", _fused_in_pytorch, "CompositeExplicitAutograd")
_library.impl("ms_deform_attn_classic", _classic_in_pytorch, "CompositeExplicitAutograd")


def _gradients_in_pytorch(
    function: Callable[..., Tensor], grad: Tensor, tensors: tuple[Tensor, ...], shapes: list[int]
) -> tuple[Tensor, ...]:
    """Gradients of all `tensors`, through the reference once more."""
    if torch.is_grad_enabled():
        raise RuntimeError("mtaclip: multi-scale deformable attention has no second derivative.")
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(function(*inputs, shapes), inputs, grad)


# --- shapes and gradients --------------------------------------------------------------------------------------------


@torch.library.register_fake("mtaclip::ms_deform_attn")
def _(value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
    return value.new_empty((value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3]))


@torch.library.register_fake("mtaclip::ms_deform_attn_classic")
def _(value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int]) -> Tensor:
    return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


@torch.library.register_fake("mtaclip::ms_deform_attn_backward")
def _(
    grad: Tensor, value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offsets.new_empty(offsets.shape), logits.new_empty(logits.shape)


@torch.library.register_fake("mtaclip::ms_deform_attn_classic_backward")
def _(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.shapes = inputs
    ctx.save_for_backward(*tensors)


def _keep_nothing(ctx, inputs, output) -> None:
    pass


def _fused_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, reference, offsets, logits = ctx.saved_tensors
    if not compiled(value):
        return *_gradients_in_pytorch(_fused_in_pytorch, grad, ctx.saved_tensors, ctx.shapes), None
    by_value, by_offsets, by_logits = torch.ops.mtaclip.ms_deform_attn_backward(
        grad, value, reference, offsets, logits, ctx.shapes
    )
    by_reference = None
    if ctx.needs_input_grad[1]:  # one step of a reference point moves a point by a level's size in pixels
        sizes = by_offsets.new_tensor([(w, h) for h, w in _pairs(ctx.shapes)])[:, None]
        by_reference = (by_offsets * sizes).sum((0, 2, 3, 4))
    return by_value, by_reference, by_offsets, by_logits, None


def _classic_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    if not compiled(value):
        return *_gradients_in_pytorch(_classic_in_pytorch, grad, ctx.saved_tensors, ctx.shapes), None
    return *torch.ops.mtaclip.ms_deform_attn_classic_backward(grad, value, locations, weights, ctx.shapes), None


def _no_second_derivative(ctx, *grads: Tensor) -> None:
    raise RuntimeError("mtaclip: multi-scale deformable attention has no second derivative.")


torch.library.register_autograd("mtaclip::ms_deform_attn", _fused_backward, setup_context=_keep)
torch.library.register_autograd("mtaclip::ms_deform_attn_classic", _classic_backward, setup_context=_keep)
for _name in ("ms_deform_attn_backward", "ms_deform_attn_classic_backward"):
    torch.library.register_autograd(f"mtaclip::{_name}", _no_second_derivative, setup_context=_keep_nothing)


# --- the compiled part -----------------------------------------------------------------------------------------------


def built_for(file: Path = FILE) -> str | None:
    """The PyTorch version a library was built with, read from the file without loading it; None if it says none."""
    found = re.search(rb"mtaclip-built-for-torch=([^;\0]+);", file.read_bytes()) if file.is_file() else None
    return found[1].decode() if found else None


def load(file: Path = FILE) -> str:
    """Load the compiled part.

    Returns:
        "" if it loaded, else one sentence that says why not and what to do.
    """
    if not file.is_file():
        return f"The compiled operator is not built; {REBUILD} where a C++ compiler and PyTorch 2.10 or newer are."
    try:
        torch.ops.load_library(file)
    except OSError as error:
        reason = " ".join(str(error).split())
        return (
            f"The compiled operator {file} was built for PyTorch {built_for(file) or 'unknown'} and does not load "
            f"with {torch.__version__} ({reason}); {REBUILD} anew."
        )
    return ""


def instruction_set() -> str:
    """The instruction set the loaded library uses: "avx512", "avx2" or "baseline"."""
    function = ctypes.CDLL(str(FILE)).mtaclip_cpu_kernels
    function.restype = ctypes.c_char_p
    return function().decode()


# Why there is no compiled part; "" if there is one.
PROBLEM = load()


def compiled(value: Tensor) -> bool:
    """Whether the compiled part computes with tensors like `value`."""
    return not PROBLEM and value.device.type == "cpu" and value.dtype in CPU_TYPES
