"""Says what computes deformable attention on this machine, checks it against the reference, and measures it.

    python -m mtaclip.ops.check

The exit status is 1 if something that should work does not: a compiled library is there and does not load, or a result
is wrong. A library that was never built is said and is no error.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtaclip.ops import compiled, library
from mtaclip.ops.pytorch import ms_deform_attn_classic_pytorch, ms_deform_attn_pytorch
from mtaclip.ops.reference import locations_and_weights, ms_deform_attn_classic_reference, ms_deform_attn_reference

# Largest relative error (of the Euclidean norm) of a value or gradient, by the type of the values.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
LEVELS = [(9, 14), (5, 7), (1, 3)]
# The pixel decoder's on an image of 512 x 512.
LEVELS_OF_512 = [(16, 16), (32, 32), (64, 64)]
# Enough for a median that the first, which warms up, does not move.
RUNS, REFERENCE_RUNS = 7, 3

# Values, shapes, what the fused or the classic entry takes besides, and the output's gradient; the result is the output
# and the gradients of the value, the positions and the weights. Without the output's gradient, the output alone.
Run = Callable[[Tensor, list[tuple[int, int]], tuple[Tensor, ...], Tensor | None], list[Tensor]]


def main(argv: list[str] | None = None) -> int:
    """The command.

    Returns:
        the process's exit status, 1 if something that should work does not.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mtaclip.ops.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="check this one alone")
    parser.add_argument("--no-speed", action="store_true", help="leave out the measurement")
    args = parser.parse_args(argv)
    devices = [args.device] if args.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if args.device == "cuda" and not torch.cuda.is_available():
        _say(f"PyTorch {torch.__version__} sees no GPU.")
        return 1
    good = _describe()
    for device in devices:
        good = _check(device) and good
        if not args.no_speed:
            _say(_speed(device))
    _say("Everything that is here works." if good else "Something does not work: see above.")
    return 0 if good else 1


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _describe() -> bool:
    """Say what is there; whether nothing of it is broken."""
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    _say(f"PyTorch {torch.__version__}, {cuda}, {torch.cuda.device_count()} GPUs")
    for one in (library.CPU, library.CUDA):
        if one.problem:
            _say(one.problem)
            continue
        facts = one.built_for()
        details = f"built for PyTorch {facts['torch']}"
        if one.device == "cuda":
            details += f" and CUDA {facts['cuda']}, architectures {facts['architectures']}"
        else:
            details += f", runs with instruction set {compiled.instruction_set(one)}"
        _say(f"{one.name}: {one.file}, {details}")
    _say(library.TRITON_PROBLEM or "Triton is there for GPUs.")
    if library.FORCED:
        _say(f"MTACLIP_OPS makes the package use {library.FORCED!r}.")
    return not library.CPU.broken and not library.CUDA.broken


# --- results ---------------------------------------------------------------------------------------------------------


def _check(device: str) -> bool:
    """Compare every implementation on `device` with the reference and say the outcome; whether all agree."""
    good = True
    for name, types, run in _implementations(device):
        errors, failed = [], False
        for dtype in types:
            try:
                error = max(_error(run, device, dtype, fused) for fused in (True, False))
            except RuntimeError as problem:  # what a kernel that does not start or compile ends in
                errors.append(f"{_name(dtype)} fails ({' '.join(str(problem).split())})")
                failed = True
                continue
            errors.append(f"{_name(dtype)} {error:.0e}")
            failed |= not error <= TOLERANCES[dtype]
        verdict = "WRONG" if failed else "right"
        _say(f"{device}, {name}: {verdict}; largest relative error of values and gradients: {', '.join(errors)}")
        good &= not failed
    return good


def _implementations(device: str) -> list[tuple[str, list[torch.dtype], Run]]:
    """What can be used on a device, with the types to try."""
    halves = [torch.bfloat16, torch.float16] if device == "cuda" else [torch.bfloat16]
    types = [torch.float64, torch.float32, *halves]
    here = torch.empty(0, device=device)
    chosen: list[tuple[str, list[torch.dtype], Run]] = []
    if not library.compiled_problem(here):
        chosen.append(("compiled", types, _through_autograd(_fused_operator, _classic_operator)))
    if not library.triton_problem(here):
        chosen.append(("triton", types, _through_triton))
    return [*chosen, ("pytorch", types, _through_autograd(ms_deform_attn_pytorch, ms_deform_attn_classic_pytorch))]


