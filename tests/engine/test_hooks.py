"""The best checkpoint, also over a resumed run."""

import torch
from detectron2.engine import HookBase
from detectron2.engine.train_loop import TrainerBase

from mtaclip.checkpoint import Checkpointer
from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.engine.hooks import SaveBest


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
