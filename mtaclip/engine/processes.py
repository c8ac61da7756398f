"""Which processes take part in a run, and on which devices: from the command line and the environment.

Three ways to start several processes are known: `train_net.py` starts them on every machine, `torchrun` does, or
Slurm's `srun`. The latter two are recognised by the variables that they set.
"""

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import torch

from mtaclip.engine import slurm
from mtaclip.engine.exchange import TIMEOUT
from mtaclip.engine.setup import pick_device

_LONGEST = 7 * 24 * 60  # minutes
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them or from the program that is going to start them.

    Attributes:
        device: MODEL.DEVICE of every process; with several, "cuda" is each process's own GPU.
        world_size: number of processes on all machines.
        local_size: number of processes on this machine.
        rank: of this process, from 0 to world_size - 1; where they are still to be started, of this machine's first.
        local_rank: of this process on this machine; None where they are still to be started.
        machine: what the processes of a machine have in common and others have not.
        url: where the processes meet, as `torch.distributed.init_process_group` takes it.
        gpu: index of this process's GPU; None is its local rank.
        threads: CPU threads of every process; None leaves PyTorch's number.
        timeout: how long a process waits for the others, to appear and in every exchange.
    """

    device: str
    world_size: int = 1
    local_size: int = 1
    rank: int = 0
    local_rank: int | None = None
    machine: str = "0"
    url: str = ""
    gpu: int | None = None
    threads: int | None = None
    timeout: timedelta = TIMEOUT


def find_processes(args: Namespace, device: str, variables: Mapping[str, str] = os.environ) -> Processes:
    """Which processes the command line and the environment ask for.

    Args:
        args: num_gpus, num_processes (None where the user said nothing), num_machines, machine_rank, dist_url, timeout.
        device: MODEL.DEVICE of the configuration; "cpu" needs no --num-gpus 0.
        variables: the environment.

    Raises:
        ValueError: what is asked for contradicts itself, or cannot be had on this machine.
    """
    _check_options(args)
    _check_device(device)
    if any(name in variables for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        found = _from_torchrun(args, device, variables)
    elif _slurm_tasks(variables) > 1:
        found = _from_slurm(args, device, variables)
    else:
        found = _from_options(args, device)
    if found.world_size > 1 and torch.device(found.device).index is not None:
        raise ValueError(
            f'MODEL.DEVICE: {found.device!r} is one GPU, and there are {found.world_size} processes: set it to "cuda".'
        )
    return replace(found, threads=_threads(found, variables), timeout=timedelta(minutes=args.timeout))


def _check_options(args: Namespace) -> None:
    for option, value, least in (
        ("--num-gpus", args.num_gpus, 0),
        ("--num-processes", args.num_processes, 1),
        ("--num-machines", args.num_machines, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{option} {value}: must be at least {least}.")
    if not 0 < args.timeout <= _LONGEST:
        raise ValueError(f"--timeout {args.timeout:g}: must be a number of minutes above 0, at most {_LONGEST}.")
    if args.num_processes is not None and args.num_gpus:
        raise ValueError(
            f"--num-processes {args.num_processes} is for processes without a GPU, and --num-gpus {args.num_gpus} "
            "starts a process for every GPU: give one of the two."
        )
    if args.dist_url != "auto" and not re.fullmatch(r"tcp://.+:\d+|file:///.+", args.dist_url):
        raise ValueError(
            f"--dist-url {args.dist_url}: must be auto, tcp://HOST:PORT or file:///PATH (a new file that all processes "
            "can write)."
        )


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(f'MODEL.DEVICE: {device!r} is not "cpu", "cuda" or one GPU like "cuda:0".')


def _from_options(args: Namespace, configured: str) -> Processes:
    """Processes that this program starts itself, --num-machines times."""
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank {args.machine_rank}: must be from 0 to {args.num_machines - 1} for --num-machines "
            f"{args.num_machines}."
        )
    device = pick_device(args.num_gpus, configured)
    if device != "cpu" and args.num_processes is not None:
        raise ValueError(
            f"--num-processes {args.num_processes} is for processes without a GPU, and MODEL.DEVICE is {device!r}: "
            "add --num-gpus 0, or give --num-gpus instead."
        )
    if args.dist_url == "auto" and args.num_machines > 1:
        raise ValueError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT, the same on all machines: an "
            "address of the machine with --machine-rank 0 and a free port there."
        )
    local_size = (args.num_gpus or 1) if device != "cpu" else (args.num_processes or 1)
    return Processes(
        device=device,
        world_size=args.num_machines * local_size,
        local_size=local_size,
        rank=args.machine_rank * local_size,
        machine=str(args.machine_rank),
        url=args.dist_url,
    )


def _from_torchrun(args: Namespace, configured: str, variables: Mapping[str, str]) -> Processes:
    missing = [name for name in _TORCHRUN if not variables.get(name)]
    if missing:
        there = [name for name in _TORCHRUN if name not in missing]
        raise ValueError(
            f"The environment has {', '.join(there)}, which torchrun sets, but not {', '.join(missing)}: start with "
            "torchrun, or remove the variables to start without it."
        )
    if args.dist_url != "auto":
        raise ValueError(f"--dist-url {args.dist_url}: torchrun has set the address already, leave the option out.")
    rank, world_size, local_rank, local_size = (_number(name, variables) for name in _TORCHRUN[:4])
    return Processes(
        device=_device(args, configured, "torchrun", local_size, torch.cuda.device_count()),
        world_size=world_size,
        local_size=local_size,
        rank=rank,
        local_rank=local_rank,
        machine=variables.get("GROUP_RANK") or str(rank - local_rank),
        url="env://",
    )


def _slurm_tasks(variables: Mapping[str, str]) -> int:
    """Number of tasks of the job step; 1 outside Slurm."""
    if "SLURM_PROCID" not in variables:
        return 1
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
    return _number(name, variables) if name in variables else 1


def _from_slurm(args: Namespace, configured: str, variables: Mapping[str, str]) -> Processes:
    local_size = slurm.tasks_on_this_node(variables)
    if "SLURM_LOCALID" not in variables:
        raise ValueError("Slurm has not set SLURM_LOCALID: start the processes with srun.")
    visible = torch.cuda.device_count()
    # With --gpus-per-task a task sees no other GPU than its own.
    alone = visible == 1 and local_size > 1 and "SLURM_GPUS_PER_TASK" in variables
    return Processes(
        device=_device(args, configured, "srun", local_size, local_size if alone else visible),
        world_size=_slurm_tasks(variables),
        local_size=local_size,
        rank=_number("SLURM_PROCID", variables),
        local_rank=_number("SLURM_LOCALID", variables),
        machine=variables.get("SLURM_NODEID") or os.uname().nodename,
        url=slurm.address(variables) if args.dist_url == "auto" else args.dist_url,
        gpu=0 if alone else None,
    )


def _device(args: Namespace, configured: str, launcher: str, local_size: int, available: int) -> str:
    """Device of processes that `launcher` has started; the options may repeat their number and not change it."""
    if args.num_machines != 1 or args.machine_rank != 0:
        raise ValueError(f"--num-machines, --machine-rank: {launcher} has set them already, leave the options out.")
    for option, value in (("--num-gpus", args.num_gpus), ("--num-processes", args.num_processes)):
        if value and value != local_size:
            raise ValueError(
                f"{option} {value}: {launcher} has started {local_size} process(es) on this machine; leave the option "
                f"out, or start {value} with {launcher}."
            )
    if args.num_gpus == 0 or (args.num_gpus is None and torch.device(configured).type == "cpu"):
        return "cpu"
    if args.num_processes is not None:
        raise ValueError(
            f"--num-processes {args.num_processes} is for processes without a GPU, and MODEL.DEVICE is {configured!r}: "
            "add --num-gpus 0, or leave --num-processes out."
        )
    if available < local_size:
        raise ValueError(
            f"{launcher} has started {local_size} process(es) on this machine, which has {available} GPU(s) that "
            "PyTorch can use: start one process for every GPU, or train on the CPU with --num-gpus 0."
        )
    return configured if args.num_gpus is None else "cuda"


def _number(name: str, variables: Mapping[str, str]) -> int:
    if not variables[name].isdecimal():
        raise ValueError(f"The variable {name} must be a number, not {variables[name]!r}.")
    return int(variables[name])


def _threads(found: Processes, variables: Mapping[str, str]) -> int | None:
    """Threads of each of several processes without a GPU: the cores are shared, unless OMP_NUM_THREADS is set."""
    if found.local_size == 1 or found.device != "cpu" or "OMP_NUM_THREADS" in variables:
        return None
    if "SLURM_CPUS_PER_TASK" in variables:
        return _number("SLURM_CPUS_PER_TASK", variables)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // found.local_size)
