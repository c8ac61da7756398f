"""What the processes of a training run agree on in the middle of a step, without waiting for the device."""

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor that every process has, any shape."""
    if comm.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= comm.get_world_size()
    return values


def true_everywhere(flag: Tensor) -> Tensor:
    """Whether a bool scalar is True in every process, as a float32 scalar."""
    flag = flag.float()
    if comm.get_world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return flag
