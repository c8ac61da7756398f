"""The operators of PyTorch's library `mtaclip`: schemas, shapes, gradients, and what computes them.

The schemas are defined here whether or not a compiled library loads, so a traced or exported graph is the same on every
machine. Without a compiled library or Triton for a device, the operators compute what plain PyTorch does.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from mtaclip.ops import compiled
from mtaclip.ops.pytorch import ms_deform_attn_classic_pytorch, ms_deform_attn_pytorch

IMPLEMENTATIONS = ("compiled", "triton", "pytorch", "reference")


def _forced() -> str:
    name = os.environ.get("MTACLIP_OPS", "")
    if name and name not in IMPLEMENTATIONS:
        raise ValueError(f"MTACLIP_OPS must be one of {', '.join(IMPLEMENTATIONS)} or unset, got {name!r}.")
    return name


# The implementation that MTACLIP_OPS names, "" if it leaves the choice.
FORCED = _forced()

_library = torch.library.Library("mtaclip", "DEF")
_FUSED = "Tensor value, Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, SymInt[] shapes"
_CLASSIC = "Tensor value, Tensor sampling_locations, Tensor attention_weights, SymInt[] shapes"
for _name, _arguments in (("ms_deform_attn", _FUSED), ("ms_deform_attn_classic", _CLASSIC)):
    _library.define(f"{_name}({_arguments}) -> Tensor")
    _library.define(f"{_name}_backward(Tensor grad, {_arguments}, bool deterministic) -> (Tensor, Tensor, Tensor)")


def _pairs(shapes: list[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))


# --- in plain PyTorch -----------------------------------------------------------------------------------------------


def _fused_in_pytorch(value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
    return ms_deform_attn_pytorch(value, _pairs(shapes), reference, offsets, logits).contiguous()


def _classic_in_pytorch(value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int]) -> Tensor:
    return ms_deform_attn_classic_pytorch(value, _pairs(shapes), locations, weights).contiguous()


_library.impl("ms_deform_attn", _fused_in_pytorch, "CompositeExplicitAutograd")
_library.impl("ms_deform_attn_classic", _classic_in_pytorch, "CompositeExplicitAutograd")


def _gradients_in_pytorch(
    function: Callable[..., Tensor], grad: Tensor, tensors: tuple[Tensor, ...], shapes: list[int]
) -> tuple[Tensor, ...]:
    """Gradients of all `tensors`, through `function` once more."""
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
    grad: Tensor,
    value: Tensor,
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shapes: list[int],
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offsets.new_empty(offsets.shape), logits.new_empty(logits.shape)


@torch.library.register_fake("mtaclip::ms_deform_attn_classic_backward")
def _(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, shapes: list[int], deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.shapes = inputs
    ctx.save_for_backward(*tensors)


def _keep_nothing(ctx, inputs, output) -> None:
    pass


def _fused_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, reference, offsets, logits = ctx.saved_tensors
    if not has_kernel(value):
        return *_gradients_in_pytorch(_fused_in_pytorch, grad, ctx.saved_tensors, ctx.shapes), None
    by_value, by_offsets, by_logits = torch.ops.mtaclip.ms_deform_attn_backward(
        grad, value, reference, offsets, logits, ctx.shapes, torch.are_deterministic_algorithms_enabled()
    )
    by_reference = None
    if ctx.needs_input_grad[1]:  # one step of a reference point moves a point by a level's size in pixels
        sizes = reference.new_tensor([(w, h) for h, w in _pairs(ctx.shapes)])[:, None]
        by_reference = (by_offsets * sizes).sum((0, 2, 3, 4))
    return by_value, by_reference, by_offsets, by_logits, None


def _classic_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    if not has_kernel(value):
        return *_gradients_in_pytorch(_classic_in_pytorch, grad, ctx.saved_tensors, ctx.shapes), None
    gradients = torch.ops.mtaclip.ms_deform_attn_classic_backward(
        grad, value, locations, weights, ctx.shapes, torch.are_deterministic_algorithms_enabled()
    )
    return *gradients, None


def _no_second_derivative(ctx, *grads: Tensor) -> None:
    raise RuntimeError("mtaclip: multi-scale deformable attention has no second derivative.")


torch.library.register_autograd("mtaclip::ms_deform_attn", _fused_backward, setup_context=_keep)
torch.library.register_autograd("mtaclip::ms_deform_attn_classic", _classic_backward, setup_context=_keep)
for _name in ("ms_deform_attn_backward", "ms_deform_attn_classic_backward"):
    torch.library.register_autograd(f"mtaclip::{_name}", _no_second_derivative, setup_context=_keep_nothing)


# --- what is faster than plain PyTorch -------------------------------------------------------------------------------


def _triton_problem() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"Triton is of no use to PyTorch {torch.__version__}, which is without a GPU."
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; `pip install triton` adds it."
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler, gcc or clang, and there is none."
    return ""


def _register_triton() -> None:
    """Let Triton compute on GPUs; it is imported by the first call, because that takes time."""

    def fused(value: Tensor, *arguments) -> Tensor:
        from mtaclip.ops import triton_kernels

        return triton_kernels.forward(value, *arguments)

    def fused_backward(grad: Tensor, value: Tensor, *arguments) -> tuple[Tensor, Tensor, Tensor]:
        from mtaclip.ops import triton_kernels

        return triton_kernels.backward(grad, value, *arguments)

    def classic(value: Tensor, *arguments) -> Tensor:
        return fused(value, None, *arguments)

    def classic_backward(grad: Tensor, value: Tensor, *arguments) -> tuple[Tensor, Tensor, Tensor]:
        return fused_backward(grad, value, None, *arguments)

    _library.impl("ms_deform_attn", fused, "CUDA")
    _library.impl("ms_deform_attn_backward", fused_backward, "CUDA")
    _library.impl("ms_deform_attn_classic", classic, "CUDA")
    _library.impl("ms_deform_attn_classic_backward", classic_backward, "CUDA")


CPU = compiled.load_cpu()
# Both would register themselves for the same device.
CUDA = compiled.load_cuda("MTACLIP_OPS=triton keeps the compiled operator for CUDA away." if FORCED == "triton" else "")
# Why Triton cannot be used; "" if it can.
TRITON_PROBLEM = _triton_problem()
if CUDA.problem and not TRITON_PROBLEM:
    _register_triton()


def compiled_problem(value: Tensor) -> str:
    """Why no compiled library computes with tensors like `value`; "" if one does."""
    for library in (CPU, CUDA):
        if library.device == value.device.type:
            if library.problem:
                return library.problem
            if value.dtype in library.types:
                return ""
    return f"The compiled operator does not take {value.dtype} on the device type {value.device.type!r}."


def triton_problem(value: Tensor) -> str:
    """Why Triton does not compute with tensors like `value`; "" if it does."""
    if value.device.type != "cuda":
        return f"Triton does not compute on the device type {value.device.type!r}."
    return TRITON_PROBLEM


def has_kernel(value: Tensor) -> bool:
    """Whether the operators have something faster than plain PyTorch for tensors like `value`."""
    return not compiled_problem(value) or not triton_problem(value)
