"""What happens to files: they are cut off, bits flip, parts get lost or doubled, and other files are mixed in."""

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Contents with up to three damages."""
    content = draw(contents)
    for _ in range(draw(st.integers(0, 3))):
        content = draw(st.sampled_from((_cut, _flip, _splice, _overwrite)))(draw, content, contents)
    return content


def _place(draw: st.DrawFn, content: bytes) -> int:
    """A place in a file, more often in its head."""
    return draw(st.integers(0, min(len(content), 64)) | st.integers(0, len(content)))


def _cut(draw: st.DrawFn, content: bytes, _: st.SearchStrategy[bytes]) -> bytes:
    return content[: _place(draw, content)]


def _flip(draw: st.DrawFn, content: bytes, _: st.SearchStrategy[bytes]) -> bytes:
    place = _place(draw, content[:-1])
    flipped = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in content[place : place + 1])
    return content[:place] + flipped + content[place + 1 :]


def _splice(draw: st.DrawFn, content: bytes, contents: st.SearchStrategy[bytes]) -> bytes:
    other = draw(contents)
    return content[: _place(draw, content)] + other[_place(draw, other) :]


def _overwrite(draw: st.DrawFn, content: bytes, _: st.SearchStrategy[bytes]) -> bytes:
    place = _place(draw, content)
    written = draw(st.binary(max_size=8) | st.sampled_from((b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff")))
    return content[:place] + written + content[place + len(written) :]
