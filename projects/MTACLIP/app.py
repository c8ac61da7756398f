r"""Show a model pictures in the browser.

    python projects/MTACLIP/app.py --checkpoint output/cityscapes/mtaclip_R50/model_best.pth

Drop a picture on the page, choose a checkpoint among those that were named, and a view: the overlay, the segments with
what the model says of each, the heat map of masks and class texts, where prompts fire, or the confidence. Views, labels
and numbers can be saved. The page needs gradio and no network; it is on this machine alone unless --host says
otherwise, and forgets its pictures when it ends.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split

from mtaclip.demo.models import check_there, load_predictor
from mtaclip.demo.problems import run_program
from mtaclip.demo.views import PIXEL_VIEWS, Look, Viewer, read_picture
from mtaclip.visualization.page import Html, element

MINIATURE = Path("output/miniature/mtaclip_tiny/model_final.pth")
_LARGEST_FILE = "64mb"
_MOST_SESSIONS = 16  # whose last picture is kept
_MOST_MODELS = 2  # in memory
_LEAD = "Segments of a picture, and the class texts that they are closest to. Nothing leaves the machine of this page."
_SAVED = ("Save the view", "Save the labels (PNG)", "Save the numbers (JSON)")

logger = logging.getLogger("mtaclip.app")


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


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config_help = "YAML file of the models (default: the config in each checkpoint)"
    parser.add_argument("--config-file", metavar="FILE", help=config_help)
    checkpoint_help = (
        "files, or folders of published models, of which the page offers a choice "
        f"(default: {MINIATURE}, by `make demo`)"
    )
    parser.add_argument("--checkpoint", type=Path, nargs="+", metavar="PATH", help=checkpoint_help)
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if there is one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all (127.0.0.1)")
    parser.add_argument("--port", type=port_number, metavar="N", help="(default: the first free one from 7860 on)")
    options_help = "config keys and values, such as TEST.CLASSIFIER text; at the end"
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help=options_help)
    return parser


def port_number(text: str) -> int:
    """Read the number of a port; argparse reports anything else."""
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to 65535")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or ends with exit status 2 and a sentence on what is wrong."""
    return run_program(make_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Show the page until Ctrl-C or SIGTERM.

    Raises:
        ValueError, OSError: gradio is missing, or the model or the address cannot be used.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="mtaclip-app-") as folder:
            gradio = load_gradio(folder)
            check_host(args.host)
            serve(gradio, Models(args), Path(folder), args.host, args.port)
    except KeyboardInterrupt:
        logger.info("The page has ended.")


def load_gradio(folder: str) -> ModuleType:
    """Import gradio, told to send nothing and to keep its files in a folder.

    Raises:
        ValueError: it is not installed.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ValueError('the page needs gradio: pip install "mtaclip[demo]", or pip install gradio.') from error
    return gradio


def check_host(host: str) -> None:
    """Raise before anything is loaded if a host is no address.

    Raises:
        OSError: there is no such host.
    """
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise OSError(f"--host: {host!r} is no address: name one of this machine, or leave the option out.") from error


class Models:
    """The models of the page's checkpoints; the last ones that were asked for are kept.

    Attributes:
        files: the checkpoints, and folders of published models.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Load the first.

        Args:
            args: the options.

        Raises:
            FileNotFoundError: there is no such checkpoint or config.
            ValueError: they do not fit together, or the device is not there.
        """
        self.files: tuple[Path, ...] = tuple(dict.fromkeys(args.checkpoint or [MINIATURE]))
        if args.checkpoint is None and not MINIATURE.is_file():
            raise FileNotFoundError(f"there is no {MINIATURE}: `make demo` makes it, or name another by --checkpoint.")
        for file in self.files:
            check_there(file)
        self._args = args
        self._load = lru_cache(_MOST_MODELS)(self._load_anew)
        self.viewer(self.files[0])

    def viewer(self, checkpoint: Path) -> Viewer:
        """The model of one of the files.

        Raises:
            FileNotFoundError, ValueError: the file is none of them, has gone, or does not fit.
        """
        if checkpoint not in self.files:
            raise ValueError(f"{checkpoint} is none of the checkpoints of this page.")
        return self._load(checkpoint)

    def _load_anew(self, checkpoint: Path) -> Viewer:
        args = self._args
        predictor = load_predictor(checkpoint, args.config_file, args.device, args.opts)
        viewer = Viewer(predictor)
        if viewer.limitation:
            views = ", ".join(viewer.views)
            logger.info("%s: only these views: %s. The others are missing: %s", checkpoint, views, viewer.limitation)
        return viewer


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
                checkpoints = [(name, str(file)) for name, file in zip(short(models.files), models.files, strict=True)]
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


def short(files: Sequence[Path]) -> list[str]:
    """Names of files for a narrow column: with their last folder, or in full where these are not distinct."""
    names = ["/".join(file.parts[-2:]) for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _choices(views: Sequence[str]) -> list[tuple[str, str]]:
    return [(name.capitalize(), name) for name in views]


def serve(gradio: ModuleType, models: Models, folder: Path, host: str, port: int | None) -> None:
    """Serve the page until something interrupts it.

    Args:
        gradio: the library.
        models: to choose from.
        folder: for the files that can be saved.
        host: address to listen at.
        port: to listen at; None takes the first free one from 7860 on.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM.
        OSError: the port is taken, or the host is none of this machine.
    """
    page = build_page(gradio, models, folder)
    try:
        _, address, _ = page.launch(
            share=False,
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            max_file_size=_LARGEST_FILE,
            state_session_capacity=_MOST_SESSIONS,
            ssr_mode=False,
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=_STYLE,
        )
    except OSError as error:
        where = f"{host}:{'7860 to 7959' if port is None else port}"
        raise OSError(f"{where} is taken or no address of this machine: choose another --host or --port.") from error
    try:
        logger.info("The page is at %s until Ctrl-C", address)
        threading.Event().wait()
    finally:
        page.close(verbose=False)


_STYLE = """
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


if __name__ == "__main__":
    sys.exit(main())
