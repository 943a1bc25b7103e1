"""Options, logging and error handling of all commands.

An error is printed as one sentence on standard error, with a traceback only if ``--verbose`` is
given. Exit status: 0 success, 1 error, 2 wrong usage, 128 + N ended by signal N: 129 (closed
terminal), 130 (Ctrl-C), 131 or 143. If the reader of standard output ends first, as ``head`` does,
the status is 1 without a message. A closed standard stream is as good as ``/dev/null``.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer

from .errors import OutputClosed, SeparationError
from .files import discard_drafts, reason_of, writing

if TYPE_CHECKING:
    from tqdm import tqdm

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
    metavar="MODULE.CLASS",
    help="Class that loads and saves audio in place of ffmpeg, as in Spleeter.",
)

DeviceOption = typer.Option(None, "--device", help="cpu, gpu or gpu:N. [default: cpu]")

OverlapOption = typer.Option(
    None,
    "--overlap",
    help="Overlap of the windows, 0 to 0.5 (RoFormers: 0.98, MDX-Net: 0.99). [default: the "
    "model's]",
)

ShiftsOption = typer.Option(
    1, "--shifts", metavar="N", help="Mean of N passes that start at different frames."
)

MwfOption = typer.Option(
    False, "--mwf", show_default=False, help="Refine by multichannel Wiener filtering."
)

VerboseOption = typer.Option(
    False, "--verbose", show_default=False, help="Show tracebacks and TensorFlow's messages."
)


# signals that end a program; a terminal sends the first three to all processes in it
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM")
    if hasattr(signal, name)  # Windows lacks two
)
# messages of exceptions that a limit of the system causes, in imports and threads
LEAST_MEMORY = 400_000_000  # bytes of address space
LEAST_FILES = 32  # open files; with fewer, ONNX Runtime prints warnings when it is imported
_NO_MEMORY = re.compile(
    r"failed to map segment|cannot allocate memory|can't start new thread|ResourceExhausted"
    "|bad_alloc|failed to allocate memory|resource temporarily unavailable"  # of ONNX Runtime
    "|returned NULL without setting an exception",
    re.I,
)
_NO_FILES = re.compile(r"too many open files", re.I)

# ClickException, of the package click or of the copy of it that newer versions of typer have
_ClickException = typer.BadParameter.__base__.__base__

_closed: set[int] = set()  # descriptors of standard streams that were closed at the start


def signal_handlers() -> dict[int, Callable]:
    """The handlers of ``SIGNALS`` that are written in Python, which run between two bytecodes."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in handlers.items() if callable(handler)}


def is_closed(descriptor: int) -> bool:
    """True if standard input (0), output (1) or error (2) was closed when the program began."""
    return descriptor in _closed


def print_message(text: str) -> None:
    """Print on standard error; no-op if that cannot be written, which is no reason to stop."""
    # with sys.stderr None, print would use standard output, where a stem may be written
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def progress_bar(
    name: str,
    unit: str,
    total: float | None = None,
    unit_scale: bool = False,
    is_shown: bool = True,
) -> tqdm:
    """A progress bar on standard error, on a terminal only.

    Args:
        unit: of the progress.
        unit_scale: print thousands and millions of the unit.
    """
    from tqdm import tqdm

    return tqdm(
        desc=name,
        total=total,
        unit=unit,
        unit_scale=unit_scale,
        disable=None if sys.stderr and is_shown else True,
        file=sys.stderr,
    )


class _StderrHandler(logging.Handler):
    """Prints records on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print_message(self.format(record))


def configure_logging() -> None:
    """Print the messages of the loggers ``spleeter_2`` and ``evaluation`` on standard error."""
    for name, form in (("spleeter_2", "spleeter: %(message)s"), ("evaluation", "%(message)s")):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter(form))
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Output:
    """Standard output, whose errors name it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with _writing_output():
            return self.stream.write(text)

    def flush(self) -> None:
        with _writing_output():
            self.stream.flush()


@contextlib.contextmanager
def _writing_output() -> Iterator[None]:
    with writing("standard output"):
        try:
            yield
        except BrokenPipeError as error:
            raise OutputClosed("cannot write standard output: its reader has ended") from error


class _Interrupted(BaseException):
    """A signal of ``SIGNALS``; unlike KeyboardInterrupt, no library catches it."""

    latest: weakref.ref[_Interrupted] | None = None

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
        _Interrupted.latest = weakref.ref(self)


