"""Training and evaluation."""

from mtaclip.engine.setup import setup_cfg
from mtaclip.engine.trainer import Trainer

__all__ = ["Trainer", "setup_cfg"]
