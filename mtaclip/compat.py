"""Lets the released Detectron2 0.6 run on today's Pillow and without its compiled part.

`mtaclip/__init__.py` calls `apply()` before anything else of Detectron2 is imported. Whether a repair is needed is
read from the installed Detectron2's own source, not from its version: its main branch still calls itself 0.6.
"""

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# In INSTALL.md, every name here has its own section.
_REQUIRED = {
    "torch": "PyTorch",
    "detectron2": "Detectron2",
}


class _MissingCompiledPart(ModuleType):
    """Stands where `detectron2._C` would be; reading any function from it raises one clear sentence."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # protocol look-ups (copy, pickle, inspect) expect a plain AttributeError
            raise AttributeError(name)
        raise ImportError(
            f"detectron2._C.{name} is not available: this Detectron2 was installed without its compiled part, which "
            "MTA-CLIP does not need; to use rotated boxes, deformable convolution or fast COCO evaluation, "
            "build Detectron2 from its repository (INSTALL.md, 'Detectron2')."
        )


def apply() -> list[str]:
    """Check that PyTorch and Detectron2 are there, and repair what this Detectron2 needs repaired.

    Returns:
        the repairs made by this call: any of "PIL.Image.LINEAR" and "detectron2._C"; empty when none was needed.

    Raises:
        ImportError: PyTorch or Detectron2 is not installed.
    """
    for name, title in _REQUIRED.items():
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"MTA-CLIP needs {title}, and this Python has no module named '{name}': "
                f"install it first, as INSTALL.md (section '{title}') says.",
                name=name,
            )
    detectron2: Any = importlib.import_module("detectron2")
    root = Path(detectron2.__file__).parent
    repairs = []

    # Pillow >= 10 has no Image.LINEAR, which the 0.6 release reads as a default argument in its transforms.
    image: Any = importlib.import_module("PIL.Image")
    if not hasattr(image, "LINEAR") and _contains(root / "data/transforms/transform.py", r"\bImage\.LINEAR\b"):
        image.LINEAR = image.BILINEAR
        repairs.append("PIL.Image.LINEAR")

    # The 0.6 release imports its compiled part at the head of `detectron2.layers`, which everything else imports. The
    # stand-in is an attribute of the package and not a module in `sys.modules`, so that code that asks properly
    # (`import detectron2._C`, as Detectron2's environment report does) still learns that there is none.
    if (
        not hasattr(detectron2, "_C")
        and importlib.util.find_spec("detectron2._C") is None
        and _contains(root / "layers/rotated_boxes.py", r"^from detectron2 import _C\b")
    ):
        detectron2._C = _MissingCompiledPart("detectron2._C", "Stand-in for the compiled part, which is missing.")
        repairs.append("detectron2._C")
    return repairs


def _contains(file: Path, pattern: str) -> bool:
    return file.is_file() and re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE) is not None
