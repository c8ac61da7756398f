"""Several processes, started in every supported way: who they are, and how they end.

Run as a script, this file starts processes as train_net.py does: `test_launch.py FUNCTION FOLDER [OPTION ...]`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

import mtaclip  # noqa: F401

# isort: split
import torch
from detectron2.utils import comm

from mtaclip.engine import setup_cfg
from mtaclip.engine.launch import launch
from mtaclip.engine.processes import Processes, find_processes
from mtaclip.engine.slurm import address, expand_nodes, expand_tasks
from mtaclip.problems import RunError
from projects.MTACLIP.train_net import make_parser

ROOT = Path(__file__).resolve().parents[2]
CPU = ("--num-gpus", "0")
SLURM = {
    "SLURM_NTASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "localhost",
}
TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def meet(folder: Path) -> None:
    """Write what this process knows of itself and of the others."""
    seen = {
        "size": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "backend": torch.distributed.get_backend(),
        "threads": torch.get_num_threads(),
        "gathered": comm.all_gather(comm.get_rank()),
    }
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(seen))


def fail(folder: Path) -> None:
    """The second process breaks down; the first waits for it."""
    if comm.get_rank() == 1:
        raise RuntimeError("broken on purpose")
    comm.synchronize()


def err(folder: Path) -> None:
    """The second process finds a mistake of the user's; the first waits for it."""
    if comm.get_rank() == 1:
        setup_cfg(folder / "missing.yaml")
    comm.synchronize()


def vanish(folder: Path) -> None:
    """The second process is killed; the first waits for it."""
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def sleep(folder: Path) -> None:
    """Write this process's id and stay."""
    (folder / f"{comm.get_rank()}.pid").write_text(str(os.getpid()))
    time.sleep(120)


