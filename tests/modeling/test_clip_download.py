"""Where the weights of a tag come from: the cache, a server, or a sentence that says what to fetch."""

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest

from mtaclip.modeling.clip_download import find_pretrained

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors"
CONTENT = b"weights"


class Hub(BaseHTTPRequestHandler):
    """A Hugging Face Hub with one file."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path in ("/", FILE) else 404)
        self.send_header("ETag", hashlib.sha256(CONTENT).hexdigest())
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of such a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_tag_is_downloaded(run_script, hub, tmp_path):
    program = "import sys, mtaclip.modeling.clip_download as d; print(d.find_pretrained('RN50', 'openai', sys.argv[1]))"
    done = run_script(
        "-c", program, tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", NO_PROXY="*"
    )
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip().splitlines()[-1])
    assert file.read_bytes() == CONTENT and tmp_path in file.parents and COMMIT in file.parts


@pytest.fixture
def offline(monkeypatch):
    """Nobody answers at the hub's address."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_a_cached_tag_needs_no_network(tmp_path, offline):
    """The layout of the Hugging Face Hub's cache, with something else in place of the weights."""
    repository = tmp_path / "models--timm--resnet50_clip.openai"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "open_clip_model.safetensors").write_bytes(CONTENT)
    assert find_pretrained("RN50-quickgelu", "openai", str(tmp_path)) == snapshot / "open_clip_model.safetensors"


def test_without_a_network_one_sentence_says_what_to_fetch(tmp_path, offline):
    with pytest.raises(FileNotFoundError) as error:
        find_pretrained("RN50-quickgelu", "openai", str(tmp_path))
    for words in (
        f"MODEL.CLIP.PRETRAINED: 'openai' of 'RN50-quickgelu' is not in {tmp_path} and cannot be downloaded",
        "http://127.0.0.1:9",
        "fetch open_clip_model.safetensors or open_clip_pytorch_model.bin of ",
        "timm/resnet50_clip.openai",
        "set MODEL.CLIP.PRETRAINED to the path of that file",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
