"""The inference graph as an ONNX file."""

import importlib.util
from pathlib import Path

import torch
from torch.export import ExportedProgram

from mtaclip.export.program import facts, plain_program
from mtaclip.files import replace_file
from mtaclip.predictor import Predictor

OPSET = 20
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def save_onnx(program: ExportedProgram, predictor: Predictor, file: Path) -> None:
    """Write a program as an ONNX file with its `facts` as metadata, complete or not at all.

    Its input is "images", its outputs are "labels" and "scores", with the shapes of the program.

    Args:
        program: of `export_program`.
        predictor: that the program is of.
        file: to write.

    Raises:
        OSError: the file cannot be written.
        ValueError: a library is missing, or the classes of the predictor are unknown.
    """
    check_installed()
    metadata = facts(predictor)
    converted = torch.onnx.export(
        plain_program(program),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["labels", "scores"],
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),  # names for what the program leaves open
        verbose=False,
    )
    converted.model.metadata_props.update(metadata)
    replace_file(file, converted.model_proto.SerializeToString())


def check_installed() -> None:
    """Refuse to go on without what writing and running ONNX files needs.

    Raises:
        ValueError: a library is missing; the message says how to get it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'ONNX files need {", ".join(missing)}: pip install "mtaclip[export]".')
