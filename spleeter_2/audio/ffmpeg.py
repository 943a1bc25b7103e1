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
MOST_MESSAGES = 20_000  # kept lines; a damaged file may cause any number
# ffmpeg exits with 0 after some failed writes, so its messages are searched as well
WRITE_ERRORS = re.compile(
    r"No space left|File too large|Broken pipe|Disk quota|Input/output error|I/O"
)

# a summary of sizes, the first frame's time (see reader.py), and the closing line
UNINFORMATIVE = ("Conversion failed!", "video:", "size=", "[out#", "0, ", "#")
NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)

_broken: dict[str, str] = {}  # programs that are not usable, and why


def ffmpeg_command() -> str:
    """Path of ffmpeg; the first that has not turned out to be broken.

    Raises:
        SeparationError: neither the system nor imageio-ffmpeg has a working one.
    """
    for program in _candidates():
        if program not in _broken:
            return program
    if _broken:
        path, words = next(iter(_broken.items()))
        raise SeparationError(
            f"{path} is broken ({words}): install it again (apt-get install --reinstall ffmpeg) or "
            "install the Python package imageio-ffmpeg"
        )
    raise SeparationError(
        "there is no ffmpeg: install it (apt-get install ffmpeg) or the Python package "
        "imageio-ffmpeg"
    )


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
        if words := _fault(path):
            raise SeparationError(
                f"{user} needs {name}, but {path} is broken ({words}): install it again "
                "(apt-get install --reinstall ffmpeg)"
            )


@functools.lru_cache
def _fault(path: str) -> str:
    """Why a program does not print its version; empty if it does."""
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, errors="replace")
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0 and " version " in done.stdout:
        return ""
    return _end(done.returncode, done.stderr.splitlines())


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
        stream = stream.global_args("-nostats", "-loglevel", "info")
        while True:
            program = ffmpeg_command()
            words = self._start(ffmpeg.compile(stream, program, overwrite_output=True), pipes)
            if not words:
                return
            _broken[program] = words
            log.warning(f"note: {program} is broken ({words}): {ffmpeg_command()} is used")

    def _start(self, command: list[str], pipes: dict) -> str:
        """Start a program; return why it is not a working ffmpeg, or an empty string."""
        self.messages: list[str] = []
        self._has_begun = threading.Event()
        self._input_described = threading.Event()
        self._is_ffmpeg = False
        if os.name == "posix":  # in an ASCII locale Python could not encode titles
            command = [text.encode("utf-8", "surrogateescape") for text in command]
        try:
            self.process = subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                # Ctrl-C must interrupt only Python, which then closes the pipe and so ends ffmpeg
                start_new_session=True,
                **pipes,
            )
        except OSError as error:
            if error.errno in NO_PROGRAM:
                return error.strerror
            raise SeparationError(f"cannot start ffmpeg: {reason_of(error)}") from error
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()
        self._has_begun.wait()
        if self._is_ffmpeg:
            return ""
        self.kill()
        return self.last_message

    def _collect(self) -> None:
        for data in self.process.stderr:
            line = data.decode("utf-8", "replace").rstrip("\r\n")
            if line.startswith("ffmpeg version"):
                self.messages.clear()  # the dynamic linker's warnings
                self._is_ffmpeg = True
                self._has_begun.set()
            elif line.startswith("  ") and not self.messages:
                continue  # rest of the banner: versions of libraries
            elif len(self.messages) < MOST_MESSAGES:
                self.messages.append(line)
            else:
                self.messages[-1] = line
            if re.match(r"\s*Stream #\d+:\d+ -> #", line):
                self._input_described.set()
        self._has_begun.set()
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
