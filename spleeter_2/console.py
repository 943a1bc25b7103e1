"""Options, logging and error handling of all commands.

An error is printed as one sentence on standard error, with a traceback only if ``--verbose`` is
given. Exit status: 0 success, 1 error, 2 wrong usage, 130 or 143 interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import typer
from click.exceptions import Abort, ClickException

from .errors import SeparationError

DEFAULT_MODEL = "spleeter_2:grouped"

ModelOption = typer.Option(
    DEFAULT_MODEL,
    "--params_filename",
    "-p",
    metavar="MODEL",
    help="spleeter_2:NAME (see 'models'), spleeter:NAME, a JSON configuration, or a folder "
    "with config.json.",
)

AdapterOption = typer.Option(
    None,
    "--adapter",
    "-a",
    help="Audio adapter of upstream's models. [default: Spleeter's ffmpeg adapter]",
)

MwfOption = typer.Option(
    False, "--mwf", show_default=False, help="Refine by multichannel Wiener filtering."
)

VerboseOption = typer.Option(
    False, "--verbose", show_default=False, help="Show tracebacks and TensorFlow's messages."
)


class _StderrHandler(logging.Handler):
    """Prints records on standard error; drops a record that cannot be printed."""

    def emit(self, record: logging.LogRecord) -> None:
        # with sys.stderr None, print would use standard output, where a stem may be written
        if sys.stderr is not None:
            with contextlib.suppress(OSError):  # a log file on a full disk is no reason to stop
                print(self.format(record), file=sys.stderr, flush=True)


def configure_logging() -> None:
    """Print the messages of the loggers ``spleeter_2`` and ``evaluation`` on standard error."""
    for name, form in (("spleeter_2", "spleeter: %(message)s"), ("evaluation", "%(message)s")):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter(form))
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Interrupted(BaseException):
    """SIGINT or SIGTERM; unlike KeyboardInterrupt, click does not catch it."""


def _interrupt(number: int, _frame: object) -> None:
    raise _Interrupted(128 + number)


def _program_name() -> str:
    """Name of the program on the command line, for its help."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def run(application: typer.Typer, name: str) -> NoReturn:
    """Run an application with the command line's arguments and exit.

    Args:
        application: its commands return None or an exit status.
        name: program name in front of error messages.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    configure_logging()
    verbose = "--verbose" in sys.argv
    try:
        # click's standalone mode would turn Ctrl-C into status 1
        status = application(prog_name=_program_name(), standalone_mode=False)
        sys.stdout.flush()
    except ClickException as error:
        error.show()
        status = error.exit_code
    except SeparationError as error:
        if verbose:
            traceback.print_exc()
        print(f"{name}: error: {error}", file=sys.stderr)
        status = 1
    except _Interrupted as interrupted:
        print(f"{name}: interrupted, no incomplete files are left", file=sys.stderr)
        (status,) = interrupted.args
    except BrokenPipeError:
        # standard output is closed: redirect it, or Python's flush at exit raises again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Abort:
        status = 1
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(
            f"{name}: internal error ({type(error).__name__}: {error}); please report it with the "
            "output of --verbose",
            file=sys.stderr,
        )
        status = 1
    sys.exit(status if isinstance(status, int) else 0)
