"""Loading and saving weights: safely, and never in part without saying so."""

from mtaclip.checkpoint.checkpointer import Checkpointer
from mtaclip.checkpoint.loading import check_complete, load_weights

__all__ = ["Checkpointer", "check_complete", "load_weights"]
