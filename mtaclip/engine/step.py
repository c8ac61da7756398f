"""One training step."""

import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn


class TrainStep:
    """Forward under autocast, backward, clipping by one norm over all gradients, update.

    Args:
        model: returns a dict of losses.
        optimizer: updates the parameters.
        dtype: of autocast; None computes in float32. With float16 the loss is scaled.
        max_norm: bound on the norm of all gradients together; None leaves them as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype | None,
        max_norm: float | None,
    ) -> None:
        self.model = model.train()
        self.optimizer = optimizer
        self._device_type = next(model.parameters()).device.type
        self._dtype = dtype
        self._max_norm = max_norm
        self.scaler = torch.amp.GradScaler(self._device_type, enabled=dtype == torch.float16)
        self._loader: Iterable[list[dict]] = ()
        self._batches: Iterator[list[dict]] = iter(())

    @property
    def data_loader(self) -> Iterable[list[dict]]:
        """Endless batches; setting it starts reading."""
        return self._loader

    @data_loader.setter
    def data_loader(self, loader: Iterable[list[dict]]) -> None:
        self._loader, self._batches = loader, iter(loader)

    def run_step(self, seed: int) -> None:
        """Train on the next batch.

        Args:
            seed: of everything random in the step; data come with their own.
        """
        start = time.perf_counter()
        data = next(self._batches)
        data_time = time.perf_counter() - start
        torch.manual_seed(seed)
        with torch.autocast(self._device_type, dtype=self._dtype, enabled=self._dtype is not None):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values())).backward()
        metrics = losses
        if self._max_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._max_norm)
            metrics = {**losses, "grad_norm": norm}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        _record(metrics, data_time)


def random_seed(*numbers: int) -> int:
    """One seed out of several numbers, such as a run's seed, an iteration and a process."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _record(metrics: dict[str, Tensor], data_time: float) -> None:
    """Put the processes' mean losses and their longest wait for data into the storage; NaN ends the training."""
    values = dict(zip(metrics, torch.stack([m.detach().float() for m in metrics.values()]).tolist(), strict=True))
    gathered = comm.gather({**values, "data_time": data_time})
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("data_time", max(process.pop("data_time") for process in gathered))
    means = {name: float(np.mean([process[name] for process in gathered])) for name in values}
    means["total_loss"] = sum(value for name, value in means.items() if name.startswith("loss_"))
    if not np.isfinite(means["total_loss"]):
        raise FloatingPointError(f"Losses are not finite at iteration {storage.iter}: {means}.")
    storage.put_scalars(**means)
