"""Files of open_clip's weight tags: in the cache, or downloaded there."""

import http.client
import os
import ssl
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import huggingface_hub
import open_clip
from huggingface_hub import constants

# What open_clip calls the weights in a repository of the Hugging Face Hub, the preferred name first.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PATIENCE = 10.0  # seconds until a server counts as unreachable


def find_pretrained(arch: str, tag: str, cache_dir: str = "") -> Path:
    """The file of a weight tag; it is downloaded if it is not in the cache.

    Args:
        arch: name of an open_clip model that has the tag.
        tag: one of `open_clip.list_pretrained_tags_by_model(arch)`.
        cache_dir: of downloads; "" is the libraries' own.

    Raises:
        FileNotFoundError: it is not in the cache and cannot be downloaded; the message says which file to fetch.
    """
    folder = str(Path(cache_dir).expanduser()) if cache_dir else None
    config = open_clip.get_pretrained_cfg(arch, tag)
    repository, files = _hub_files(config)
    url = config.get("url", "")
    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, file, cache_dir=folder)
        if isinstance(cached, str):
            return Path(cached)
    try:
        if url and (Path(folder or "~/.cache/clip").expanduser() / os.path.basename(url)).is_file():
            return Path(open_clip.download_pretrained_from_url(url, cache_dir=folder))  # checks what is there
        reason = _unreachable(constants.ENDPOINT if repository else url)
        if not reason:
            return Path(open_clip.download_pretrained(config, cache_dir=folder))
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    sources = [f"{' or '.join(files)} of {constants.ENDPOINT}/{repository}"] if repository else []
    raise FileNotFoundError(
        f"MODEL.CLIP.PRETRAINED: {tag!r} of {arch!r} is not in {folder or 'the cache'} and cannot be downloaded "
        f"({reason}): fetch {', or '.join(sources + ([url] if url else []))} where there is a network, and set "
        "MODEL.CLIP.PRETRAINED to the path of that file."
    )


def _hub_files(config: dict) -> tuple[str, tuple[str, ...]]:
    """The repository of a tag on the Hugging Face Hub and the names that its file may have; "" and none without one."""
    repository, name = os.path.split(config.get("hf_hub", ""))
    if not repository:
        return "", ()
    return repository, (f"{os.path.splitext(name)[0]}.safetensors", name) if name else _HUB_FILES


def _unreachable(url: str) -> str:
    """Why a server cannot be asked, at once instead of after the many attempts of a download; "" if it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urlopen(Request(url, method="HEAD"), timeout=_PATIENCE).close()
    except HTTPError:
        return ""
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        return "" if isinstance(reason, ssl.SSLError) else f"{url}: {reason}"
    return ""
