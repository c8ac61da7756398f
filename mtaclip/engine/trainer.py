"""Detectron2's DefaultTrainer with this project's parts."""

import logging
import weakref
from collections import OrderedDict
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.history_buffer import HistoryBuffer
from torch import nn

from mtaclip.checkpoint import Checkpointer
from mtaclip.config import value_of
from mtaclip.data.build import build_test_loader, build_train_loader
from mtaclip.data.datasets import classes_of, get_records
from mtaclip.data.loader import TrainingLoader
from mtaclip.engine.evaluation import build_evaluator, check_expected, saved_predictions, unwrapped
from mtaclip.engine.hooks import (
    DrawCurves,
    PeriodicCheckpoints,
    PeriodicEvaluation,
    SaveBest,
    WriteScalars,
)
from mtaclip.engine.optimizer import build_lr_scheduler, build_optimizer
from mtaclip.engine.step import LOG_PERIOD, TrainStep, random_seed
from mtaclip.engine.stopping import StopOnSignal
from mtaclip.engine.writers import build_writers
from mtaclip.evaluation.background import BackgroundEvaluator
from mtaclip.evaluation.fingerprint import fingerprint
from mtaclip.inference.augmentation import build_inference
from mtaclip.modeling.build import build_model
from mtaclip.modeling.performance import amp_dtype, autocast, speed_up
from mtaclip.problems import failed_exchange, sentence

_logger = logging.getLogger(__name__)
_HISTORY = 1000  # last values of a loss that are kept; the time that is left is estimated from so many steps
# What a resumed run may change, and what becomes of it.
_CHANGEABLE = {
    "DATASETS.TRAIN": "the images are those of the new setting from here on",
    "SOLVER.IMS_PER_BATCH": "the images come as if it had been the new one from the start, some twice or not at all",
    "SOLVER.MAX_ITER": "the learning rate follows the new schedule from here on",
    "SOLVER.BASE_LR": "the checkpoint's is kept",
    "SOLVER.BACKBONE_MULTIPLIER": "the checkpoint's is kept",
    "SOLVER.WEIGHT_DECAY": "the checkpoint's is kept",
}


