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
from pathlib import Path
from types import ModuleType

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split

from mtaclip.demo.models import Models
from mtaclip.demo.page import STYLE, build_page
from mtaclip.demo.problems import run_program

MINIATURE = Path("output/miniature/mtaclip_tiny/model_final.pth")
_LARGEST_FILE = "64mb"
_MOST_SESSIONS = 16  # whose last picture is kept

logger = logging.getLogger("mtaclip.app")


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
            serve(gradio, load_models(args), Path(folder), args.host, args.port)
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


def load_models(args: argparse.Namespace) -> Models:
    """The models that the options name, or the one of `make demo`.

    Raises:
        FileNotFoundError: there is no such checkpoint or config.
        ValueError: they do not fit together, or the device is not there.
    """
    if args.checkpoint is None and not MINIATURE.is_file():
        raise FileNotFoundError(f"there is no {MINIATURE}: `make demo` makes it, or name another by --checkpoint.")
    return Models(args.checkpoint or [MINIATURE], args.config_file, args.device, args.opts)


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
            css=STYLE,
        )
    except OSError as error:
        where = f"{host}:{'7860 to 7959' if port is None else port}"
        raise OSError(f"{where} is taken or no address of this machine: choose another --host or --port.") from error
    try:
        logger.info("The page is at %s until Ctrl-C", address)
        threading.Event().wait()
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
