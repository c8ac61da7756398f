"""Vector drawings that bring their own colours, for light and for dark surroundings, alone or inside a page."""

from mtaclip.visualization.font import sans_font
from mtaclip.visualization.page import Html, element

_SIZE = 13  # of text in pixels


def drawing(width: float, height: float, *parts: Html, label: str) -> Html:
    """An `svg` element that is a file of its own as well.

    Args:
        width: in pixels.
        height: in pixels.
        parts: what is drawn, the lowest first. The style has the classes `muted`, `small`, `strong`, `reversed`,
            `middle` and `end` for text, and `frame`, `like`, `unlike`, `best`, `badge`, `segment`, `point` and
            `prompt` for shapes.
        label: what it shows, in words.
    """
    size = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "width": f"{width:.0f}", "height": f"{height:.0f}"}
    ground = element("rect", class_="ground", width="100%", height="100%")
    style = element("style", Html(_STYLE))
    given = {"xmlns": "http://www.w3.org/2000/svg", "class": "drawing", "role": "img", "aria-label": label}
    return element("svg", style, ground, *parts, **given, **size)


def text(x: float, y: float, words: str, kind: str | None = None, **attributes: str | None) -> Html:
    """A line of text.

    Args:
        x: of its left end, or what the kind says.
        y: of its base line.
        words: the text.
        kind: classes of the style.
        attributes: see `element`.
    """
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind, **attributes)


def text_width(words: str) -> float:
    """Room in pixels that a line of text needs at most, whichever of the usual fonts there is."""
    return sans_font(_SIZE).getlength(words)


def tip(words: str) -> Html:
    """What is shown when the element around it is pointed at."""
    return element("title", words)


def number(value: float) -> str:
    """Two decimals with a true minus sign, which zero never has."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


_STYLE = """
.drawing {
  --paper: #ffffff; --line: #dfe2e7; --ink: #1b1f24; --muted: #5c6570; --like: #2f6fb5; --unlike: #c86400;
  font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
@media (prefers-color-scheme: dark) {
  .drawing {
    --paper: #14171b; --line: #333942; --ink: #e6e9ed; --muted: #9aa4b0; --like: #6ba6e6; --unlike: #f0a050;
  }
}
.drawing .ground { fill: var(--paper); }
.drawing text { fill: var(--ink); }
.drawing text.muted { fill: var(--muted); }
.drawing text.small { font-size: 10px; }
.drawing text.strong { font-weight: 600; }
.drawing text.reversed { fill: var(--paper); }
.drawing text.middle { text-anchor: middle; }
.drawing text.end { text-anchor: end; }
.drawing .frame { fill: none; stroke: var(--line); }
.drawing .like { fill: var(--like); }
.drawing .unlike { fill: var(--unlike); }
.drawing .best { fill: none; stroke: var(--ink); stroke-width: 2; }
.drawing .point { fill-opacity: 0.7; stroke: var(--ink); stroke-opacity: 0.5; stroke-width: 0.7; }
.drawing .prompt rect { stroke: var(--ink); stroke-width: 1.2; }
.drawing .idle { stroke: var(--ink); stroke-opacity: 0.5; stroke-width: 0.7; }
.drawing .prompt text { font-size: 9px; font-weight: 600; text-anchor: middle; fill: #000000; }
.drawing .prompt text.long { font-size: 7px; }
.drawing .prompt text.light { fill: #ffffff; }
.drawing .badge circle { fill: #1b1f24; stroke: #ffffff; }
.drawing .badge text { fill: #ffffff; font-size: 11px; font-weight: 600; text-anchor: middle; }
.drawing .badge { pointer-events: none; }
.drawing .segment { stroke: #ffffff; stroke-width: 1.2; fill-opacity: 0.4; }
.drawing .segment:hover { fill-opacity: 0.75; }
"""
