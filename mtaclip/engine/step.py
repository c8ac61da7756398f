"""One training step, and what happens when its numbers are no longer finite.

On a GPU the step waits for the device once, where the matching costs are copied to the host: losses and norms are read
one step later, or when the log is about to be written.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from mtaclip.checkpoint.checkpointer import save_atomically

_logger = logging.getLogger(__name__)
LOG_PERIOD = 20
"""Iterations between two lines of the log."""


class NonFiniteError(FloatingPointError):
    """A loss, cost or gradient is NaN or infinite, more often than SOLVER.SKIP_NONFINITE allows."""


@dataclass
class _Step:
    """What is known of a step whose numbers may still be on their way from the device."""

    iteration: int
    seed: int
    batches: list[list[dict]]
    names: list[str]
    values: Tensor  # sums over the processes of the named metrics, then every process's wait for data
    ready: torch.cuda.Event | None
    gradients_kept: bool = True


class TrainStep:
    """Forward under autocast, backward, clipping by one norm over all gradients, update.

    An update with a gradient that is not finite leaves the parameters as they are.

    Args:
        model: returns a dict of losses.
        optimizer: a fused one; updates the parameters.
        dtype: of autocast; None computes in float32. With float16 the loss is scaled.
        max_norm: bound on the norm of all gradients together; None leaves them as they are.
        accumulate: batches whose gradients make one update.
        skip_nonfinite: steps with values that are not finite to leave out before one ends the training.
        output_dir: where the batch of such a step goes, for `tools/replay_batch.py`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype | None,
        max_norm: float | None,
        accumulate: int = 1,
        skip_nonfinite: int = 0,
        output_dir: str | Path = ".",
    ) -> None:
        self.model = model.train()
        self._plain = getattr(model, "module", model)  # not wrapped for several processes
        self.optimizer = optimizer
        self.skipped = 0
        self._device = next(model.parameters()).device
        self._dtype = dtype
        self._max_norm = max_norm
        self._accumulate = accumulate
        self._skip_nonfinite = skip_nonfinite
        self._output_dir = Path(output_dir)
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=dtype == torch.float16)
        self._loader: Iterable[list[dict]] = ()
        self._batches: Iterator[list[dict]] = iter(())
        self._pending: _Step | None = None

    @property
    def data_loader(self) -> Iterable[list[dict]]:
        """Endless batches; setting it starts reading."""
        return self._loader

    @data_loader.setter
    def data_loader(self, loader: Iterable[list[dict]]) -> None:
        self._loader, self._batches = loader, iter(loader)

    def run_step(self, seed: int, *, is_last: bool = False) -> None:
        """Train on the next batch.

        Args:
            seed: of everything random in the step; data come with their own.
            is_last: no step follows, which would read this one's losses.

        Raises:
            NonFiniteError: in every process, when there were more such steps than may be skipped.
        """
        start = time.perf_counter()
        batches = [next(self._batches) for _ in range(self._accumulate)]
        data_time = time.perf_counter() - start
        iteration = get_event_storage().iter
        torch.manual_seed(seed)
        self.optimizer.zero_grad()
        if self._pending is not None:
            self._pending.gradients_kept = False
        try:
            losses = self._backward(batches)
        except FloatingPointError as error:
            self.read_losses()
            self._leave_out(_Step(iteration, seed, batches, [], torch.empty(0), None), str(error))
            return
        self.read_losses()
        norm = self._update()
        metrics = {**losses, "grad_norm": norm}
        self._pending = _Step(iteration, seed, batches, list(metrics), *self._collect(metrics, data_time))
        if is_last or self._device.type == "cpu" or (iteration + 1) % LOG_PERIOD == 0:
            self.read_losses()

    def _backward(self, batches: list[list[dict]]) -> dict[str, Tensor]:
        """Add up the gradients of all parts of a batch; the weighted losses of all of it."""
        total: dict[str, Tensor] = {}
        divisors = self._plain.loss_divisors(batches) if len(batches) > 1 else None
        for index, batch in enumerate(batches):
            alone = self.model is self._plain or index == len(batches) - 1  # the last part exchanges the gradients
            with nullcontext() if alone else self.model.no_sync():
                with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
                    losses = self.model(batch) if divisors is None else self.model(batch, divisors)
                self.scaler.scale(sum(losses.values())).backward()
            for name, value in losses.items():
                total[name] = total[name] + value.detach() if name in total else value.detach()
        return total

    def _update(self) -> Tensor:
        """Clip and apply the gradients, unless one of them is not finite; their norm before."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self._max_norm is not None:  # gradients that are not finite stay as they are, to be looked at
            factor = (self._max_norm / (norm + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, torch.where(norm.isfinite(), factor, 1.0))
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.found_inf = (~norm.isfinite()).float()  # fused optimizers look at it on the device
            self.optimizer.step()
        return norm

    def _collect(self, metrics: dict[str, Tensor], data_time: float) -> tuple[Tensor, torch.cuda.Event | None]:
        """Sum up the metrics of all processes and start their way to the host."""
        values = torch.zeros(len(metrics) + comm.get_world_size(), device=self._device)
        values[: len(metrics)] = torch.stack([m.detach().float() for m in metrics.values()])
        values[len(metrics) + comm.get_rank()] = data_time
        if comm.get_world_size() > 1:
            dist.all_reduce(values)
        if self._device.type != "cuda":
            return values, None
        values = values.to("cpu", non_blocking=True)  # into pinned memory
        ready = torch.cuda.Event()
        ready.record()
        return values, ready

    def read_losses(self) -> None:
        """Put the last step's losses, means over the processes, into the storage of events.

        Raises:
            NonFiniteError: see `run_step`.
        """
        step, self._pending = self._pending, None
        if step is None:
            return
        if step.ready is not None:
            step.ready.synchronize()
        count = len(step.names)
        means = dict(zip(step.names, (step.values[:count] / comm.get_world_size()).tolist(), strict=True))
        checked = [name for name in means if name != "grad_norm" or not self.scaler.is_enabled()]
        bad = [name for name in checked if not np.isfinite(means[name])]
        if bad:
            self._leave_out(step, self._name_first(bad, step.gradients_kept))
            return
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        now, storage.iter = storage.iter, step.iteration
        storage.put_scalar("data_time", step.values[count:].max().item())
        storage.put_scalars(total_loss=sum(v for name, v in means.items() if name.startswith("loss_")), **means)
        if self._skip_nonfinite:
            storage.put_scalar("skipped_steps", self.skipped)
        storage.iter = now

    def _name_first(self, bad: list[str], gradients_kept: bool) -> str:
        if bad[0] != "grad_norm":
            return f"{bad[0]} is NaN or infinite"
        if gradients_kept:
            for name, parameter in reversed(list(self._plain.named_parameters())):  # as the backward pass goes
                if parameter.grad is not None and not parameter.grad.isfinite().all():
                    return f"the gradient of {name} holds NaN or infinity"
        return "the gradients hold NaN or infinity"

    def _leave_out(self, step: _Step, reason: str) -> None:
        """Keep the batch of a step that was not applied, and go on if the configuration allows it."""
        self.skipped += 1
        images = [item.get("file_name", "an image without a name") for batch in step.batches for item in batch]
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        message = (
            f"Iteration {step.iteration}: {reason}; images {', '.join(images)}; learning rate "
            f"{' and '.join(f'{rate:.3g}' for rate in rates)}; loss scale {self.scaler.get_scale():g}; "
            f"{self.skipped} such step(s), SOLVER.SKIP_NONFINITE allows {self._skip_nonfinite}; "
            f"{self._save_for_replay(step, reason)}."
        )
        broken = [name for name, b in self._plain.named_buffers() if b.is_floating_point() and not b.isfinite().all()]
        if broken:
            message += f" It cannot be left out: the running statistics {broken[0]} are no longer finite either."
        if broken or self.skipped > self._skip_nonfinite:
            raise NonFiniteError(message + " Lower SOLVER.BASE_LR, or use bf16 or no autocast instead of fp16.")
        _logger.warning(message)

    def _save_for_replay(self, step: _Step, reason: str) -> str:
        """Write batch and weights; where they are, or why they are not."""
        file = self._output_dir / f"nonfinite_{step.iteration:07d}_process{comm.get_rank()}.pth"
        content = {
            "model": self._plain.state_dict(),
            "batches": step.batches,
            "iteration": step.iteration,
            "seed": step.seed,
            "scale": self.scaler.get_scale(),
            "reason": reason,
        }
        try:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            save_atomically(content, file)
        except OSError as error:
            return f"the batch could not be saved to {file} ({error})"
        return f"the batch is in {file}, projects/MTACLIP/tools/replay_batch.py runs it again"


def random_seed(*numbers: int) -> int:
    """One seed out of several numbers, such as a run's seed, an iteration and a process."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
