"""Training with fewer activations in memory: what is cheap is computed again in the backward pass.

This is PyTorch's selective activation checkpointing. Results of convolutions, matrix products and attention are kept;
those of norms, activation functions, pooling and sums are not.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_aten = torch.ops.aten
PRODUCTS = {
    _aten.convolution.default,
    _aten.addmm.default,
    _aten.mm.default,
    _aten.bmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
}
"""Operators that take long to repeat."""


def recomputed(
    function: Callable[..., Tensor], *args: Tensor, owner: nn.Module, active: bool, kept: Collection[Any] = PRODUCTS
) -> Tensor:
    """function(*args), most of which is computed again if there is a backward pass.

    Args:
        function: has no randomness.
        args: what it takes.
        owner: the module that `function` is of; its BatchNorm layers see every image once.
        active: whether to do so in training; if not, everything is kept as usual.
        kept: operators whose results are kept nevertheless.

    Returns:
        The same value, with the same gradients.
    """
    if not (active and owner.training and torch.is_grad_enabled()):
        return function(*args)

    def policy(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operator in kept else CheckpointPolicy.PREFER_RECOMPUTE

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        first, again = create_selective_checkpoint_contexts(policy)
        return first, _untracked(again, owner)

    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _untracked(context: AbstractContextManager, owner: nn.Module) -> Iterator[None]:
    """`context`, in which the BatchNorm layers of `owner` write their running statistics into copies."""
    norms = [m for m in owner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in tracked:
        setattr(norm, name, buffer.clone())
    try:
        with context:
            yield
    finally:
        for norm, name, buffer in tracked:
            setattr(norm, name, buffer)