class _WithoutTraceback(logging.Filter):
    """Lets Detectron2's training loop log an error that is for the user as the one sentence that it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        text = None if error is None else sentence(error) or failed_exchange(error)
        if text is not None:
            record.msg, record.args, record.exc_info = "The training ends: %s", (text,), None
        return True


_without_traceback = _WithoutTraceback()


class Trainer(DefaultTrainer):
    """Trains and evaluates what a configuration describes.

    Args:
        cfg: a frozen configuration from `setup_cfg`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        # What is missing or cannot be evaluated is better noticed now than later.
        if cfg.DATASETS.TRAIN:
            get_records(cfg.DATASETS.TRAIN)
        for name in cfg.DATASETS.TEST:
            self.build_evaluator(cfg, name)
        model = self.build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        speed_up(model, cfg)
        model = create_ddp_model(model, device_ids=None)  # of every process: the device its weights are on
        clip = cfg.SOLVER.CLIP_GRADIENTS
        self.seed = comm.shared_random_seed() if cfg.SEED < 0 else cfg.SEED
        self._trainer = TrainStep(
            model,
            optimizer,
            dtype=amp_dtype(cfg),
            max_norm=clip.CLIP_VALUE if clip.ENABLED else None,
            accumulate=cfg.SOLVER.ACCUMULATE,
            skip_nonfinite=cfg.SOLVER.SKIP_NONFINITE,
            output_dir=cfg.OUTPUT_DIR,
        )
        self.scheduler = build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            optimizer=optimizer,
            scheduler=self.scheduler,
            scaler=self._trainer.scaler,
            trainer=weakref.proxy(self),
            config=cfg,
            class_names=classes_of([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on its device, with its size in the log."""
        model = build_model(cfg)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        _logger.info("%s: %.2f M parameters, %.2f M trained", type(model).__name__, total / 1e6, trained / 1e6)
        return model

    def resume_or_load(self, resume: bool = True) -> None:
        """Restore the newest checkpoint of OUTPUT_DIR if asked to and there is one; else load MODEL.WEIGHTS.

        Args:
            resume: go on from where the run in OUTPUT_DIR stopped.
        """
        found = self.checkpointer.has_checkpoint()
        folder = self.cfg.OUTPUT_DIR
        if resume and found and self.cfg.MODEL.WEIGHTS:
            _logger.warning("--resume: %s holds a checkpoint, MODEL.WEIGHTS is not read.", folder)
        if resume and not found:
            _logger.warning("--resume: no checkpoint in %s, starting at iteration 0.", folder)
        if found and not resume:
            _logger.warning("%s holds the checkpoints of another run, which this one replaces as it goes on.", folder)
        self.checkpointer.resume_or_load(
            self.cfg.MODEL.WEIGHTS,
            resume=resume,
            allow_pickle=self.cfg.MODEL.WEIGHTS_ALLOW_PICKLE,
            reinit=self.cfg.MODEL.WEIGHTS_REINIT,
        )
        if resume and found:
            self._go_on()

    def _go_on(self) -> None:
        """Continue behind the restored iteration, with the learning rate that the schedule gives."""
        iterations = comm.all_gather(self.iter)
        if len(set(iterations)) > 1:
            raise RuntimeError(
                f"--resume: the processes found checkpoints of different iterations, {iterations}: OUTPUT_DIR "
                f"{self.cfg.OUTPUT_DIR} must be one folder that all machines share."
            )
        self.start_iter = self.iter + 1
        schedule = self.scheduler
        for group, rate, factor in zip(
            self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(schedule.last_epoch)
        if self.start_iter >= self.max_iter:
            _logger.warning("The run is complete: SOLVER.MAX_ITER is %d. It is only evaluated.", self.max_iter)

    def train(self) -> dict | None:
        """Train, and check the scores of the last evaluation against TEST.EXPECTED_RESULTS.

        Returns:
            scores by dataset, or those of the only dataset; None without any.
        """
        logging.getLogger(TrainerBase.__module__).addFilter(_without_traceback)
        TrainerBase.train(self, self.start_iter, self.max_iter)
        results = getattr(self, "_last_eval_results", None)
        if comm.is_main_process() and self.cfg.TEST.EXPECTED_RESULTS:
            check_expected(self.cfg, results or {})
        return results

    def before_train(self) -> None:
        """Start reading data, at the iteration that comes next."""
        self._trainer.data_loader = build_train_loader(self.cfg, seed=self.seed, start=self.start_iter)
        self.storage.histories().default_factory = partial(HistoryBuffer, max_length=_HISTORY)
        super().before_train()

    def after_train(self) -> None:
        """Shut the data workers down, name the broken files they met, then let the hooks finish."""
        loader, self._trainer.data_loader = self._trainer.data_loader, ()
        if isinstance(loader, TrainingLoader):
            loader.log_broken()
        self.iter = min(self.iter, self.max_iter)  # of a run that was complete, Detectron2 counts one more
        super().after_train()

    def run_step(self) -> None:
        """Train on one batch. What is random in it depends on the seed, the iteration and the process alone."""
        seed = random_seed(self.seed, self.iter, comm.get_rank())
        self._trainer.run_step(seed, is_last=self.iter == self.max_iter - 1)

    def state_dict(self) -> dict:
        """Iteration, hooks, seed and some settings; the checkpointer stores optimizer, schedule and loss scale too.

        Nothing else is needed: random numbers and the order of the images follow from seed and iteration.
        """
        own = {"seed": self.seed, "settings": self._settings(), "skipped": self._trainer.skipped}
        done = min(self.iter, self.max_iter - 1)  # behind the last iteration, Detectron2 counts one more
        return TrainerBase.state_dict(self) | own | {"iteration": done}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what `state_dict` gave; the stored seed wins over SEED, and changed settings are named in a warning.

        Raises:
            ValueError: the state is another trainer's.
        """
        if "seed" not in state_dict:
            raise ValueError("it has no seed, so that another program wrote it")
        if self.cfg.SEED >= 0 and state_dict["seed"] != self.cfg.SEED:
            _logger.warning(
                "--resume: the run has seed %d and keeps it, SEED is %d.", state_dict["seed"], self.cfg.SEED
            )
        for key, stored in state_dict.get("settings", {}).items():
            value = self._settings().get(key)
            if value != stored:
                _logger.warning("--resume: %s was %s and is %s now: %s.", key, stored, value, _CHANGEABLE.get(key))
        self.seed = state_dict["seed"]
        self._trainer.skipped = state_dict["skipped"]
        TrainerBase.load_state_dict(self, state_dict)

    def _settings(self) -> dict[str, object]:
        return {key: value_of(self.cfg, key) for key in _CHANGEABLE}

    def build_hooks(self) -> list[hooks.HookBase]:
        """Timing, schedule, checkpoints, signals, evaluation, best checkpoint, writers and curves, in this order."""
        cfg = self.cfg
        found = [hooks.IterationTimer(), hooks.LRScheduler(self.optimizer, self.scheduler)]
        checkpoints = PeriodicCheckpoints(
            self.checkpointer,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            kept=cfg.SOLVER.CHECKPOINTS_KEPT,
            keep_period=cfg.SOLVER.CHECKPOINT_KEEP_PERIOD,
        )
        found += [checkpoints, StopOnSignal(checkpoints)]

        def evaluate():
            self._last_eval_results = self.test(cfg, self.model)
            return self._last_eval_results

        found.append(PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, evaluate, Path(cfg.OUTPUT_DIR) / "metrics.json"))
        if comm.is_main_process():
            several = len(cfg.DATASETS.TEST) > 1  # Detectron2 then puts the dataset before the name of a score
            prefix = f"{cfg.DATASETS.TEST[0]}/" if several else ""
            found.append(SaveBest(self.checkpointer, f"{prefix}sem_seg/mIoU"))
            found.append(WriteScalars(self.build_writers(), LOG_PERIOD, cfg.TEST.EVAL_PERIOD))
            found.append(DrawCurves(cfg.TEST.EVAL_PERIOD, Path(cfg.OUTPUT_DIR) / "metrics.json"))
        return found

    def build_writers(self) -> list[EventWriter]:
        """See `mtaclip.engine.writers.build_writers`."""
        return build_writers(Path(self.cfg.OUTPUT_DIR), self.max_iter)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Images of a dataset, TEST.IMS_PER_BATCH at a time."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, weights: str | None = None) -> DatasetEvaluator:
        """See `mtaclip.engine.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name, weights)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None):
        """Evaluate on every dataset of DATASETS.TEST, as TEST says, under autocast if SOLVER.AMP is on.

        With TEST.SAVE_PREDICTIONS, label maps that an earlier, interrupted call has written are not computed again.

        Args:
            cfg: the configuration.
            model: in any mode, which it has again afterwards.
            evaluators: one per dataset, or the only one; None builds them.

        Returns:
            Scores by dataset, or those of the only dataset.

        Raises:
            ValueError, FileNotFoundError: see `build_evaluator`, `build_test_loader` and `PredictionFolder`.
            OSError: predictions cannot be written.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        model = unwrapped(model)
        prints = fingerprint(cfg, model) if comm.is_main_process() else None
        if evaluators is None:  # of all datasets, so that what cannot be evaluated is noticed before the first image
            weights = None if prints is None else prints["weights"]
            evaluators = [cls.build_evaluator(cfg, name, weights=weights) for name in cfg.DATASETS.TEST]
        model = build_inference(cfg, model)
        results = OrderedDict()
        for name, evaluator in zip(cfg.DATASETS.TEST, evaluators, strict=True):
            loader = cls.build_test_loader(cfg, name)
            remaining, writers = saved_predictions(cfg, model, name, prints)
            everything = BackgroundEvaluator(DatasetEvaluators([evaluator, *writers]))
            with autocast(cfg):
                results[name] = inference_on_dataset(remaining, loader, everything)
        return results if len(results) > 1 else next(iter(results.values()), results)
