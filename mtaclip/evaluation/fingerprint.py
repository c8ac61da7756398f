"""What predicted labels depend on, in a form that can be stored and compared."""

from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn

# Keys of TEST that no label depends on.
_WITHOUT_EFFECT = (
    "SAVE_PREDICTIONS",
    "EVAL_PERIOD",
    "EXPECTED_RESULTS",
    "BOUNDARY_IOU",
    "SNAPSHOTS",
    "IMS_PER_BATCH",
    "SCORES_DEVICE",
)


def fingerprint(cfg: CfgNode, model: nn.Module) -> dict[str, str]:
    """Digests of everything the labels of a given image depend on.

    Args:
        cfg: MODEL but for where weights come from, the test sizes and the format of INPUT, TEST but for what only
            scores depend on, and the number formats of SOLVER are read.
        model: not wrapped for several processes; its parameters and buffers are read, on any device.

    Returns:
        `settings` and `weights`, hexadecimal.
    """
    return {"settings": _digest_of_settings(cfg), "weights": digest_of_weights(model)}


def digest_of_images(file_names: Iterable[str]) -> str:
    """Digest of images by name and number of bytes, so that a copy in another folder has the same.

    Args:
        file_names: images, in any order; those that do not exist are another kind of image.

    Returns:
        hexadecimal.
    """
    files = map(Path, file_names)
    images = sorted((file.name, file.stat().st_size if file.is_file() else -1) for file in files)
    return blake2b(repr(images).encode(), digest_size=16).hexdigest()


def _digest_of_settings(cfg: CfgNode) -> str:
    model, test = cfg.MODEL.clone(), cfg.TEST.clone()
    loading = ("WEIGHTS", "WEIGHTS_ALLOW_PICKLE", "WEIGHTS_REINIT")
    for node, names in ((model, loading), (model.CLIP, ("CACHE_DIR",)), (test, _WITHOUT_EFFECT)):
        node.defrost()
        for name in names:
            del node[name]
    settings = CfgNode(
        {
            "MODEL": model,
            "INPUT": {key: value for key, value in cfg.INPUT.items() if "TEST" in key or key == "FORMAT"},
            "TEST": test,
            "SOLVER": {"AMP": cfg.SOLVER.AMP, "TF32": cfg.SOLVER.TF32},
        }
    )
    return blake2b(settings.dump().encode(), digest_size=16).hexdigest()


def digest_of_weights(model: nn.Module) -> str:
    """Digest of a model's parameters and buffers, which the scores of an evaluation are of.

    Args:
        model: not wrapped for several processes, on any device, in any layout.

    Returns:
        hexadecimal.
    """
    digest = blake2b(digest_size=16)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