class _Interrupts:
    """Raises ``_Interrupted`` on a signal, and ignores further ones while that is handled.

    Attributes:
        status: exit status after a signal, or None.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        for number in SIGNALS:
            if number != getattr(signal, "SIGHUP", None) or not self._has_nohup():
                signal.signal(number, self._interrupt)

    @staticmethod
    def _has_nohup() -> bool:
        return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def _interrupt(self, number: int, _frame: object) -> None:
        latest = _Interrupted.latest
        if latest is None or latest() is None:  # an exception lives until it is handled
            self.status = 128 + number
            raise _Interrupted(self.status)

    def ignore(self) -> None:
        """Ignore the signals from now on."""
        self._set(lambda *_: None)  # not SIG_IGN, which a new process would inherit

    def restore_defaults(self) -> None:
        """Let the signals end the process, should its exit take long."""
        self._set(signal.SIG_DFL)

    def _set(self, handler: object) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def reason(error: BaseException) -> str | None:
    """The limit or fault of the system that caused an exception, or None if there is none."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return "not enough memory, or too many processes: free some, or raise the limit (ulimit)"
    if _NO_FILES.search(text):
        return "too many open files: raise the limit (ulimit -n)"
    if isinstance(error, FileNotFoundError) and error.filename is None:
        try:
            os.getcwd()
        except OSError:
            return "the current folder does not exist any more: change to another one"
    if isinstance(error, OSError):
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{reason_of(error)}"
    return None


def run(application: typer.Typer, name: str) -> NoReturn:
    """Run an application with the command line's arguments and exit.

    Args:
        application: its commands return None or an exit status.
        name: program name in front of error messages.
    """
    _use_utf8()
    _open_standard_streams()
    configure_logging()
    interrupts = _Interrupts()
    output = sys.stdout
    sys.stdout = _Output(output)
    try:
        _check_limits()
        status, message = _call(application), None
        interrupts.ignore()
    except BaseException as error:
        interrupts.ignore()
        if "--verbose" in sys.argv and isinstance(error, Exception):
            print_message(traceback.format_exc().rstrip())
        status, message = _describe_end(error, interrupts.status)
    sys.stdout = output
    discard_drafts()
    if message is not None:
        print_message(f"{name}: {message}")
    _flush_or_drop(sys.stdout)
    _flush_or_drop(sys.stderr)
    interrupts.restore_defaults()
    if interrupts.status is not None and threading.active_count() > 1:
        # a thread that is importing TensorFlow aborts the process when Python ends it
        atexit._run_exitfuncs()
        os._exit(status)
    sys.exit(status)


def _check_limits() -> None:
    """Refuse limits that imports do not bear: OpenBLAS waits for memory without end.

    Raises:
        SeparationError: the limit of the address space is below ``LEAST_MEMORY``, or that of open
            files below ``LEAST_FILES``.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
        raise SeparationError(
            f"not enough memory: the address space is limited to {limit / 1e6:.0f} MB (ulimit -v), "
            f"raise the limit to {LEAST_MEMORY / 1e6:.0f} MB or more"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < LEAST_FILES:
        raise SeparationError(
            f"too many open files: only {limit} are allowed (ulimit -n), raise the limit to "
            f"{LEAST_FILES} or more"
        )


def _call(application: typer.Typer) -> int:
    """Parse the arguments and run a command; return the exit status."""
    command = typer.main.get_command(application)
    for each in (command, *getattr(command, "commands", {}).values()):
        each.rich_markup_mode = None  # newer versions of typer would draw boxes around help
    # not its ``main``, which turns Ctrl-C into status 1 and refuses ASCII locales
    try:
        with command.make_context(_program_name(), sys.argv[1:]) as context:
            status = command.invoke(context)
    except typer.Exit as end:
        status = end.exit_code
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _describe_end(error: BaseException, interrupted: int | None) -> tuple[int, str | None]:
    """Exit status and message after an exception.

    Args:
        interrupted: status after a signal, which may have caused any exception in an import.
    """
    if interrupted is not None:
        return interrupted, "interrupted: no incomplete output is left"
    if isinstance(error, _ClickException):
        with contextlib.suppress(OSError, ValueError):
            error.show()
        return error.exit_code, None
    if isinstance(error, OutputClosed):
        return 1, None
    if isinstance(error, SeparationError):
        return 1, f"error: {error}"
    if (sentence := reason(error)) is not None:
        return 1, f"error: {sentence}"
    return 1, (
        f"internal error ({type(error).__name__}: {error}); please report it with the output of "
        "--verbose"
    )


def _flush_or_drop(stream: TextIO) -> None:
    """Flush a stream, or direct it to /dev/null: Python flushes it again when it exits."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _program_name() -> str:
    """Name of the program on the command line, for its help."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode if file names would be decoded as ASCII.

    In that locale a name such as "Lied für dich.mp3" is no valid text in messages and files.
    """
    if sys.getfilesystemencoding() == "ascii" and "utf8" not in sys._xoptions and sys.executable:
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _open_standard_streams() -> None:
    """Open closed standard streams as /dev/null, and print what a stream cannot encode as escapes.

    Otherwise the next file has the number of a standard stream, and messages end up in it.
    """
    _closed.clear()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(number)
            # the lowest free number is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if name == "stdin":
            continue
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
