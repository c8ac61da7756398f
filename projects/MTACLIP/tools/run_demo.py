"""The whole way on a CPU in minutes: draw a miniature Cityscapes, train, evaluate, make pictures, say where it all is.

    python projects/MTACLIP/tools/run_demo.py --config-file configs/miniature/mtaclip_tiny.yaml

Every step is a command that works for real data sets too; each is printed before it runs.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mtaclip.engine import setup_cfg

ROOT = Path(__file__).resolve().parents[3]
PICTURES = 8


def run(command: list[str], environment: dict[str, str]) -> None:
    """Show a command and run it; its failure ends the demo with its exit status."""
    print(f"\n$ {shlex.join(['python', *command])}", flush=True)
    code = subprocess.run([sys.executable, *command], env=environment).returncode
    if code:
        sys.exit(f"The step above failed with exit status {code}.")


def report(output: Path, seconds: float, method: str) -> None:
    """Say how well it went, where everything is, and how to go on."""
    (scores_file,) = output.glob("scores_*.json")
    scores = json.loads(scores_file.read_text(encoding="utf-8"))["scores_percent"]
    name = f"cityscapes/{method}_R50"
    train = f"python train_net.py --config-file configs/{name}.yaml --num-gpus 8"
    print(
        f"""
Done in {seconds / 60:.1f} minutes. Mean IoU on the miniature's validation images: {scores["mIoU"] / 100:.3f}
  report   {output / "report.html"}
  table    {scores_file}
  curves   {output / "curves.png"}   (or: tensorboard --logdir {output})
  pictures {output / "pictures"}
  weights  {output / "model_final.pth"}

The same with the real Cityscapes, laid out as datasets/README.md says:
  export DETECTRON2_DATASETS=/path/to/datasets
  {train}
  {train} --eval-only MODEL.WEIGHTS output/{name}/model_final.pth"""
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/miniature/mtaclip_tiny.yaml")
    parser.add_argument("--datasets", type=Path, default=Path("datasets/miniature"), help="where to draw")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args()
    start = time.monotonic()
    os.chdir(ROOT)
    environment = {
        # The model is so small that a second thread wins little, and loses much where other programs share the cores.
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",  # fvcore's, of torch.jit.script
        **os.environ,
        "DETECTRON2_DATASETS": str(args.datasets),
    }
    output = Path(setup_cfg(args.config_file, args.opts, device="cpu").OUTPUT_DIR)
    train = ["train_net.py", "--config-file", args.config_file, "--num-gpus", "0"]

    run(["datasets/make_miniature.py", "--root", str(args.datasets), "--dataset", "cityscapes"], environment)
    run([*train, *args.opts], environment)
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    run([*train, "--eval-only", *args.opts, *weights], environment)
    images = sorted((args.datasets / "cityscapes" / "leftImg8bit" / "val").glob("*/*.png"))[:PICTURES]
    pictures = ["--input", *map(str, images), "--output", str(output / "pictures")]
    run(["demo.py", "--config-file", args.config_file, *pictures, "--opts", *args.opts, *weights], environment)
    method = "mask2former" if "mask2former" in args.config_file else "mtaclip"
    report(output, time.monotonic() - start, method)


if __name__ == "__main__":
    main()
