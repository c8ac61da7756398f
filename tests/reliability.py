"""Tables of docs/reliability.md: each is printed, and written there, by the command that fills it."""

from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def replace_table(name: str, table: str, document: Path = DOCUMENT) -> None:
    """Put a table between `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        ValueError: if the document has no such place.
    """
    text = document.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document} has no place for the table '{name}': it takes the lines '{begin}' and '{end}'")
    document.write_text(f"{before}{begin}\n{table}\n{end}{after}")
