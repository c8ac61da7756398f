"""The roll call: in one process that plays several, and in real ones."""

import multiprocessing
import os
import signal
import threading
import time
from datetime import timedelta

import pytest

import mtaclip  # noqa: F401

# isort: split
import torch.distributed as dist
from detectron2.utils import comm

from mtaclip.engine.exchange import RollCall
from mtaclip.engine.launch import launch
from mtaclip.engine.processes import Processes
from mtaclip.problems import RunError


@pytest.fixture
def roll_calls():
    """A function from ranks to their roll calls, of a run of three processes."""
    made = []

    def make(*ranks, store):
        made.extend(RollCall(store, rank, 3, period=0.2, patience=2.0) for rank in ranks)
        return made

    yield make
    for roll_call in made:
        roll_call.close()


def test_who_is_missing_is_named(roll_calls):
    first, third = roll_calls(0, 2, store=dist.HashStore())
    assert third.call().startswith("process 1 of 3 does not answer")
    assert first.call() == third.call()


def test_who_is_elsewhere_is_named_with_the_place(roll_calls):
    """The main thread waits here, in no exchange, while another one asks."""
    _, second, _ = roll_calls(0, 1, 2, store=dist.HashStore())
    found = []
    asking = threading.Thread(target=lambda: found.append(second.call()))
    asking.start()
    asking.join()
    assert "not all take part: process 0 of 3 is at " in found[0] and "threading.py, line" in found[0]


def test_where_all_take_part_the_network_is_suspected(roll_calls):
    first, *_ = roll_calls(0, 1, 2, store=dist.HashStore())
    assert "network" in first.call()


def test_a_store_that_is_gone_was_held_by_the_first_process(roll_calls):
    server = dist.TCPStore("127.0.0.1", 0, is_master=True)
    client = dist.TCPStore("127.0.0.1", server.port, is_master=False)
    (second,) = roll_calls(1, store=client)
    del server
    assert second.call().startswith("process 0, or who else holds the store")


def exchange(victim, number):
    """What each of three processes does; one gets a signal between two exchanges."""
    comm.all_gather(0)
    if comm.get_rank() == victim:
        os.kill(os.getpid(), number)
    comm.all_gather(0)


def take_part(rank, url, victim, number, file):
    own = Processes("cpu", 3, 3, rank, rank, url=url, timeout=timedelta(seconds=20))
    try:
        launch(exchange, own, victim, number)
    except RunError as error:
        file.write_text(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 2])
def test_the_others_name_a_process_that_is_gone(tmp_path, free_url, victim, number):
    """Also where it is the one that holds the store for all."""
    files = [tmp_path / f"{rank}.txt" for rank in range(3)]
    start = multiprocessing.get_context("fork").Process
    processes = [start(target=take_part, args=(rank, free_url, victim, number, files[rank])) for rank in range(3)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 120
    for rank, process in enumerate(processes):
        if rank != victim:
            process.join(max(0, deadline - time.monotonic()))
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    for rank in {0, 1, 2} - {victim}:
        assert ended[rank] == 0
        said = files[rank].read_text()
        assert said.startswith(f"Process {rank} of 3: an exchange with the others failed (")
        assert f": process {victim}" in said and "does not answer" in said and "--resume" in said
