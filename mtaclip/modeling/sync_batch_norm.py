"""Batch normalisation over the images of all processes, on any device.

PyTorch's SyncBatchNorm refuses tensors of the CPU. Letters: B images of this process, C channels, H, W size.
"""

import torch
from detectron2.utils import comm
from torch import Tensor, distributed, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance in training are those of all processes' images together.

    The processes may have different numbers and sizes of images. Parameters, buffers and what evaluation computes are
    BatchNorm2d's.
    """

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Put this class in the place of every BatchNorm2d in a module, with its parameters and buffers.

        Args:
            module: its BatchNorm2d have weights, biases and running statistics, as they have by default.

        Returns:
            The module, changed in place; a new one if it is a BatchNorm2d itself.
        """
        if isinstance(module, nn.BatchNorm2d):
            new = cls(module.num_features, module.eps, module.momentum)
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(new, name, getattr(module, name))
            return new.train(module.training)
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child))
        return module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); statistics are computed in float32 at least."""
        if not self.training or comm.get_world_size() == 1:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = (0, 2, 3)
        size = values.new_tensor([values.numel() / values.shape[1]])
        total, size = _AllSum.apply(torch.cat([values.sum(dims), size])).split([self.num_features, 1])
        mean = (total / size)[:, None, None]
        variance = _AllSum.apply((values - mean).square().sum(dims)) / size
        self._track(mean.detach().flatten(), variance.detach(), size.detach())
        scaled = (values - mean) * (variance + self.eps).rsqrt()[:, None, None]
        return torch.addcmul(self.bias[:, None, None], scaled, self.weight[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, size: Tensor) -> None:
        """Move the running statistics towards (C,) mean and variance of `size` values, as BatchNorm2d does."""
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * size / (size - 1), momentum)


class _AllSum(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total
