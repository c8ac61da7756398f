"""Exchanges between processes: how long they wait, and who is missing where one fails.

Gloo and NCCL say that a connection broke or that time ran out, not which process is gone. So every process keeps a
thread that looks, once a second, into the store where the processes met. One whose exchange has failed calls the roll
there; whoever can answers with the place where its program is, and all learn who is missing. Steps are not slowed.
"""

import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

# How long a process waits: for the others to appear, and in every exchange for the slowest of them.
TIMEOUT = timedelta(minutes=30)
_CALL, _VERDICT = "call", "verdict"
# Where a program waits for others, by parts of the names of files.
_WAITING = ("torch/distributed/", "torch/autograd/", str(Path(__file__)))
_timeout = TIMEOUT


def set_timeout(timeout: timedelta) -> None:
    """Let groups of this process that are still to be made wait so long."""
    global _timeout
    _timeout = timeout


def get_timeout() -> timedelta:
    """How long an exchange of this process waits for the slowest of the others."""
    return _timeout


class RollCall:
    """Finds out which of the processes of a run are missing.

    Args:
        store: where all of them have met; one of them may hold it for the others.
        rank: of this process.
        world_size: number of processes.
        period: seconds between two looks into the store.
        patience: seconds that the processes have to answer.
    """

    def __init__(
        self, store: dist.Store, rank: int, world_size: int, *, period: float = 1.0, patience: float = 10.0
    ) -> None:
        self._store = dist.PrefixStore("roll call", store.clone())  # others may wait in the store for long
        self._rank, self._world_size = rank, world_size
        self._period, self._patience = period, patience
        self._verdict: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True, name="roll call")
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._closed.set()
        self._thread.join(self._patience)  # a store that is stopped with its holder blocks

    def call(self) -> str:
        """Who is missing, in words; call it where an exchange has failed."""
        asking = threading.Thread(target=self._ask, daemon=True)  # a store that is stopped with its holder blocks
        asking.start()
        asking.join(self._patience + 5 * self._period)
        return self._verdict or "process 0, or who else holds the store where all meet, does not answer"

    def _answer(self) -> None:
        answered = False
        with suppress(RuntimeError):  # the store is gone with its holder
            while not self._closed.wait(self._period) and self._verdict is None:
                if not answered and self._store.check([_CALL]):
                    self._store.set(str(self._rank), _whereabouts())
                    answered = True
                if answered and self._store.check([_VERDICT]):
                    self._verdict = self._store.get(_VERDICT).decode()

    def _ask(self) -> None:
        ranks = [str(rank) for rank in range(self._world_size)]
        deadline = time.monotonic() + self._patience
        with suppress(RuntimeError):
            self._store.set(_CALL, "")
            while self._verdict is None and time.monotonic() < deadline and not self._store.check(ranks):
                time.sleep(self._period / 4)
            if self._verdict is None:
                self._verdict = self._judge(ranks)
                self._store.set(_VERDICT, self._verdict)
            time.sleep(2 * self._period)  # the others hear it before this process ends, which may hold the store

    def _judge(self, ranks: list[str]) -> str:
        absent = [rank for rank in ranks if not self._store.check([rank])]
        if absent:
            return (
                f"process {', '.join(absent)} of {self._world_size} does not answer: it has ended, hangs, or cannot be "
                "reached"
            )
        places = {rank: self._store.get(rank).decode() for rank in ranks}
        busy = [f"process {rank} of {self._world_size} is at {place}" for rank, place in places.items() if place]
        if busy:
            return f"all processes answer, but not all take part: {'; '.join(busy)}"
        return "all processes answer and take part: the network between them may be at fault"


def _whereabouts() -> str:
    """The line of this package that the main thread is at; "" while that waits for other processes."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = traceback.extract_stack(frame)
    if any(part in place.filename for place in stack for part in _WAITING):
        return ""
    package = Path(__file__).parents[1]
    ours = [place for place in stack if package in Path(place.filename).parents] or stack
    return f"{ours[-1].filename}, line {ours[-1].lineno} ({ours[-1].name})"
