"""Train MTA-CLIP or the Mask2Former baseline, or evaluate a checkpoint.

python train_net.py --config-file configs/cityscapes/mtaclip_R50.yaml --num-gpus 8
python train_net.py --config-file configs/cityscapes/mtaclip_R50.yaml --eval-only MODEL.WEIGHTS model_best.pth
"""

import argparse
import logging
import sys
from contextlib import nullcontext

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from mtaclip.checkpoint import load_weights
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.engine.setup import pick_device
from mtaclip.engine.stopping import EXIT_STOPPED, Stopped, forwarded_signals


def evaluate(cfg) -> dict:
    """Scores of MODEL.WEIGHTS on DATASETS.TEST; TEST.EXPECTED_RESULTS are checked."""
    model = Trainer.build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS)
    else:
        logging.getLogger("mtaclip").warning("MODEL.WEIGHTS is empty: these are the scores of an untrained model.")
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> dict | None:
    """What every process does."""
    cfg = setup_cfg(args.config_file, args.opts, device=pick_device(args.num_gpus))
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="mtaclip")
    if args.eval_only:
        return evaluate(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def make_parser() -> argparse.ArgumentParser:
    """Detectron2's usual options."""
    return default_argument_parser(epilog=__doc__)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 75 if a signal stopped the run, to be gone on with by --resume."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        setup_cfg(args.config_file, args.opts, device=pick_device(args.num_gpus))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    try:
        with forwarded_signals() if args.num_gpus > 1 else nullcontext():
            launch(
                run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except Stopped:
        return EXIT_STOPPED
    except ProcessExitedException as error:
        if error.exit_code != EXIT_STOPPED:
            raise
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
