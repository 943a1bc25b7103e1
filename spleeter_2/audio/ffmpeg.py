"""Run ffmpeg and collect its messages.

The system's ffmpeg is preferred, then the binary of the Python package imageio-ffmpeg. ffprobe is
not needed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence

import ffmpeg

from spleeter_2.errors import SeparationError
from spleeter_2.files import reason_of

log = logging.getLogger(__name__)

STDIO = "-"  # standard input or output, in place of a path
# kept lines after the input's description; a damaged file may cause any number
MOST_MESSAGES = 20_000
# ffmpeg exits with 0 after some failed writes, so its messages are searched as well
WRITE_ERRORS = re.compile(
    r"No space left|File too large|Broken pipe|Disk quota|Input/output error|I/O"
)

# a summary of sizes, the first frame's time (see reader.py), and the closing line
UNINFORMATIVE = ("Conversion failed!", "video:", "size=", "[out#", "0, ", "#")
NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)

# a little work that shows that a program is not broken: arguments, and what its output begins with
SAMPLES = bytes(range(256))
WORK = {
    "ffmpeg": ("-v error -f s16le -i pipe:0 -f s16le pipe:1", SAMPLES),
    "ffprobe": ("-v error -f s16le -i pipe:0 -show_format", b"[FORMAT]"),
}
PATIENCE = 60  # seconds that this work may take


def ffmpeg_command() -> str:
    """Path of ffmpeg; the first that is not broken.

    Raises:
        SeparationError: neither the system nor imageio-ffmpeg has a working one.
    """
    broken: dict[str, str] = {}
    for program in _candidates():
        words = _fault(program, "ffmpeg")
        if not words:
            if broken:
                _note_replacement(*broken.popitem(), program)
            return program
        broken[program] = words
    if broken:
        path, words = next(iter(broken.items()))
        raise SeparationError(
            f"{path} is broken ({words}): install it again (apt-get install --reinstall ffmpeg) or "
            "install the Python package imageio-ffmpeg"
        )
    raise SeparationError(
        "there is no ffmpeg: install it (apt-get install ffmpeg) or the Python package "
        "imageio-ffmpeg"
    )


@functools.lru_cache  # once
def _note_replacement(broken: str, words: str, program: str) -> None:
    log.warning(f"note: {broken} is broken ({words}): {program} is used")


def _candidates() -> Iterator[str]:
    system = shutil.which("ffmpeg")
    if system:
        yield system
    # RuntimeError: it has no binary for this platform
    with contextlib.suppress(ImportError, RuntimeError, OSError):
        import imageio_ffmpeg

        yield imageio_ffmpeg.get_ffmpeg_exe()


def require_system_programs(user: str) -> None:
    """Check that the system's own ffmpeg and ffprobe run, which code of others calls.

    Args:
        user: what needs them, for the message.

    Raises:
        SeparationError: one of them is missing or broken.
    """
    for name in ("ffmpeg", "ffprobe"):
        path = shutil.which(name)
        if path is None:
            raise SeparationError(f"{user} needs {name}: install it (apt-get install ffmpeg)")
        if words := _fault(path, name):
            raise SeparationError(
                f"{user} needs {name}, but {path} is broken ({words}): install it again "
                "(apt-get install --reinstall ffmpeg)"
            )


@functools.lru_cache
def _fault(path: str, name: str) -> str:
    """Why a program fails at a little work; empty if it succeeds.

    Args:
        name: key of ``WORK``.

    Raises:
        SeparationError: no process can be started.
    """
    arguments, output = WORK[name]
    try:
        done = subprocess.run(
            [path, *arguments.split()],
            input=SAMPLES,
            capture_output=True,
            timeout=PATIENCE,
            start_new_session=True,  # Ctrl-C would look like a broken program
        )
    except subprocess.TimeoutExpired:
        return f"it does nothing for {PATIENCE} s"
    except OSError as error:
        if error.errno in NO_PROGRAM:
            return error.strerror
        raise SeparationError(f"cannot start {name}: {reason_of(error)}") from error
    if done.returncode == 0 and done.stdout.startswith(output):
        return ""
    return _end(done.returncode, done.stderr.decode("utf-8", "replace").splitlines())


def _end(status: int | None, lines: Sequence[str]) -> str:
    """Why ffmpeg ended: its signal, its last informative message, or its exit status."""
    if status is not None and status < 0:
        return f"ffmpeg was ended by signal {-status} ({signal.strsignal(-status)})"
    lines = [line.strip() for line in lines if line.strip()]
    lines = [line for line in lines if not line.startswith(UNINFORMATIVE)] or lines
    return lines[-1] if lines else f"ffmpeg exited with status {status}"


class Ffmpeg:
    """A running ffmpeg process; a thread collects its messages.

    Args:
        stream: of ffmpeg-python.
        pipes: arguments of ``subprocess.Popen``.

    Raises:
        SeparationError: no ffmpeg works, or no process can be started.
    """

    def __init__(self, stream, **pipes) -> None:
        stream = stream.global_args("-hide_banner", "-nostats", "-loglevel", "info")
        command = ffmpeg.compile(stream, ffmpeg_command(), overwrite_output=True)
        if os.name == "posix":  # in an ASCII locale Python could not encode titles
            command = [text.encode("utf-8", "surrogateescape") for text in command]
        self.messages: list[str] = []
        self._input_described = threading.Event()
        try:
            self.process = subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                # Ctrl-C must interrupt only Python, which then closes the pipe and so ends ffmpeg
                start_new_session=True,
                **pipes,
            )
        except OSError as error:
            raise SeparationError(f"cannot start ffmpeg: {reason_of(error)}") from error
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def _collect(self) -> None:
        nb_later = 0
        for data in self.process.stderr:
            line = data.decode("utf-8", "replace").rstrip("\r\n")
            if nb_later < MOST_MESSAGES:
                self.messages.append(line)
                nb_later += self._input_described.is_set()
            else:
                self.messages[-1] = line
            if re.match(r"\s*Stream #\d+:\d+ -> #", line):
                self._input_described.set()
        self._input_described.set()

    def input_messages(self) -> list[str]:
        """Lines that ffmpeg printed about the input, and possibly later ones."""
        self._input_described.wait(timeout=5)
        return self.messages

    def wait(self) -> int:
        """Wait until ffmpeg has ended and its messages are complete; return the exit status."""
        status = self.process.wait()
        self._collector.join()
        return status

    def kill(self) -> None:
        """Kill the process, if it is running, and close its pipes."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.wait()
        self.process.stderr.close()

    @property
    def last_message(self) -> str:
        """Why ffmpeg ended: its signal, its last informative message, or its exit status."""
        return _end(self.process.returncode, self.messages)


def file_url(path: str | os.PathLike) -> str:
    """A path as a ``file:`` URL, which ffmpeg cannot mistake for an option or another protocol.

    Raises:
        SeparationError: a name that is not valid UTF-8.
    """
    path = os.path.abspath(path)
    try:
        os.fsencode(path).decode()
    except UnicodeError as error:
        raise SeparationError(f"the name {path!a} is not valid UTF-8: rename it first") from error
    return f"file:{path}"
