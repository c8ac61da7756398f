"""Running a function in all processes of a run: NCCL between GPUs, gloo between CPUs.

Detectron2's own `launch` knows GPUs only and always starts the processes itself. What is called here finds
`detectron2.utils.comm` ready: ranks, sizes and the group of the processes on one machine.
"""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from detectron2.utils import comm

from mtaclip.engine import exchange
from mtaclip.engine.processes import Processes
from mtaclip.engine.stopping import EXIT_INTERRUPTED, EXIT_STOPPED, STOP_SIGNALS, Stopped
from mtaclip.problems import RunError, failed_exchange, sentence

# GPUs wait longer for each other than CPUs do, by this: NCCL ends the process, without a word of ours.
_GPUS_WAIT_LONGER = timedelta(minutes=1)
# How long processes may take to end, in seconds, when one has failed or Ctrl-C has told them to.
_GRACE = 10.0
# How long a process may take to stop, in seconds, when the program that started it is gone.
_ORPHAN_GRACE = 60.0
# After the first word of a failure, how long to wait for earlier ones, in seconds: that a process was killed may be
# known to the others, whose connections break, before it is known here.
_SETTLING = 2.0


def launch(function: Callable[..., Any], processes: Processes, *args: Any) -> None:
    """Call `function(*args)` in every process of a run and return when it is done.

    One process calls it directly. Several are started here, unless `processes` says that this is one of them. If one
    of those started here fails, the others are ended.

    Args:
        function: can be pickled, if processes are to be started.
        processes: from `find_processes`.
        args: likewise.

    Raises:
        RunError: a mistake of the user, as one sentence; or, of the processes started here, what happened to the
            first that failed, with its traceback.
        Stopped: the run was stopped by a signal and can be resumed.
    """
    if processes.world_size == 1:
        with _sentences():
            function(*args)
    elif processes.local_rank is not None:
        with _sentences():
            _take_part(function, processes, args)
    else:
        _start(function, processes, args)


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors that are for the user become RunErrors: their message says it all."""
    try:
        yield
    except Exception as error:
        text = sentence(error)
        if text is None or isinstance(error, RunError):
            raise
        raise RunError(text) from error


def _take_part(function: Callable[..., Any], processes: Processes, args: tuple) -> None:
    """Call the function as one of several processes."""
    on_gpu = torch.device(processes.device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(processes.local_rank if processes.gpu is None else processes.gpu)
    if processes.threads is not None:
        torch.set_num_threads(processes.threads)
    exchange.set_timeout(processes.timeout)
    roll_call = _meet(processes, on_gpu)
    try:
        _group_by_machine(processes.machine)
        function(*args)
        comm.synchronize()  # the first process holds the store of the roll call until nobody looks there
        roll_call.close()
        comm.synchronize()  # and it serves the others while they take leave
    except RuntimeError as error:
        reason = failed_exchange(error)
        if reason is None:
            raise
        raise RunError(
            f"{_name(processes)}: an exchange with the others failed ({reason}): {roll_call.call()}. What the missing "
            "process has said last may tell why; go on with --resume."
        ) from error
    finally:
        roll_call.close()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()  # a group that is still referred to may abort the process at its exit
    dist.destroy_process_group()


def _meet(processes: Processes, on_gpu: bool) -> exchange.RollCall:
    """Wait for all processes and form the group of all."""
    timeout = processes.timeout
    try:
        store, rank, world_size = next(
            dist.rendezvous(processes.url, processes.rank, processes.world_size, timeout=timeout)
        )
        store.set_timeout(timeout)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=timeout + _GPUS_WAIT_LONGER if on_gpu else timeout,
        )
    except dist.DistError as error:
        raise RunError(
            f"{_name(processes)} could not meet the others at {processes.url}: all must be started within "
            f"{timeout.total_seconds() / 60:g} minutes (--timeout) and reach that address "
            f"({str(error).splitlines()[0]})."
        ) from error
    return exchange.RollCall(store, rank, world_size)


def _group_by_machine(machine: str) -> None:
    """Tell Detectron2 which processes share a machine; 0.6 and its main branch keep them in the same place."""
    machines = comm.all_gather(machine)
    for name in dict.fromkeys(machines):
        group = dist.new_group([rank for rank, other in enumerate(machines) if other == name])  # by all, in this order
        if name == machine:
            comm._LOCAL_PROCESS_GROUP = group


@dataclass(frozen=True)
class _Failure:
    """The end of a process: when, by time.monotonic(), which all processes share, and the text for the user."""

    time: float
    text: str


def _start(function: Callable[..., Any], processes: Processes, args: tuple) -> None:
    """Start the processes of this machine and wait for their end."""
    if processes.url == "auto":
        processes = replace(processes, url=f"tcp://127.0.0.1:{_free_port()}")
    context = torch.multiprocessing.get_context("spawn")
    children: dict[BaseProcess, connection.Connection] = {}
    try:
        with _forward_signals(children):
            for local_rank in range(processes.local_size):
                one = replace(processes, local_rank=local_rank, rank=processes.rank + local_rank)
                reader, writer = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(writer, function, one, args), name=_name(one))
                children[child] = reader
                child.start()
                writer.close()
            _watch(children)
    except KeyboardInterrupt:  # which the terminal sent to them, too
        _join(list(children), _GRACE)
        raise
    finally:
        _end(list(children))


def _name(processes: Processes) -> str:
    return f"Process {processes.rank} of {processes.world_size}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _child(writer: connection.Connection, function: Callable[..., Any], processes: Processes, args: tuple) -> None:
    """What a started process does: its part, and a word to the program that started it if that fails."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _sentences():
            _take_part(function, processes, args)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except RunError as error:
        writer.send(_Failure(time.monotonic(), str(error)))
        sys.exit(1)
    except Exception:
        writer.send(_Failure(time.monotonic(), f"{_name(processes)} failed:\n{traceback.format_exc().rstrip()}"))
        sys.exit(1)


