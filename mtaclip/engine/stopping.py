"""Pre-emption: a run that is told to stop writes a checkpoint and says that it wants to go on.

SIGTERM and SIGUSR1 (Slurm's `--signal=USR1@120`, a pre-empted cloud machine, `kill`) only set a flag. At the end of
the iteration all processes agree on it, whichever of them got the signal; a checkpoint of that iteration is written,
the data workers are shut down, and every process exits with status 75 (EX_TEMPFAIL of sysexits.h): "not finished, run
it again with --resume". A run that ends by itself exits with 0, one that fails with another status. Further signals
change nothing. A signal during an evaluation is answered after the iteration that follows it.
"""

import logging
import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from mtaclip.engine.exchange import get_timeout
from mtaclip.engine.hooks import PeriodicCheckpoints

EXIT_STOPPED = 75
EXIT_INTERRUPTED = 128 + signal.SIGINT
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_logger = logging.getLogger(__name__)


class Stopped(SystemExit):
    """Ends a process whose run was stopped by a signal, with status `EXIT_STOPPED`."""

    def __init__(self) -> None:
        super().__init__(EXIT_STOPPED)


class StopOnSignal(HookBase):
    """Answers SIGTERM and SIGUSR1 at the end of an iteration: see the module. All processes need it.

    The processes agree by one reduction of a number per iteration, between CPUs: a GPU is not waited for. Outside the
    main thread no signal arrives, and none is answered.

    Args:
        checkpoints: writes the checkpoint.
    """

    def __init__(self, checkpoints: PeriodicCheckpoints) -> None:
        self._checkpoints = checkpoints
        self._signal = 0
        self._stopping = False
        self._previous: dict[int, object] = {}
        self._group: dist.ProcessGroup | None = None

    def before_train(self) -> None:
        """Take over the signals."""
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=get_timeout())
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}

    def after_step(self) -> None:
        """Stop if any process was told to; the last iteration ends the run by itself.

        Raises:
            Stopped: in all processes, behind the write of the checkpoint.
            OSError: the checkpoint could not be written.
        """
        number = self._agree()
        if not number or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        self._stopping = True
        self._checkpoints.write(required=True)
        if self._group is not None:
            dist.barrier(self._group)  # who exits first has its launcher end the others
        _logger.warning(
            "%s: stopped after iteration %d, which is saved; exit status %d: run it again with --resume.",
            signal.Signals(number).name,
            self.trainer.iter,
            EXIT_STOPPED,
        )
        for handled in self._previous:  # a launcher's signal must change neither the last writes nor the status
            signal.signal(handled, signal.SIG_IGN)
        raise Stopped

    def after_train(self) -> None:
        """Give the signals back, except on the way out of a process that stops."""
        if not self._stopping:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self._signal = number

    def _agree(self) -> int:
        """A signal that some process got, the same for all; 0 if none did."""
        if self._group is None:
            return self._signal
        number = torch.tensor(self._signal)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        return int(number)
