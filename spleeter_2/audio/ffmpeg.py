"""Run ffmpeg and collect its messages.

The system's ffmpeg is preferred, then the binary of the Python package imageio-ffmpeg. ffprobe is
not needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading

import ffmpeg

from spleeter_2.errors import SeparationError

STDIO = "-"  # standard input or output, in place of a path
# ffmpeg exits with 0 after some failed writes, so its messages are searched as well
WRITE_ERRORS = re.compile(
    r"No space left|File too large|Broken pipe|Disk quota|Input/output error|I/O"
)


def ffmpeg_command() -> str:
    """Path of ffmpeg.

    Raises:
        SeparationError: neither the system nor imageio-ffmpeg has one.
    """
    system = shutil.which("ffmpeg")
    if system:
        return system
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise SeparationError(
            "there is no ffmpeg: install it (apt-get install ffmpeg) or the Python package "
            "imageio-ffmpeg"
        ) from error


class Ffmpeg:
    """A running ffmpeg process; a thread collects its messages."""

    def __init__(self, stream, **pipes) -> None:
        stream = stream.global_args("-hide_banner", "-nostats", "-loglevel", "info")
        self.process = subprocess.Popen(
            ffmpeg.compile(stream, cmd=ffmpeg_command(), overwrite_output=True),
            stderr=subprocess.PIPE,
            # Ctrl-C must interrupt only Python, which then closes the pipe and so ends ffmpeg
            start_new_session=True,
            **pipes,
        )
        self.messages: list[str] = []
        self._input_described = threading.Event()
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def _collect(self) -> None:
        for line in self.process.stderr:
            if len(self.messages) < 1000:  # a damaged file may cause any number of messages
                self.messages.append(line.decode("utf-8", "replace").rstrip())
            else:
                self.messages[-1] = line.decode("utf-8", "replace").rstrip()
            if line.startswith(b"Output #"):
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
        """Last informative message of ffmpeg, or its exit status if there are none."""
        lines = [line.strip() for line in self.messages if line.strip()]
        lines = [line for line in lines if line != "Conversion failed!"] or lines
        return lines[-1] if lines else f"ffmpeg exited with status {self.process.returncode}"


def file_url(path: str | os.PathLike) -> str:
    """A path as a ``file:`` URL, which ffmpeg cannot mistake for an option or another protocol.

    Raises:
        SeparationError: a name that is not valid UTF-8.
    """
    path = os.path.abspath(path)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise SeparationError(f"the name {path!a} is not valid UTF-8: rename it first") from error
    return f"file:{path}"
