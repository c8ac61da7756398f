"""Published models on the Hugging Face Hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from mtaclip.publishing.files import ALL, first_line

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PATIENCE = 10.0  # seconds until the hub must answer


def fetch(folder_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a published model, downloaded if it is on the hub and not in the cache.

    Args:
        folder_or_id: a folder, or the id "name/model" of a model on the hub where there is no such folder.
        revision: branch, tag or commit on the hub; None is its main branch.

    Raises:
        FileNotFoundError: there is neither such a folder nor such an id.
        OSError: the hub has no such model, cannot be reached, or breaks off.
    """
    if Path(folder_or_id).is_dir():
        return Path(folder_or_id)
    name = str(folder_or_id)
    if not _ID.fullmatch(name):
        raise FileNotFoundError(f"there is no folder {name!r}, and ids of the Hugging Face Hub look like 'name/model'.")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(ALL), etag_timeout=_PATIENCE))
    except Exception as error:  # the client passes errors of its transport on, which have no common base
        at = "" if revision is None else f" (revision {revision!r})"
        raise OSError(
            f"{name!r}{at}: there is no such folder, and the Hugging Face Hub gave no such model "
            f"({first_line(error)}); check the name and the network, or download the folder where there is one."
        ) from error
