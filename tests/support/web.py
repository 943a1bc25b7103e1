"""A server in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]


class Server:
    """``spleeter web``, on a free port unless one is given.

    Args:
        arguments: of the command.
        statements: that the process executes first.
    """

    def __init__(self, *arguments: object, statements: str = "pass", port: int = 0) -> None:
        program = f"{statements}\nfrom spleeter_2.cli.main import entrypoint\nentrypoint()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "web", "--port", str(port), "--no-browser"]
            + [str(argument) for argument in arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read())
        self.address = line.split()[1]
        self.port = urlsplit(self.address).port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request with a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def open(self, data: bytes) -> socket.socket:
        """Send bytes, in which HOST stands for the server's, with a connection of its own."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(data.replace(b"HOST", f"127.0.0.1:{self.port}".encode(), 1))
        return connection

    def descriptors(self) -> int:
        """Number of open files."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s*(\d+)", status)[1])

    def send(self, body: bytes, **options: object) -> dict[str, Any]:
        """Upload a song; return its description."""
        answer = self.ask(f"/api/songs?{urlencode(options)}", "POST", body)
        assert answer.status == 201, answer.body
        assert answer.headers["Location"] == f"/api/songs/{answer.json['id']}"
        return answer.json

    def song(self, identifier: str) -> dict[str, Any]:
        return self.ask(f"/api/songs/{identifier}").json

    def wait(self, identifier: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until a song is done or has failed."""
        for song in self.watch(identifier, seconds):
            if song["state"] in ("done", "failed"):
                return song
        raise AssertionError(f"not done after {seconds} s")

    def watch(self, identifier: str, seconds: float = 60) -> Iterator[dict[str, Any]]:
        """Yield a song's descriptions."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield self.song(identifier)
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; return exit status and messages."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        _, messages = self.process.communicate(timeout=60)
        return self.process.returncode, messages

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.stop()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.05)


def floats(wav: bytes, nb_channels: int, offset: int) -> np.ndarray:
    """Samples ``[S, C]`` of a WAV file of 32-bit floats."""
    data = wav[offset:]
    return np.frombuffer(data[: len(data) // 4 * 4], "<f4").reshape(-1, nb_channels)


def multipart(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with one file."""
    boundary = "limit-of-a-part"
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def write_long(path: Path, waveform: np.ndarray, rate: int, seconds: int) -> Path:
    """A WAV file of so many seconds, the waveform repeated."""
    import soundfile

    repeats = -(-seconds * rate // len(waveform))
    soundfile.write(path, np.tile(waveform, (repeats, 1))[: seconds * rate], rate)
    return path
