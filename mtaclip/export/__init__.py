"""Models for other programs: `torch.export` and ONNX."""

from mtaclip.export.check import Agreement, compare, load_onnx, load_program
from mtaclip.export.model import ExportableModel
from mtaclip.export.onnx_file import check_installed, save_onnx
from mtaclip.export.program import export_program, plain_program, save_program

__all__ = [
    "Agreement",
    "ExportableModel",
    "check_installed",
    "compare",
    "export_program",
    "load_onnx",
    "load_program",
    "plain_program",
    "save_onnx",
    "save_program",
]