def _end_with_parent() -> None:
    """Leave no orphan if the program that started this process is killed: stop, with a checkpoint, or else end."""
    parent = torch.multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(children: dict[BaseProcess, connection.Connection]) -> None:
    """Return when all processes have ended well.

    Raises:
        RunError: one has not.
        Stopped: all have, because they were told to stop.
    """
    running = dict(children)
    stopped = False
    killed: list[str] = []
    failed: list[_Failure] = []
    deadline = None  # time.monotonic() when it is clear what came first
    while running and (deadline is None or time.monotonic() < deadline):
        open_readers = [reader for reader in running.values() if not reader.closed]
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = connection.wait([*(child.sentinel for child in running), *open_readers], timeout)
        for child, reader in list(running.items()):
            failure = _read(reader)
            if failure is not None:
                failed.append(failure)
                del running[child]
            elif child.sentinel in ready:
                child.join()
                del running[child]
                if child.exitcode == EXIT_STOPPED:
                    stopped = True
                elif child.exitcode:
                    killed.append(_describe_end(child))
        if deadline is None and (killed or failed):
            deadline = time.monotonic() + _SETTLING
    if killed:  # could say nothing itself; what others said is how they noticed
        raise RunError(killed[0])
    if failed:
        raise RunError(min(failed, key=lambda failure: failure.time).text)
    if stopped:
        raise Stopped


def _read(reader: connection.Connection) -> _Failure | None:
    """What a process had to say; closes the reader when nothing can come any more."""
    if reader.closed or not reader.poll():
        return None
    try:
        return reader.recv()
    except EOFError:
        reader.close()
        return None


def _describe_end(child: BaseProcess) -> str:
    code = child.exitcode or 0
    if code > 0:
        return f"{child.name} ended with exit status {code}."
    hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
    return f"{child.name} was ended by {signal.Signals(-code).name}{hint}."


def _end(children: list[BaseProcess]) -> None:
    """End those that still run, by force if need be."""
    for child in children:
        if child.is_alive():
            child.terminate()
    _join(children, _GRACE)
    for child in children:
        if child.is_alive():
            child.kill()
            child.join()


def _join(children: list[BaseProcess], timeout: float) -> None:
    """Wait for the end of all, for so many seconds at most."""
    deadline = time.monotonic() + timeout
    for child in children:
        if child.pid is not None:
            child.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _forward_signals(children: dict[BaseProcess, connection.Connection]) -> Iterator[None]:
    """Pass on SIGTERM and SIGUSR1, which batch systems send to the program they know: the processes react to them."""

    def forward(number: int, frame: object) -> None:
        for child in list(children):
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
