"""Train MTA-CLIP or the Mask2Former baseline, or evaluate a checkpoint.

python train_net.py --config-file configs/cityscapes/mtaclip_R50.yaml --num-gpus 8
python train_net.py --config-file configs/cityscapes/mtaclip_R50.yaml --eval-only MODEL.WEIGHTS model_best.pth

Without GPUs: --num-gpus 0, and --num-processes 2 for two processes. On several machines, on each of them:
--num-machines 2 --machine-rank 0 (then 1) --dist-url tcp://HOST:PORT. Processes that torchrun or Slurm's srun
starts need none of these options; each takes the GPU of its local rank.
"""

import argparse
import logging
import sys

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from mtaclip.checkpoint import check_complete, load_weights
from mtaclip.data.datasets import tested_classes
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.engine.evaluation import check_expected
from mtaclip.engine.exchange import TIMEOUT
from mtaclip.engine.launch import launch
from mtaclip.engine.output import output_folder, set_up
from mtaclip.engine.processes import find_processes
from mtaclip.engine.stopping import EXIT_INTERRUPTED, EXIT_STOPPED, Stopped
from mtaclip.modeling.performance import speed_up
from mtaclip.problems import RunError


def evaluate(cfg) -> dict:
    """Scores of MODEL.WEIGHTS on DATASETS.TEST; TEST.EXPECTED_RESULTS are checked."""
    check_complete(cfg)
    model = Trainer.build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        load_weights(
            model,
            cfg.MODEL.WEIGHTS,
            allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE,
            class_names=tested_classes(cfg),
        )
    else:
        logging.getLogger("mtaclip").warning("MODEL.WEIGHTS is empty: these are the scores of an untrained model.")
    speed_up(model, cfg)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        check_expected(cfg, results)
    return results


def run(args: argparse.Namespace, device: str) -> dict | None:
    """What every process does."""
    cfg = setup_cfg(args.config_file, args.opts, device=device)
    with output_folder(cfg.OUTPUT_DIR):
        set_up(cfg, args)
        if args.eval_only:
            return evaluate(cfg)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


def make_parser() -> argparse.ArgumentParser:
    """Detectron2's usual options; those about processes also know CPUs, torchrun and Slurm."""
    parser = argparse.ArgumentParser(
        parents=[default_argument_parser()],
        add_help=False,  # the parent's
        conflict_handler="resolve",  # options below replace the parent's
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        metavar="N",
        help="GPUs per machine, a process for each; 0 is the CPU (default: one per process of torchrun or srun; else "
        "1, or 0 if MODEL.DEVICE is cpu)",
    )
    parser.add_argument(
        "--num-processes", type=int, metavar="N", help="processes per machine without GPUs (default: 1)"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where the processes meet, tcp://HOST:PORT; auto (default) is a free port of this machine",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT.total_seconds() / 60,
        metavar="MINUTES",
        help="how long processes wait for each other before the run ends and names the missing one (default: 30)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 75 if a signal stopped the run, to be gone on with by --resume."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        cfg = setup_cfg(args.config_file, args.opts)
        processes = find_processes(args, cfg.MODEL.DEVICE)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        launch(run, processes, args, processes.device)
    except RunError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    except Stopped:
        return EXIT_STOPPED
    except KeyboardInterrupt:
        go_on = "" if args.eval_only else "; --resume goes on from the last checkpoint"
        parser.exit(EXIT_INTERRUPTED, f"{parser.prog}: interrupted: the files that were written are complete{go_on}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
