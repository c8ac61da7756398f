"""Published models on the Hugging Face Hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from mtaclip.problems import first_line
from mtaclip.publishing.files import ALL

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PATIENCE = 10.0  # seconds until the hub must answer


def fetch(folder_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a published model, from the hub if it is no folder here; offline, from the hub client's cache.

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
    files = {"repo_id": name, "revision": revision, "allow_patterns": list(ALL), "etag_timeout": _PATIENCE}
    try:
        HfApi().model_info(name, revision=revision, timeout=_PATIENCE)  # snapshot_download would wait for ever
    except Exception as error:  # the client passes errors of its transport on, which have no common base
        try:
            return Path(snapshot_download(**files, local_files_only=True))
        except Exception:
            raise _unavailable(name, revision, error) from error
    try:
        return Path(snapshot_download(**files))
    except Exception as error:
        raise _unavailable(name, revision, error) from error


def _unavailable(name: str, revision: str | None, error: Exception) -> OSError:
    at = "" if revision is None else f" (revision {revision!r})"
    return OSError(
        f"{name!r}{at}: there is no such folder, and the Hugging Face Hub gave no such model ({first_line(error)}); "
        "check the name and the network, or download the folder where there is one."
    )
