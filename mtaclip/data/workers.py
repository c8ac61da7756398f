"""What the processes that read data do when signals arrive."""

import multiprocessing
import os
import signal
from multiprocessing.util import Finalize
from types import FrameType


class StopSignals:
    """Keeps data workers at work while SIGTERM and SIGUSR1 tell a run to stop; a `worker_init_fn`.

    A scheduler signals all processes of a job, and a worker that died of it would take the training process along
    before that has written its checkpoint. The training process ends its workers itself; where it has to do so by
    force, with SIGTERM, it says `release` before, at the latest when it exits or lets go of this object.
    """

    def __init__(self) -> None:
        self._released = multiprocessing.Event()
        Finalize(self, self._released.set, exitpriority=0)  # before multiprocessing ends what still runs

    def __call__(self, _: int) -> None:
        """Prepare a worker."""
        signal.signal(signal.SIGTERM, self._answer)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def release(self) -> None:
        """Let workers end on SIGTERM from now on."""
        self._released.set()

    def _answer(self, _: int, __: FrameType | None) -> None:
        if self._released.is_set():
            os._exit(0)
