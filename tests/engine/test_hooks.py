"""What hooks keep and remove, also over a resumed run."""

import json

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils.events import JSONWriter

from mtaclip.checkpoint import Checkpointer
from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.engine.hooks import PeriodicCheckpoints, PeriodicEvaluation, SaveBest, WriteScalars


class Scores(HookBase):
    """Stands for an evaluation after every iteration."""

    def __init__(self, values):
        self.values = iter(values)

    def after_step(self):
        self.trainer.storage.put_scalar("sem_seg/mIoU", next(self.values))


class Loop(TrainerBase):
    def run_step(self):
        pass


def train(folder, start, scores):
    loop = Loop()
    loop.register_hooks([Scores(scores), SaveBest(Checkpointer(torch.nn.Linear(1, 1), str(folder)), "sem_seg/mIoU")])
    loop.train(start, start + len(scores))


def best(folder):
    content = read_checkpoint(folder / "model_best.pth")
    return content["iteration"], content["score"]


def test_the_best_of_several_evaluations_is_kept(tmp_path):
    train(tmp_path, 0, [10.0, 50.0, 40.0])
    assert best(tmp_path) == (1, 50.0)


def test_a_resumed_run_does_not_replace_a_better_file(tmp_path):
    """The checkpoint a run resumes from is written before the evaluation of its iteration."""
    train(tmp_path, 0, [10.0, 50.0])
    train(tmp_path, 2, [30.0])
    assert best(tmp_path) == (1, 50.0)
    train(tmp_path, 3, [60.0])
    assert best(tmp_path) == (3, 60.0)


def test_a_new_run_starts_anew(tmp_path):
    train(tmp_path, 0, [50.0])
    train(tmp_path, 0, [20.0])
    assert best(tmp_path) == (0, 20.0)


def checkpoint(folder, start, end, **options):
    """Train from one iteration to another with a checkpoint behind every second one; returns the numbers left."""
    loop = Loop()
    loop.register_hooks([PeriodicCheckpoints(Checkpointer(torch.nn.Linear(1, 1), str(folder)), 2, **options)])
    loop.train(start, end)
    return numbers(folder)


def numbers(folder):
    return sorted(int(path.stem.removeprefix("model_")) for path in folder.glob("model_0*.pth"))


def test_the_last_checkpoints_are_kept(tmp_path):
    assert checkpoint(tmp_path, 0, 9, kept=2) == [5, 7]
    assert (tmp_path / "model_final.pth").is_file()
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_resumed_run_removes_what_the_one_before_it_left(tmp_path):
    assert checkpoint(tmp_path, 0, 6, kept=2) == [3, 5]
    assert checkpoint(tmp_path, 6, 10, kept=2) == [7, 9]


def test_some_checkpoints_are_kept_for_ever(tmp_path):
    # Behind every second iteration, and behind the 5th, 10th and 15th: numbers 4, 9 and 14.
    assert checkpoint(tmp_path, 0, 8, kept=2, keep_period=5) == [4, 5, 7]
    assert checkpoint(tmp_path, 8, 17, kept=2, keep_period=5) == [4, 9, 14, 15]


def test_files_of_a_longer_run_do_not_push_out_those_of_a_new_one(tmp_path):
    assert checkpoint(tmp_path, 0, 10, kept=2) == [7, 9]
    assert checkpoint(tmp_path, 0, 6, kept=2) == [3, 5, 7, 9]


def test_what_the_next_run_resumes_from_is_not_removed(tmp_path):
    class TagFirst(Checkpointer):
        """Somebody named an old file by hand, and the tag stays with it."""

        def tag_last_checkpoint(self, last_filename_basename):
            super().tag_last_checkpoint("model_0000001.pth")

    loop = Loop()
    loop.register_hooks([PeriodicCheckpoints(TagFirst(torch.nn.Linear(1, 1), str(tmp_path)), 2, kept=1)])
    loop.train(0, 8)
    assert numbers(tmp_path) == [1, 7]


@pytest.mark.parametrize(
    ("options", "key"),
    [({"kept": 0}, "SOLVER.CHECKPOINTS_KEPT"), ({"kept": 1, "keep_period": -1}, "SOLVER.CHECKPOINT_KEEP_PERIOD")],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, options, key):
    with pytest.raises(ValueError, match=key):
        checkpoint(tmp_path, 0, 1, **options)


def test_a_damaged_best_file_is_replaced(tmp_path, caplog):
    (tmp_path / "model_best.pth").write_bytes(b"PK")
    train(tmp_path, 2, [30.0])
    assert best(tmp_path) == (2, 30.0)
    assert "model_best.pth" in caplog.text


@pytest.mark.parametrize(("recorded", "evaluated"), [(False, [3, 5, 8]), (True, [5, 8])])
def test_an_evaluation_that_an_interruption_prevented_is_made_up_for(tmp_path, recorded, evaluated):
    """Resumed behind iteration 3, where an evaluation was due; 8 is the one after the last iteration."""
    lines = [{"iteration": 3, "total_loss": 1.0}] + [{"iteration": 3, "sem_seg/mIoU": 1.0}] * recorded
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + '[]\n{}\n{"iter')
    seen = []
    loop = Loop()

    def evaluate():
        seen.append(loop.iter)
        return {"sem_seg": {"mIoU": 10.0 - loop.iter}}

    loop.register_hooks(
        [
            PeriodicEvaluation(2, evaluate, tmp_path / "metrics.json"),
            SaveBest(Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)), "sem_seg/mIoU"),
        ]
    )
    loop.train(4, 8)
    assert seen == evaluated
    assert best(tmp_path) == (evaluated[0], 10.0 - evaluated[0])


def test_scores_are_written_before_the_next_step(tmp_path):
    """Of an evaluation that is made up for, too; a kill in the next step would cost them else."""
    file, before_steps = tmp_path / "metrics.json", {}

    class Reads(Loop):
        def run_step(self):
            records = map(json.loads, file.read_text().splitlines())
            before_steps[self.iter] = [record["iteration"] for record in records]

    loop = Reads()
    evaluation = PeriodicEvaluation(2, lambda: {"sem_seg": {"mIoU": 10.0}}, file)
    loop.register_hooks([evaluation, WriteScalars([JSONWriter(str(file))], 20, 2)])
    loop.train(4, 8)
    assert before_steps == {4: [3], 5: [3], 6: [3, 5], 7: [3, 5]}
