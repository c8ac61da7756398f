"""What Slurm's variables say about the processes that `srun` started."""

import itertools
import re
from collections.abc import Mapping

# Ports of the first process: above the well-known services, below those that systems hand out.
_FIRST_PORT, _PORTS = 16384, 16384


def expand_nodes(text: str) -> list[str]:
    """Names of the nodes in Slurm's short form.

    Args:
        text: like "node[03-05,9],x1", which gives node03, node04, node05, node9 and x1.

    Raises:
        ValueError: not a list of nodes.
    """
    entries = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if not entries or ",".join(entries) != text:
        raise ValueError(f'Slurm\'s list of nodes {text!r} is not of the form "node[03-05,9],x1".')
    nodes = []
    for entry in entries:
        parts = re.split(r"\[([^\]]*)\]", entry)  # texts between the brackets and what is in them, in turn
        choices = [_expand_numbers(part, text) if i % 2 else [part] for i, part in enumerate(parts)]
        nodes.extend("".join(chosen) for chosen in itertools.product(*choices))
    return nodes


def _expand_numbers(ranges: str, text: str) -> list[str]:
    """Numbers of "03-05,9", with their leading zeros."""
    numbers = []
    for item in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if match is None:
            raise ValueError(f"Slurm's list of nodes {text!r}: {item!r} is neither a number nor a range of numbers.")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise ValueError(f"Slurm's list of nodes {text!r}: the range {item!r} is empty.")
        numbers.extend(f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return numbers


def expand_tasks(text: str) -> list[int]:
    """Numbers of tasks on every node in Slurm's short form: "2(x3),1" gives 2, 2, 2, 1.

    Raises:
        ValueError: not of that form.
    """
    tasks = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if match is None:
            raise ValueError(f'Slurm\'s number of tasks per node {text!r} is not of the form "2(x3),1".')
        tasks.extend([int(match[1])] * int(match[2] or 1))
    return tasks


def tasks_on_this_node(variables: Mapping[str, str]) -> int:
    """Number of tasks on the node of this task.

    Raises:
        ValueError: the variables do not tell.
    """
    names = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    name = next((name for name in names if variables.get(name)), None)
    if name is None:
        raise ValueError(f"Slurm has set none of {', '.join(names)}: start the processes with srun.")
    counts = expand_tasks(variables[name])
    node = int(variables.get("SLURM_NODEID", 0))
    if len(set(counts)) == 1:
        return counts[0]
    if node >= len(counts) or "SLURM_NODEID" not in variables:
        raise ValueError(f"{name} is {variables[name]!r}, which has no number for SLURM_NODEID {node}.")
    return counts[node]


def address(variables: Mapping[str, str]) -> str:
    """URL where the tasks of this job step meet: the first node, a port that follows from the job and the step.

    Raises:
        ValueError: the variables do not tell.
    """
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST")
    job = variables.get("SLURM_JOB_ID") or variables.get("SLURM_JOBID")
    if not nodes or not job:
        missing = "SLURM_JOB_ID" if nodes else "SLURM_STEP_NODELIST"
        raise ValueError(f"Slurm has not set {missing}: start with srun, or give --dist-url tcp://HOST:PORT.")
    step = variables.get("SLURM_STEP_ID", "0")
    port = _FIRST_PORT + (31 * int(job) + int(step)) % _PORTS
    return f"tcp://{expand_nodes(nodes)[0]}:{port}"
