"""Errors that are for the user, and those that are not."""

import logging
import multiprocessing
import re
import sys
import time
from multiprocessing.connection import Client
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import mtaclip
from mtaclip.data.loader import SampleLoader
from mtaclip.data.workers import StopSignals
from mtaclip.engine import setup_cfg
from mtaclip.problems import failed_exchange, sentence


def caught(function, *args):
    with pytest.raises(Exception) as error:
        function(*args)
    return error.value


def test_what_the_package_raises_is_a_sentence_and_other_errors_are_not(tmp_path):
    assert "missing.yaml" in sentence(caught(setup_cfg, tmp_path / "missing.yaml"))
    assert sentence(caught(int, "x")) is None
    assert sentence(caught(open, tmp_path / "missing")) is None


def in_the_package(source):
    """A function as if it stood in the package."""
    names = {}
    exec(compile(source, str(Path(mtaclip.__file__).with_name("made_up.py")), "exec"), names)
    return names["function"]


@pytest.mark.parametrize("mistake", ["a, b = [1, 2, 3]", "int('x')", "[1].index(3)", "list(zip([1], [], strict=True))"])
def test_a_mistake_of_the_package_keeps_its_traceback(mistake):
    assert sentence(caught(in_the_package(f"def function(): {mistake}"))) is None


def test_what_the_package_finds_wrong_is_a_sentence():
    converted = "def function():\n try: int('x')\n except ValueError as e: raise ValueError('no number') from e"
    assert sentence(caught(in_the_package(converted))) == "no number"
    assert "nowhere" in sentence(caught(in_the_package("def function(): open('/nowhere/at/all')")))


@pytest.mark.parametrize(
    "run_out",
    [lambda: torch.empty(2**60, dtype=torch.uint8), lambda: "x" * 2**60],
    ids=["PyTorch", "Python"],
)
def test_where_memory_runs_out_keys_help(run_out):
    said = sentence(caught(run_out))
    assert said.startswith("the memory does not suffice (") and "SOLVER.ACCUMULATE" in said and "\n" not in said


class Slow:
    def __len__(self):
        return 100

    def __getitem__(self, number):
        time.sleep(0.05)
        return number


def read_and_kill():
    for _ in SampleLoader(Slow(), batch_size=2, num_workers=1):
        for worker in multiprocessing.active_children():
            worker.kill()
        time.sleep(0.5)


def test_a_killed_data_worker_is_one():
    said = sentence(caught(read_and_kill))
    assert "most likely because memory ran out" in said and "DATALOADER.NUM_WORKERS" in said


class FetchedLater:
    """As a tensor, which the reading process fetches from the worker that holds it."""

    def __reduce__(self):
        return Client, ("/nowhere/socket",)


class Gone(Slow):
    def __getitem__(self, number):
        return FetchedLater()


def test_so_is_one_that_is_killed_while_a_sample_is_fetched():
    said = sentence(caught(list, SampleLoader(Gone(), num_workers=1)))
    assert "DATALOADER.NUM_WORKERS" in said


class Unsent(Slow):
    def __getitem__(self, number):
        return lambda: None  # cannot be pickled


def test_a_batch_that_cannot_be_sent_is_not_waited_for(capfd):
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("mtaclip").addHandler(handler)
    said = sentence(caught(list, SampleLoader(Unsent(), num_workers=1, worker_init_fn=StopSignals(), timeout=60)))
    logging.getLogger("mtaclip").removeHandler(handler)
    assert "exited unexpectedly" in said and "/dev/shm" in said
    reason = "Can't (pickle|get) local object 'Unsent"  # Python before 3.13, and from then on
    assert re.fullmatch(f"A sample cannot be sent .*{reason}.*\n", capfd.readouterr().err), "the worker says why"


def test_words_of_gloo_are_shortened():
    text = "[/some/where/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:5: Connection reset by peer. This is"
    assert failed_exchange(RuntimeError(text)) == "Read error [127.0.0.1]:5: Connection reset by peer"
    assert failed_exchange(dist.DistBackendError("NCCL error in: x.cpp:1\nmore")) == "NCCL error in: x.cpp:1"
    assert failed_exchange(dist.DistStoreError("wait timeout after 4000ms")) == "wait timeout after 4000ms"
    assert failed_exchange(RuntimeError("sizes differ")) is None
    assert failed_exchange(RuntimeError("g++ -I/site-packages/nvidia/nccl/include failed")) is None
    assert failed_exchange(ValueError("gloo")) is None