def script(*arguments: object, through: tuple = (), threads: str | None = "1", **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment.pop("OMP_NUM_THREADS", None)
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    command = [sys.executable, *through, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and what went to stderr."""
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


def met(folder: Path, starts: list[subprocess.Popen]) -> list[dict]:
    """What `meet` wrote, checked for what two processes always have in common."""
    for start in starts:
        status, errors = end(start)
        assert status == 0, errors
        assert "destroy_process_group" not in errors
    seen = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(s["size"] == 2 and s["gathered"] == [0, 1] and s["backend"] == "gloo" for s in seen)
    return seen


def test_processes_of_this_program(tmp_path):
    """They share the cores, where nobody has said how many threads there are to be."""
    seen = met(tmp_path, [script("meet", tmp_path, *CPU, "--num-processes", 2, threads=None)])
    assert [s["local"] for s in seen] == [[0, 2], [1, 2]]
    assert {s["threads"] for s in seen} == {max(1, len(os.sched_getaffinity(0)) // 2)}


def test_two_machines_on_one_host(tmp_path, free_url):
    options = (*CPU, "--num-machines", 2, "--dist-url", free_url)
    seen = met(tmp_path, [script("meet", tmp_path, *options, "--machine-rank", rank) for rank in range(2)])
    assert [s["local"] for s in seen] == [[0, 1], [0, 1]]


def test_torchrun(tmp_path):
    """Without any option: the configuration's device decides."""
    through = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    seen = met(tmp_path, [script("meet", tmp_path, through=through)])
    assert [s["local"] for s in seen] == [[0, 2], [1, 2]]


def test_slurm(tmp_path):
    job = str(os.getpid())
    starts = [
        script("meet", tmp_path, **SLURM, SLURM_JOB_ID=job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        for rank in range(2)
    ]
    assert [s["local"] for s in met(tmp_path, starts)] == [[0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("function", "words", "tracebacks"),
    [
        ("fail", ["Process 1 of 2 failed", "RuntimeError: broken on purpose"], 1),
        ("err", ["missing.yaml"], 0),
        ("vanish", ["Process 1 of 2 was ended by SIGKILL"], 0),
    ],
)
def test_one_process_takes_the_others_along(tmp_path, capfd, function, words, tracebacks):
    """The reason is given once, that of the first to fail and not what the others made of its absence."""
    with pytest.raises(RunError) as error:
        launch(globals()[function], found(*CPU, "--num-processes", 2), tmp_path)
    errors = f"{capfd.readouterr().err}\n{error.value}"
    assert all(errors.count(word) == 1 for word in words), errors
    assert errors.count("Traceback") == tracebacks, errors
    assert words[-1] in errors.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_no_orphans(tmp_path, number):
    start = script("sleep", tmp_path, *CPU, "--num-processes", 2)
    files = [tmp_path / f"{rank}.pid" for rank in range(2)]
    wait_until(lambda: all(file.is_file() and file.read_text() for file in files), 100)
    ids = [int(file.read_text()) for file in files]
    start.send_signal(number)
    status, _ = end(start)
    assert status != 0
    wait_until(lambda: not any(runs(number) for number in ids), 15)


def runs(process_id: int) -> bool:
    """Whether there is such a process, and it is more than a zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def found(*options, device="cpu", **variables) -> Processes:
    return find_processes(make_parser().parse_args(list(map(str, options))), device, variables)


def test_one_process_is_the_ordinary_case(tmp_path):
    """Without a GPU, and under Slurm with one task too."""
    assert found().world_size == found("--num-gpus", 0, device="cuda").world_size == 1
    assert found(SLURM_PROCID="0", SLURM_NTASKS="1").world_size == 1
    assert found("--num-processes", 2, SLURM_PROCID="0", SLURM_NTASKS="1").world_size == 2
    with pytest.raises(RunError, match=r"missing\.yaml"):
        launch(setup_cfg, Processes("cpu"), tmp_path / "missing.yaml")
    with pytest.raises(ZeroDivisionError):
        launch(divmod, Processes("cpu"), 1, 0)


def test_ranks_on_several_machines():
    second = found("--num-processes", 3, "--num-machines", 2, "--machine-rank", 1, "--dist-url", "tcp://a:1")
    assert (second.rank, second.world_size, second.local_size) == (3, 6, 3)
    nodes = {"SLURM_STEP_NODELIST": "n[08-11]", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_JOB_ID": "7"}
    last = found(SLURM_PROCID="6", SLURM_NTASKS="7", SLURM_LOCALID="0", SLURM_NODEID="3", **nodes)
    assert (last.rank, last.local_rank, last.world_size, last.local_size) == (6, 0, 7, 1)
    assert last.url.startswith("tcp://n08:")


def test_threads():
    cores = len(os.sched_getaffinity(0))
    assert found("--num-processes", cores * 2).threads == 1
    assert found("--num-processes", 2, OMP_NUM_THREADS="7").threads is None
    assert found().threads is None
    assert found(**TORCHRUN).threads == max(1, cores // 2)


def test_how_long_processes_wait():
    assert found("--timeout", 0.5).timeout == timedelta(seconds=30)
    assert found().timeout == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("node[03-05,9],x1", ["node03", "node04", "node05", "node9", "x1"]),
        ("localhost", ["localhost"]),
        ("r[1-2]n[09-10]-ib", ["r1n09-ib", "r1n10-ib", "r2n09-ib", "r2n10-ib"]),
        ("a-b[098-101]", ["a-b098", "a-b099", "a-b100", "a-b101"]),
    ],
)
def test_node_lists(text, nodes):
    assert expand_nodes(text) == nodes


@pytest.mark.parametrize("text", ["", "a[1-2", "a]", "a,,b", "a[x]", "a[2-1]", "a[1-]", "a[]"])
def test_broken_node_lists(text):
    with pytest.raises(ValueError, match="list of nodes"):
        expand_nodes(text)


def test_tasks_per_node():
    assert expand_tasks("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="2x3"):
        expand_tasks("2x3")


def test_jobs_and_steps_have_ports_of_their_own():
    node = {"SLURM_NODELIST": "n[1-4]"}
    urls = {
        address({**node, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
        for job in range(100, 200)
        for step in range(20)
    }
    assert len(urls) == 2000
    assert all(1024 < int(url.rpartition(":")[2]) < 32768 for url in urls)


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--num-gpus", 8], TORCHRUN, ["--num-gpus 8", "torchrun", "2 process"]),
        (["--num-processes", 3], TORCHRUN, ["--num-processes 3", "torchrun", "2 process"]),
        (["--num-machines", 2], TORCHRUN, ["--num-machines", "torchrun"]),
        (["--dist-url", "tcp://a:1"], TORCHRUN, ["--dist-url", "torchrun"]),
        ([], {"RANK": "0", "WORLD_SIZE": "2"}, ["RANK", "LOCAL_RANK", "MASTER_ADDR", "torchrun"]),
        ([], {**TORCHRUN, "RANK": "one"}, ["RANK", "'one'"]),
        (["--num-gpus", 4], {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ["--num-gpus 4", "srun"]),
        ([], {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ["SLURM_JOB_ID", "--dist-url"]),
        ([], {**SLURM, "SLURM_PROCID": "0"}, ["SLURM_LOCALID", "srun"]),
        ([], {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, ["SLURM_STEP_TASKS_PER_NODE", "srun"]),
        (["--num-gpus", 2, "--num-processes", 2], {}, ["--num-gpus 2", "--num-processes 2"]),
        (["--num-machines", 2], {}, ["--num-machines 2", "--dist-url tcp://"]),
        (["--num-machines", 2, "--machine-rank", 2, "--dist-url", "tcp://a:1"], {}, ["--machine-rank 2", "0 to 1"]),
        (["--dist-url", "a:1"], {}, ["--dist-url a:1", "tcp://HOST:PORT"]),
        (["--num-gpus", -1], {}, ["--num-gpus -1"]),
        (["--timeout", 0], {}, ["--timeout 0"]),
        (["--timeout", "nan"], {}, ["--timeout nan"]),
        (["--num-processes", 0], {}, ["--num-processes 0"]),
    ],
)
def test_contradictions(options, variables, words):
    with pytest.raises(ValueError) as caught:
        found(*options, **variables)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="is about missing GPUs")
@pytest.mark.parametrize("variables", [TORCHRUN, {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}])
def test_more_processes_than_gpus(variables):
    with pytest.raises(ValueError, match=r"2 process.*GPU.*--num-gpus 0"):
        found(device="cuda", **variables)


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_unknown_device(device):
    with pytest.raises(ValueError, match=rf"MODEL\.DEVICE.*{device}"):
        found(device=device)


if __name__ == "__main__":
    name, folder, *rest = sys.argv[1:]
    try:
        launch(globals()[name], find_processes(make_parser().parse_args(rest), "cpu"), Path(folder))
    except RunError as error:
        sys.exit(str(error))
