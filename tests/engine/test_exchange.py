"""The roll call, in one process that plays several."""

import threading

import pytest
import torch.distributed as dist

from mtaclip.engine.exchange import RollCall


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
