"""The page of `app.py`: what is dropped on it, what it shows, where it puts both. Gradio is given to `build_page`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mtaclip.demo.models import Models
from mtaclip.demo.views import PIXEL_VIEWS, Look, read_picture
from mtaclip.visualization.page import Html, element

_LEAD = "Segments of a picture, and the class texts that they are closest to. Nothing leaves the machine of this page."
_SAVED = ("Save the view", "Save the labels (PNG)", "Save the numbers (JSON)")


@dataclass(frozen=True, eq=False)
class Opened:
    """A file that was dropped on the page.

    Attributes:
        look: what the model says; None where there is no image.
        stem: beginning of the names of the files to save.
        message: what the user should know; empty if nothing.
        views: what can be drawn of it.
    """

    look: Look | None = None
    stem: str = ""
    message: str = ""
    views: tuple[str, ...] = PIXEL_VIEWS


@dataclass(frozen=True)
class Shown:
    """What the page shows of it.

    Attributes:
        message: what the user should know.
        markup: the view.
        files: to save: the view, the labels, the numbers; none where there is no image.
    """

    message: Html
    markup: Html
    files: tuple[Path, ...] = ()


def open_picture(models: Models, checkpoint: Path, file: str | Path | None) -> Opened:
    """Let a model look at a file; whatever is wrong with either becomes the message.

    Args:
        models: those of the page.
        checkpoint: which of them.
        file: what the user chose; None if it was taken away.
    """
    try:
        viewer = models.viewer(checkpoint)
    except (OSError, ValueError) as error:
        return Opened(message=str(error))
    if file is None:
        return Opened(views=viewer.views)
    path = Path(file)
    try:
        picture, notice = read_picture(path)
        return Opened(viewer.look(picture), path.stem, notice or "", viewer.views)
    except ValueError as error:
        return Opened(message=str(error), views=viewer.views)


def show(opened: Opened, view: str, names: str, folder: Path) -> Shown:
    """Draw a view of a picture, and write the files that can be saved.

    Args:
        opened: the picture.
        view: one of the viewer's views.
        names: class names to highlight, separated by commas; unknown ones become the message, and nothing is
            highlighted.
        folder: where files go, each time in a new folder below.
    """
    look, messages = opened.look, [opened.message]
    if look is None:
        return Shown(_message(messages), Html(""))
    try:
        highlighted = look.palette.find(names)
    except ValueError as error:
        highlighted = None
        messages.append(f"Classes to highlight: {error}")
    try:
        drawn = look.view(view, highlighted)
    except ValueError as error:
        return Shown(_message([*messages, str(error)]), Html(""))
    place = Path(tempfile.mkdtemp(dir=folder))
    contents = {
        f"{opened.stem}_{view.replace(' ', '')}{drawn.suffix}": drawn.data,
        f"{opened.stem}_ids.png": look.label_file(),
        f"{opened.stem}.json": look.numbers_file(),
    }
    for name, data in contents.items():
        (place / name).write_bytes(data)
    return Shown(_message(messages), drawn.markup, tuple(place / name for name in contents))


def _message(parts: Sequence[str]) -> Html:
    return Html("".join(element("p", f"{part[:1].upper()}{part[1:]}") for part in parts if part))


def build_page(gradio: ModuleType, models: Models, folder: Path) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        gradio: the library.
        models: to choose from.
        folder: for the files that can be saved.
    """
    first = models.viewer(models.files[0])
    with gradio.Blocks(title="MTA-CLIP", analytics_enabled=False, fill_width=True) as page:
        opened = gradio.State(Opened())
        gradio.HTML(Html(element("h1", "MTA-CLIP") + element("p", _LEAD)), elem_classes="lead")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                file = gradio.File(label="Picture", height=150)
                checkpoints = [(name, str(file)) for name, file in zip(_short(models.files), models.files, strict=True)]
                model = gradio.Dropdown(checkpoints, label="Checkpoint", visible=len(checkpoints) > 1)
                view = gradio.Radio(_choices(first.views), value=first.views[0], label="View")
                example = ", ".join(first.palette.names[:2])
                names = gradio.Textbox(label="Classes to highlight", placeholder=example, submit_btn="Highlight")
            with gradio.Column(scale=4, min_width=320):
                message = gradio.HTML(elem_classes="message")
                markup = gradio.HTML(elem_classes="view")
                with gradio.Row():
                    buttons = [gradio.DownloadButton(label, interactive=False, size="sm") for label in _SAVED]

        def look(path: str | None, checkpoint: str, name: str) -> tuple[Opened, Any]:
            current = open_picture(models, Path(checkpoint), path)
            name = name if name in current.views else current.views[0]
            return current, gradio.Radio(_choices(current.views), value=name)

        def update(current: Opened, name: str, highlight: str) -> list[Any]:
            shown = show(current, name, highlight, folder)
            files = [str(file) for file in shown.files] or [None] * len(buttons)
            saved = [gradio.DownloadButton(value=value, interactive=value is not None) for value in files]
            return [shown.message, shown.markup, *saved]

        settings, outputs = [opened, view, names], [message, markup, *buttons]
        limits = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        looked = gradio.on(
            [file.change, model.change], look, [file, model, view], [opened, view], show_progress_on=markup, **limits
        )
        looked.then(update, settings, outputs, show_progress_on=markup, **limits)
        gradio.on([view.input, names.submit], update, settings, outputs, show_progress_on=markup, **limits)
    return page


def _short(files: Sequence[Path]) -> list[str]:
    """Names of files for a narrow column: with their last folder, or in full where these are not distinct."""
    names = ["/".join(file.parts[-2:]) for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _choices(views: Sequence[str]) -> list[tuple[str, str]]:
    return [(name.capitalize(), name) for name in views]


STYLE = """
.lead h1, .view h2 { margin: 0; font-weight: 650; }
.lead p, .view .note { margin: 0; opacity: 0.75; max-width: 90ch; }
.message p { margin: 0; padding: 8px 12px; border-radius: 8px; background: var(--background-fill-secondary); }
.view img { max-width: 100%; min-width: min(100%, 640px); border-radius: 8px; }
.view .wide, .view .box { overflow-x: auto; max-width: 100%; margin-top: 12px; }
.view section + section { margin-top: 24px; }
.view .wide > .drawing { margin-left: -16px; }
.view .wide > .drawing:has(.segment) { max-width: max(100%, 480px); height: auto; }
.view table { width: auto; margin: 0; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.view table, .view tr { border: 0 !important; }
.view td, .view th {
  padding: 4px 14px; border: 0; border-bottom: 1px solid var(--border-color-primary);
  text-align: left; white-space: nowrap;
}
.view .number { text-align: right; }
.view .legend { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; margin: 12px 0 0; padding: 0; }
.view .legend li { margin: 0; }
.view .swatch { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border-radius: 3px; }
"""
"""How the page looks, CSS."""
