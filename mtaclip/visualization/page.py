"""Markup of a page that needs nothing but itself: no script, no other file, light and dark, wide and narrow."""

import html
from base64 import b64encode
from collections.abc import Sequence

_VOID = frozenset(("img", "meta"))


class Html(str):
    """Markup. Every other string is text, which `element` escapes."""


def element(tag: str, *children: str, **attributes: str | None) -> Html:
    """An element with its children.

    Args:
        tag: name of the element.
        children: markup, or text, which is escaped.
        attributes: an underscore stands for a dash, one at the end is dropped (`class_`); None leaves it out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{html.escape(value)}"' for key, value in given.items())
    if tag in _VOID:
        return Html(f"<{tag}{start}>")
    inside = "".join(child if isinstance(child, Html) else html.escape(child) for child in children)
    return Html(f"<{tag}{start}>{inside}</{tag}>")


def image(data: bytes, kind: str, alt: str, **attributes: str | None) -> Html:
    """A picture inside the page.

    Args:
        data: of the file.
        kind: "png" or "jpeg".
        alt: what it shows, in words.
        attributes: see `element`.
    """
    return element("img", src=data_address(data, kind), alt=alt, **attributes)


def data_address(data: bytes, kind: str) -> str:
    """An address that is a picture itself.

    Args:
        data: of the file.
        kind: "png" or "jpeg".
    """
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> Html:
    """A table in a box of its own, in which it scrolls if it is larger than the page.

    Args:
        heads: of the columns.
        rows: cells, markup or text.
        names: number of columns with names, at the left; the others hold numbers.
    """
    kinds = [None if column < names else "number" for column in range(len(heads))]
    head = [element("th", cell, scope="col", class_=kind) for cell, kind in zip(heads, kinds, strict=True)]
    lines = [
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    body = element("table", element("thead", element("tr", *head)), element("tbody", *lines))
    return element("div", body, class_="box", tabindex="0")


def section(title: str, *children: str, note: str | None = None) -> Html:
    """A part of the page under its heading.

    Args:
        title: the heading.
        children: see `element`.
        note: a sentence or two below the heading.
    """
    notes = [] if note is None else [element("p", note, class_="note")]
    return element("section", element("h2", title), *notes, *children)


def page(title: str, facts: Sequence[str], *sections: Html) -> str:
    """A whole HTML document.

    Args:
        title: heading and title of the window.
        facts: short phrases below the heading.
        sections: the content.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    lead = element("header", element("h1", title), element("p", *(element("span", fact) for fact in facts)))
    return f"<!DOCTYPE html>\n{element('html', head, element('body', element('main', lead, *sections)), lang='en')}\n"


_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f6f8; --line: #dfe2e7; --ink: #1b1f24; --muted: #5c6570;
  --accent: #2f6fb5; --good: #1a7f45; --bad: #c62f2f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --panel: #1d2126; --line: #333942; --ink: #e6e9ed; --muted: #9aa4b0;
    --accent: #6ba6e6; --good: #5cc98a; --bad: #f07070;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1200px; margin: 0 auto; padding: 40px 24px 64px; }
header { border-bottom: 1px solid var(--line); padding-bottom: 20px; }
h1 { margin: 0 0 6px; font-size: 28px; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 19px; line-height: 1.3; font-weight: 650; }
header p { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 0; color: var(--muted); overflow-wrap: anywhere; }
section { margin-top: 44px; }
.note { margin: 0; color: var(--muted); max-width: 90ch; }
section > :nth-child(2):not(.note), section > .note + * { margin-top: 16px; }
.beside { display: flex; flex-wrap: wrap; gap: 0 48px; }
.beside section { max-width: 100%; }
.box {
  overflow: auto; max-height: 800px; width: fit-content; max-width: 100%;
  border: 1px solid var(--line); border-radius: 8px;
}
.wide { overflow-x: auto; max-width: 100%; }
.wide > * { display: block; }
.wide > .drawing { margin-left: -16px; }
.wide img { border-radius: 8px; }
.whole img { max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--panel); font-size: 13px; font-weight: 600; color: var(--muted); }
.number { text-align: right; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.means { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 12px; margin-bottom: 0; }
.means div { background: var(--panel); border-radius: 8px; padding: 12px 16px; }
.means dt { color: var(--muted); font-size: 13px; }
.means dd { margin: 0; font-size: 24px; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.means div:first-child dd { color: var(--accent); }
.swatch {
  display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / 50%);
}
.bars { list-style: none; padding: 0; margin-bottom: 0; columns: 2 420px; column-gap: 48px; }
.bars.many { columns: 3 320px; column-gap: 36px; font-size: 13px; }
.bars li {
  display: grid; grid-template-columns: 12px minmax(0, 11em) minmax(40px, 1fr) 3.4em 4.2em; gap: 10px;
  align-items: center; break-inside: avoid; padding: 3px 0; font-variant-numeric: tabular-nums;
}
.bars.many li { grid-template-columns: 12px minmax(0, 9em) minmax(40px, 1fr) 3.4em 4.2em; }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.track { position: relative; height: 10px; border-radius: 3px; background: var(--panel); }
.bar { display: block; height: 100%; border-radius: 3px; background: var(--accent); }
.track::after {
  content: ""; position: absolute; left: var(--mean); top: -3px; bottom: -3px; border-left: 1px dashed var(--muted);
}
.bars .value, .bars .share { text-align: right; white-space: nowrap; }
.bars .share { color: var(--muted); font-size: 0.87em; }
.confusions { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 24px; align-items: start; }
.matrix { overflow-x: auto; min-width: 0; max-width: 100%; }
.matrix svg { display: block; font-size: 11px; }
.matrix text { fill: var(--ink); }
.matrix .share { font-size: 10px; pointer-events: none; }
.matrix text.reversed { fill: var(--paper); }
.matrix .frame { fill: none; stroke: var(--line); }
.matrix .hit { fill: var(--accent); }
.matrix .miss { fill: var(--bad); }
.matrix image { image-rendering: pixelated; }
.matrix .row { fill: transparent; }
.matrix .row:hover { fill: var(--ink); fill-opacity: 0.15; }
.example { margin: 24px 0 0; }
.example > figcaption { display: flex; flex-wrap: wrap; gap: 0 16px; margin-bottom: 6px; overflow-wrap: anywhere; }
.example strong { font-weight: 600; font-variant-numeric: tabular-nums; }
.panels { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px; }
.panels figure { margin: 0; }
.panels figcaption { color: var(--muted); font-size: 13px; }
.panels img { display: block; width: 100%; border-radius: 4px; }
@media (max-width: 600px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 23px; }
  .bars, .bars.many { columns: 1; font-size: 14px; }
  .bars li, .bars.many li { grid-template-columns: 12px minmax(0, 7.5em) minmax(30px, 1fr) 3em 3.8em; gap: 8px; }
  .panels { grid-template-columns: minmax(0, 1fr); gap: 8px; }
  th, td { padding: 5px 10px; }
}
@media print {
  .box { max-height: none; }
}
"""
