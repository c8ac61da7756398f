"""What the processes that read data do when signals arrive."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from types import FrameType

from mtaclip.problems import first_line

_logger = logging.getLogger(__name__)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Leave Ctrl-C to this process: those that it starts meanwhile never notice one, and it does so behind this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignals:
    """Keeps data workers at work while SIGTERM and SIGUSR1 tell a run to stop; a `worker_init_fn`.

    A scheduler signals all processes of a job, and a worker that died of it would take the training process along
    before that has written its checkpoint. The training process ends its workers itself; where it has to do so by
    force, with SIGTERM, it says `release` before, at the latest when it exits or lets go of this object. If it is
    killed, they end as well, even in the middle of a read that does not return.
    """

    def __init__(self) -> None:
        self._released = multiprocessing.RawValue("b", 0)  # no lock, which one signal in another would wait for
        # Before multiprocessing ends what still runs; it must not refer to this object.
        Finalize(self, setattr, (self._released, "value", 1), exitpriority=0)

    def __call__(self, _: int) -> None:
        """Prepare a worker."""
        signal.signal(signal.SIGTERM, self._answer)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        # A batch that cannot be sent (no shared memory is left) would be dropped, and waited for in vain.
        Queue._on_queue_feeder_error = staticmethod(_end_unsent)

    def release(self) -> None:
        """Let workers end on SIGTERM from now on."""
        self._released.value = 1

    def _answer(self, _: int, __: FrameType | None) -> None:
        if self._released.value:
            os._exit(0)


def _end_unsent(error: Exception, _: object) -> None:
    _logger.error("A sample cannot be sent to the training process: %s", first_line(error))
    os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
