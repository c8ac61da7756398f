"""MTA-CLIP: language-guided semantic segmentation with mask-text alignment, as a Detectron2 project extension.

Importing the package adds its meta-architecture, backbones and datasets to Detectron2's registries.
"""

from mtaclip import compat

compat.apply()

from mtaclip import data, modeling  # noqa: E402, F401  (they register themselves)
from mtaclip.config import add_mtaclip_config  # noqa: E402

__version__ = "0.1.0"
__all__ = ["__version__", "add_mtaclip_config"]
