"""Interrupted runs: killed, told to stop, on a full disk; in one process and in two.

Run as a script, this file is one of the processes: see `worker` and `launcher`.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 8
SMALL = [
    "SEED", "7",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", str(ITERATIONS),
    "SOLVER.CHECKPOINT_PERIOD", "4",
    "SOLVER.WARMUP_ITERS", "2",
    *tiny.SIZES,
    "DATALOADER.NUM_WORKERS", "1",
    "DATASETS.TEST", "()",
]  # fmt: skip
TINY = "configs/miniature/mtaclip_tiny.yaml"


def worker(rank: int, size: int, store: Path, folder: Path, options: list[str]) -> None:
    """Train as process `rank` of `size`; the losses of every iteration are added to `losses.jsonl` beside `store`.

    A pair of options KILL and a number kills the process with SIGKILL behind the iteration of that number.
    """
    import mtaclip  # noqa: F401

    # isort: split
    from mtaclip.engine.launch import launch
    from mtaclip.engine.processes import Processes

    own = Processes("cpu", world_size=size, local_size=size, rank=rank, local_rank=rank, url=f"file://{store}")
    launch(train, own, rank, store, folder, options)


def train(rank: int, store: Path, folder: Path, options: list[str]) -> None:
    from detectron2.engine import HookBase
    from detectron2.utils.logger import setup_logger

    from mtaclip.engine import Trainer, setup_cfg

    torch.set_num_threads(1)
    setup_logger(name="mtaclip")
    kill = int(options.pop(options.index("KILL") + 1)) if "KILL" in options else None
    options = [option for option in options if option != "KILL"]

    class Losses(HookBase):
        def after_step(self):
            time.sleep(0.05)  # for signals to come in the middle
            if rank == 0:
                found = {k: v for k, (v, _) in self.trainer.storage.latest().items() if k.startswith("loss_")}
                with open(store.parent / "losses.jsonl", "a") as file:
                    file.write(json.dumps([self.trainer.iter, found]) + "\n")
            if self.trainer.iter == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    cfg = setup_cfg(ROOT / TINY, [*SMALL, "OUTPUT_DIR", str(folder), *options], device="cpu")
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.register_hooks([Losses()])
    trainer.resume_or_load(resume=True)
    trainer.train()


def launcher(folder: Path) -> None:
    """Launch two processes that wait for signals; the exit status is theirs."""
    import mtaclip  # noqa: F401

    # isort: split
    from mtaclip.engine.launch import launch
    from mtaclip.engine.processes import Processes
    from mtaclip.engine.stopping import EXIT_STOPPED, Stopped

    try:
        launch(launched, Processes("cpu", world_size=2, local_size=2, url="auto"), folder)
    except Stopped:
        sys.exit(EXIT_STOPPED)


def launched(folder: Path) -> None:
    from detectron2.utils import comm

    from mtaclip.engine.stopping import Stopped

    def stop(*_):
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    (folder / f"ready_{comm.get_rank()}").touch()
    time.sleep(60)


def start(*arguments, root: Path, limit: int | None = None) -> subprocess.Popen:
    """This file as a process; `limit` is the largest file that it may write, in bytes."""
    variables = {**os.environ, "DETECTRON2_DATASETS": str(root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def restrict():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=restrict
    )


class Run:
    """A run by `size` processes with its notes in `folder` and OUTPUT_DIR there or elsewhere."""

    def __init__(self, folder: Path, root: Path, size: int = 1, output: Path | None = None) -> None:
        self.folder, self.root, self.size, self.output = folder, root, size, output or folder
        folder.mkdir(exist_ok=True)
        self.starts = 0

    def start(self, *options, limit: int | None = None) -> list[subprocess.Popen]:
        self.starts += 1
        store = self.folder / f"store_{self.starts}"
        arguments = [self.size, store, self.output, *options]
        return [start("worker", rank, *arguments, root=self.root, limit=limit) for rank in range(self.size)]

    def end(self, processes) -> tuple[list[int], str]:
        """Exit statuses, and what the processes had to say."""
        said = [process.communicate(timeout=120)[0] for process in processes]
        return [process.returncode for process in processes], "\n".join(said)

    def go(self, *options, limit: int | None = None) -> tuple[list[int], str]:
        return self.end(self.start(*options, limit=limit))

    def wait_for(self, iterations: int, processes) -> None:
        while len(self.lines()) < iterations:
            assert all(process.poll() is None for process in processes), self.end(processes)
            time.sleep(0.01)

    def lines(self) -> list:
        file = self.folder / "losses.jsonl"
        return (
            [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")]
            if (file.is_file())
            else []
        )

    def losses(self) -> dict[int, dict[str, float]]:
        return dict(self.lines())

    def final(self) -> dict:
        return torch.load(self.folder / "model_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, miniature_root):
    """A function from a number of processes to a run that nothing interrupted."""
    done = {}

    def get(size: int) -> Run:
        if size not in done:
            run = Run(tmp_path_factory.mktemp(f"whole_{size}"), miniature_root, size)
            statuses, said = run.go()
            assert statuses == [0] * size, said
            assert sorted(run.losses()) == list(range(ITERATIONS))
            done[size] = run
        return done[size]

    return get


def assert_same(first: Run, second: Run) -> None:
    """Both took the same steps, to the last bit, and ended with the same weights and moments."""
    assert first.losses() == second.losses()
    a, b = first.final(), second.final()
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    for index, moments in a["optimizer"]["state"].items():
        assert all(torch.equal(moments[name], b["optimizer"]["state"][index][name]) for name in moments)
    assert a["scheduler"] == b["scheduler"] and a["trainer"] == b["trainer"]


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_repeats_what_it_lost(uninterrupted, tmp_path, miniature_root, size):
    """Killed two iterations behind its checkpoint; what its writes were about is lost, too."""
    run = Run(tmp_path / "run", miniature_root, size)
    statuses, said = run.go("KILL", 5)
    assert statuses == [-signal.SIGKILL] * size, said
    assert (run.folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (run.folder / "model_final.pth").exists()
    (run.folder / ".model_0000007.pth.4194305.partial").write_bytes(b"PK")
    (run.folder / "metrics.json").write_text('{"iteration": 0}\n{"itera')

    statuses, said = run.go()
    assert statuses == [0] * size, said
    assert [number for number, _ in run.lines()] == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert_same(run, uninterrupted(size))
    assert not list(run.folder.glob("*.partial"))
    assert [json.loads(line)["iteration"] for line in (run.folder / "metrics.json").read_text().splitlines()] == [0, 7]


@pytest.mark.parametrize(
    ("size", "number"), [(1, signal.SIGUSR1), pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_run_that_is_told_to_stop_goes_on_where_it_was(uninterrupted, tmp_path, miniature_root, size, number):
    """One process gets the signal, several times; all stop behind the same iteration and lose nothing."""
    run = Run(tmp_path / "run", miniature_root, size)
    processes = run.start("SOLVER.CHECKPOINT_PERIOD", 100)
    run.wait_for(2, processes)
    while processes[-1].poll() is None:
        with suppress(ProcessLookupError):
            processes[-1].send_signal(number)
        time.sleep(0.002)
    statuses, said = run.end(processes)
    assert statuses == [75] * size, said
    last = max(run.losses(), default=-1)
    checkpoint = (run.folder / "last_checkpoint").read_text()
    assert checkpoint in {f"model_{last:07d}.pth", f"model_{last + 1:07d}.pth"}, said
    assert number.name in said and "--resume" in said

    statuses, said = run.go()
    assert statuses == [0] * size, said
    numbers = [number for number, _ in run.lines()]
    assert len(numbers) == len(set(numbers)), "no iteration was taken twice"
    reference = uninterrupted(size).losses()
    assert all(reference[number] == losses for number, losses in run.losses().items())
    a, b = run.final()["model"], uninterrupted(size).final()["model"]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_train_net_says_by_its_status_that_it_wants_to_go_on(tmp_path, miniature_root):
    """The whole process group is signalled, data workers included, as schedulers do."""
    command = [sys.executable, "train_net.py", "--config-file", TINY, "--num-gpus", "0", *SMALL]
    variables = {**os.environ, "DETECTRON2_DATASETS": str(miniature_root), "OMP_NUM_THREADS": "1"}
    options = ["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1000", "SOLVER.CHECKPOINT_PERIOD", "1"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "last_checkpoint").exists() and process.poll() is None:
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 75, said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nobody is left of its group
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_a_launcher_passes_the_signal_and_the_status_on(tmp_path, miniature_root):
    process = start("launcher", tmp_path, root=miniature_root)
    while len(list(tmp_path.glob("ready_*"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 75, said


@pytest.mark.slow
def test_without_room_training_goes_on_but_does_not_end_well(uninterrupted, tmp_path, miniature_root):
    """Periodic checkpoints that cannot be written are errors in the log; the final one ends the run with one."""
    size = (uninterrupted(1).folder / "model_final.pth").stat().st_size
    run = Run(tmp_path / "run", miniature_root)
    statuses, said = run.go(limit=size // 2)
    assert statuses == [1], said
    assert sorted(run.losses()) == list(range(ITERATIONS - 1)), "the last step ended with the error"
    for word in ("model_0000003.pth: not written: File too large", "MiB free", "model_final.pth: not written"):
        assert word in said
    assert not list(run.folder.glob("*.pth*")) and not (run.folder / "last_checkpoint").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB; a checkpoint has 23."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_that_gets_room_again(tmp_path, small_disk, miniature_root):
    """There is too little until the first checkpoint has failed, and enough for the others."""
    run = Run(tmp_path / "run", miniature_root, output=small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(60 * 2**20))
    (process,) = run.start()
    said = []
    for line in process.stdout:
        said.append(line)
        if "model_0000003.pth: not written" in line:
            ballast.unlink()
    process.wait(timeout=60)
    said = "".join(said)
    assert process.returncode == 0, said
    assert "No space left on device (" in said
    assert {path.name for path in small_disk.glob("*.pth*")} == {"model_0000007.pth", "model_final.pth"}
    assert (small_disk / "last_checkpoint").read_text() == "model_final.pth"


@pytest.fixture
def make_trainer(tmp_path, miniature):
    """A function from options to a trainer of this process."""
    from mtaclip.engine import Trainer, setup_cfg

    def make(*options):
        base = [*SMALL, "OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "2"]
        return Trainer(setup_cfg(ROOT / TINY, [*base, *options], device="cpu"))

    return make


def test_what_changed_since_the_checkpoint_is_named(make_trainer, caplog):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    make_trainer().train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == handlers
    caplog.clear()
    trainer = make_trainer("SEED", "8", "SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "6", "SOLVER.BASE_LR", "0.5")
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2 and trainer.seed == 7
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for words in ("seed 7", "IMS_PER_BATCH was 2 and is 1 now", "MAX_ITER was 2 and is 6 now", "BASE_LR was 0.002"):
        assert any(words in warning for warning in warnings), warnings
    # Two warm-up iterations, then the polynomial: iteration 2 has the base rate. Two iterations were all there were
    # of the old schedule, the rate behind them was 0.
    assert max(group["lr"] for group in trainer.optimizer.param_groups) == 0.002


def test_nothing_is_said_where_nothing_changed_and_a_complete_run_takes_no_step(make_trainer, caplog):
    make_trainer().train()
    caplog.clear()
    trainer = make_trainer()
    trainer.resume_or_load(resume=True)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "complete" in warning and "SOLVER.MAX_ITER is 2" in warning
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert trainer.iter == 2
    assert trainer.state_dict()["iteration"] == 1  # as a checkpoint of the best scores has it


def test_a_mistake_in_a_training_is_logged_as_one_sentence(make_trainer, caplog):
    """Detectron2's loop would log its traceback."""
    with pytest.raises(ValueError):
        make_trainer("SOLVER.ACCUMULATE", "2", "SOLVER.IMS_PER_BATCH", "3").train()
    error = next(record for record in caplog.records if record.levelname == "ERROR")
    assert error.getMessage().startswith("The training ends: SOLVER.IMS_PER_BATCH 3 must be") and not error.exc_info


def test_a_new_run_in_an_old_folder_says_so(make_trainer, caplog):
    make_trainer().train()
    trainer = make_trainer()
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0
    assert "holds the checkpoints of another run" in caplog.text


def test_a_checkpoint_of_another_program_is_refused(make_trainer, tmp_path):
    trainer = make_trainer()
    state = {"model": trainer.model.state_dict(), "optimizer": {}, "scheduler": {}, "iteration": 5}
    torch.save(state, tmp_path / "model_0000005.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    with pytest.raises(
        ValueError, match=r"model_0000005\.pth cannot be resumed from: it holds no scaler and no trainer"
    ):
        trainer.resume_or_load(resume=True)


if __name__ == "__main__":
    if sys.argv[1] == "launcher":
        launcher(Path(sys.argv[2]))
    else:
        worker(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]), sys.argv[6:])
