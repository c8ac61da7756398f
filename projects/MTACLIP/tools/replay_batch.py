"""Run a step again whose loss, cost or gradient was not finite, and say where that began.

python projects/MTACLIP/tools/replay_batch.py --config-file output/cityscapes/mtaclip_R50/config.yaml \
    output/cityscapes/mtaclip_R50/nonfinite_0001234_process0.pth
"""

import argparse
import logging
import sys
from pathlib import Path

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
import torch
from torch import Tensor, nn

from mtaclip.checkpoint.loading import load_state, read_checkpoint
from mtaclip.engine import setup_cfg
from mtaclip.modeling.build import build_model
from mtaclip.modeling.performance import amp_dtype

_logger = logging.getLogger("mtaclip.replay")


def tensors_in(value: object) -> list[Tensor]:
    """The floating-point tensors in what a module returns."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        return tensors_in(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_in(item)]
    return tensors_in(vars(value)) if hasattr(value, "__dataclass_fields__") else []


def is_bad(value: object) -> bool:
    """Whether a tensor in `value` holds NaN or infinity."""
    return any(not t.isfinite().all() for t in tensors_in(value))


class Watch:
    """Notes which modules' outputs are not finite, in the order of computation."""

    def __init__(self, model: nn.Module) -> None:
        self.bad: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_hook(self._hook(name or "the model"))

    def _hook(self, name: str):
        def look(module: nn.Module, inputs: tuple, output: object) -> None:
            if is_bad(output):
                origin = "although its inputs are finite" if not is_bad(inputs) else "as do its inputs"
                self.bad.append(f"{name} ({type(module).__name__}) gives NaN or infinity, {origin}")

        return look


def replay(model: nn.Module, content: dict, dtype: torch.dtype | None) -> list[str]:
    """Compute the stored step's losses and gradients again.

    Args:
        model: with the stored weights, in training mode.
        content: of the stored file.
        dtype: of autocast; None computes in float32.

    Returns:
        Sentences on what is not finite: modules in the order of computation, then losses, then gradients.
    """
    watch = Watch(model)
    torch.manual_seed(content["seed"])
    device = model.device.type
    divisors = model.loss_divisors(content["batches"])
    found: list[str] = []
    for number, batch in enumerate(content["batches"]):
        try:
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                losses = model(batch, divisors)
        except FloatingPointError as error:
            return [*watch.bad, f"Part {number} of the batch: {error}"]
        found += [f"{name} is {value.item()}" for name, value in losses.items() if not value.isfinite()]
        (sum(losses.values()) * content["scale"]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    found += [f"the gradient of {name} holds NaN or infinity" for name in bad]
    return watch.bad + found


def make_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="of the run, as in its output folder")
    parser.add_argument("--device", default=None, help="takes the place of MODEL.DEVICE")
    parser.add_argument("file", type=Path, help="nonfinite_<iteration>_process<number>.pth")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="keys and values, such as SOLVER.AMP.ENABLED False")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0 if something was not finite again, 3 if everything was."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        weights = ["MODEL.WEIGHTS", str(args.file)]
        cfg = setup_cfg(args.config_file, [*args.opts, *weights], device=args.device)
        content = read_checkpoint(args.file)
        if "batches" not in content:
            raise ValueError(f"{args.file}: not a stored step, it holds no batches.")
        model = build_model(cfg)
        load_state(model, content["model"], str(args.file))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    _logger.info("Iteration %d: %s", content["iteration"], content["reason"])
    found = replay(model.train(), content, amp_dtype(cfg))
    for sentence in found:
        _logger.info(sentence)
    if not found:
        _logger.info("Everything was finite this time.")
    return 0 if found else 3


if __name__ == "__main__":
    sys.exit(main())
