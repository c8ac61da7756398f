"""Segment a picture by an ONNX file of export.py: python run_onnx.py model.onnx street.jpg labels.png

Needs onnxruntime, numpy and Pillow. The PNG holds class numbers and shows them in the colours of the classes.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, picture: str, output: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    if "sizes" not in facts:
        sys.exit(f"run_onnx.py: {model} does not say at which size it sees pictures: write it anew by export.py.")
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    shortest, longest = facts["sizes"]  # of the edges, as in evaluation; 0 leaves pictures as they are
    scale = min(shortest / min(image.size), longest / max(image.size)) if shortest else 1
    own = [round(int(edge * scale + 0.5) / facts["step"]) * facts["step"] for edge in image.size]
    fixed = session.get_inputs()[0].shape[:1:-1]  # width and height: numbers where the file has one size, else names
    width, height = fixed if isinstance(fixed[0], int) else own
    if not all(facts["edges"][0] <= edge <= facts["edges"][1] for edge in (width, height)):
        sys.exit(
            f"run_onnx.py: {picture} would be seen at {width} x {height}, the model takes {facts['edges']} pixels."
        )
    per_pixel = (image.width / width, 0, 0, 0, image.height / height, 0)  # bilinear between pixels, as in evaluation
    seen = image.transform((width, height), Image.Transform.AFFINE, per_pixel, Image.Resampling.BILINEAR)
    (labels,) = session.run(["labels"], {"images": np.asarray(seen).transpose(2, 0, 1)[None]})
    segments = Image.fromarray(labels[0]).resize(image.size, Image.Resampling.NEAREST)
    segments.putpalette(np.array(facts["colours"], dtype=np.uint8).tobytes())
    segments.save(output)
    names = {**dict(enumerate(facts["classes"])), 255: "scores that are not finite"}
    for label, pixels in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f"{pixels / labels.size:7.2%}  {names[label]}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if len(sys.argv) == 4 else sys.exit(__doc__)
    except Exception as error:  # the errors of onnxruntime have no class of their own
        sys.exit(f"run_onnx.py: {error}")