def _error(run: Run, device: str, dtype: torch.dtype, fused: bool) -> float:
    """Largest relative error against the reference in float64, which gets the same rounded values."""
    generator = torch.Generator().manual_seed(0)
    value, shapes, tensors = _arguments(LEVELS, 2, 50, 4, 16, generator)
    if not fused:
        tensors = locations_and_weights(value, shapes, *tensors)
    grad = torch.randn(2, 50, 4 * 16, generator=generator, dtype=torch.float64)
    value, grad = value.to(dtype).to(device), grad.to(dtype).to(device)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = tuple(tensor.to(precise).to(device) for tensor in tensors)
    reference = _through_autograd(ms_deform_attn_reference, ms_deform_attn_classic_reference)
    expected = reference(value.double(), shapes, tuple(tensor.double() for tensor in tensors), grad.double())
    actual = [*run(value, shapes, tensors, grad), *run(value, shapes, tensors, None)]
    expected.append(expected[0])
    return max(((a.double() - e).norm() / e.norm()).item() for a, e in zip(actual, expected, strict=True))


def _arguments(
    shapes: list[tuple[int, int]], batch: int, queries: int, heads: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, list[tuple[int, int]], tuple[Tensor, ...]]:
    """Random arguments of the fused entry in float64, with four points per level."""
    like: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    levels = len(shapes)
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, **like)
    offsets = 3 * torch.randn(batch, queries, heads, levels, 4, 2, **like)
    logits = torch.randn(batch, queries, heads, levels * 4, **like)
    return value, shapes, (torch.rand(queries, 2, **like), offsets, logits)


def _through_autograd(fused: Callable[..., Tensor], classic: Callable[..., Tensor]) -> Run:
    def run(
        value: Tensor, shapes: list[tuple[int, int]], tensors: tuple[Tensor, ...], grad: Tensor | None
    ) -> list[Tensor]:
        function = fused if len(tensors) == 3 else classic
        if grad is None:
            return [function(value, shapes, *tensors)]
        inputs = [tensor.detach().requires_grad_() for tensor in (value, *tensors[-2:])]
        output = function(inputs[0], shapes, *tensors[:-2], *inputs[1:])
        return [output, *torch.autograd.grad(output, inputs, grad)]

    return run


def _through_triton(
    value: Tensor, shapes: list[tuple[int, int]], tensors: tuple[Tensor, ...], grad: Tensor | None
) -> list[Tensor]:
    from mtaclip.ops import triton_kernels

    arguments = (value, tensors[0] if len(tensors) == 3 else None, *tensors[-2:], _flat(shapes))
    gradients = () if grad is None else triton_kernels.backward(grad, *arguments, False)
    return [triton_kernels.forward(*arguments), *gradients]


def _fused_operator(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return torch.ops.mtaclip.ms_deform_attn(value, *tensors, _flat(shapes))


def _classic_operator(value: Tensor, shapes: list[tuple[int, int]], *tensors: Tensor) -> Tensor:
    return torch.ops.mtaclip.ms_deform_attn_classic(value, *tensors, _flat(shapes))


def _flat(shapes: list[tuple[int, int]]) -> list[int]:
    return [size for shape in shapes for size in shape]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- speed -----------------------------------------------------------------------------------------------------------


def _speed(device: str) -> str:
    """Forward and backward of the first implementation and of the reference, in turn, on one image of 512 x 512."""
    value, shapes, tensors = _arguments(LEVELS_OF_512, 1, 5376, 8, 32, torch.Generator().manual_seed(0))
    value, tensors = value.float().to(device), tuple(tensor.float().to(device) for tensor in tensors)
    grad = torch.ones(1, 5376, 256, device=device)
    name, _, ours = _implementations(device)[0]
    reference = _through_autograd(ms_deform_attn_reference, ms_deform_attn_classic_reference)
    mine, theirs = (
        statistics.median(_milliseconds(run, device, value, shapes, tensors, grad) for _ in range(runs))
        for run, runs in ((ours, RUNS), (reference, REFERENCE_RUNS))
    )
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    return (
        f"{device}, speed: {name} {mine:.2f} ms, grid_sample {theirs:.2f} ms, {theirs / mine:.1f} times faster "
        f"(forward and backward, 512 x 512, 5376 tokens, float32, {where}, medians)"
    )


def _milliseconds(run: Run, device: str, *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
