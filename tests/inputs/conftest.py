"""Examples of hypothesis: the same in every run, and many more where MTACLIP_EXAMPLES says so."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.inputs.cases import Cases

settings.register_profile(
    "inputs",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=int(os.environ.get("MTACLIP_EXAMPLES", "100")),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("inputs")


@pytest.fixture(scope="session")
def write(tmp_path_factory) -> Callable[[bytes, str], Path]:
    """A function that writes a file, in a folder where nothing else is, and returns its path."""
    folder = tmp_path_factory.mktemp("inputs")

    def write_file(content: bytes, name: str) -> Path:
        for file in folder.iterdir():
            file.unlink()
        path = folder / name
        path.write_bytes(content)
        return path

    return write_file


@pytest.fixture
def cases(request, row) -> Iterator[Cases]:
    """Counts what a property tries, `with cases:` around each reading, for a line of docs/reliability.md."""
    counted = Cases()
    yield counted
    row("inputs", request.function.__name__.removeprefix("test_").replace("_", " "), *counted.cells())
