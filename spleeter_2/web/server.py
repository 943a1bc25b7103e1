"""Run the server until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from spleeter_2.console import signal_handlers
from spleeter_2.errors import SeparationError
from spleeter_2.files import reason_of, temporary_folder, writing
from spleeter_2.runtime.memory import use_one_arena
from spleeter_2.separation.separator import Separator

from .application import application, choices
from .guard import is_loopback
from .library import Library
from .songs import Options
from .uploads import audio_suffix, clean_name
from .worker import Worker

log = logging.getLogger(__name__)

TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")
GRACE = 2  # seconds for requests that are being answered when a signal comes
LAST_WINDOW = 10.0  # seconds to wait for the window in work
HEAD = 20.0  # seconds for the first request of a connection
TIDYING = 600.0  # seconds between looks for songs that need not be kept
MOST_CONNECTIONS = 500


@dataclass(frozen=True)
class Settings:
    """Options of ``spleeter web``.

    Attributes:
        port: 0 takes a free one.
        folder: of the songs, or None for one in the system's folder for temporary files.
        token: needed for every request, or None.
        keep: hours, or None.
        most_songs: songs that are kept at most.
        most_megabytes: of an upload.
        opened: songs to begin with.
        verbose: print tracebacks of the libraries.

    Raises:
        SeparationError: an option out of its range.
    """

    model: str
    host: str
    port: int
    folder: Path | None
    token: str | None
    keep: float | None
    most_songs: int
    most_megabytes: int
    device: str | None
    browser: bool
    opened: tuple[str, ...]
    verbose: bool

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SeparationError(f"--port must be between 0 and 65535, not {self.port}")
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise SeparationError(
                "--token must have 8 or more letters and digits, or . _ ~ -, and nothing else"
            )
        if self.token is None and not is_loopback(self.host):
            raise SeparationError(
                f"other machines reach {self.host}: give a --token, which every request then needs"
            )
        if self.keep is not None and not self.keep > 0:
            raise SeparationError(f"--keep must be positive, not {self.keep:g}")
        for name, value in {"songs": self.most_songs, "size": self.most_megabytes}.items():
            if value < 1:
                raise SeparationError(f"--max-{name} must be 1 or more, not {value}")


def serve(settings: Settings) -> None:
    """Serve until a signal comes, which is raised again at the end.

    Raises:
        SeparationError: the port is taken, the folder cannot be used, or a song cannot be read.
    """
    use_one_arena()
    if not settings.verbose:
        _silence_libraries()
    Separator(settings.model, device=settings.device)  # raises for what every song would need
    with contextlib.closing(_listen(settings)) as listener:
        keep = None if settings.keep is None else settings.keep * 3600
        library = Library(_folder(settings.folder), settings.most_songs, keep)
        worker = Worker(library, settings.device)
        try:
            for path in settings.opened:
                _open_song(library, path, settings.model)
            number = _run(library, worker, listener, settings)
        finally:
            library.close()
            worker.join(LAST_WINDOW)
    if number is not None:
        signal.raise_signal(number)


def _silence_libraries() -> None:
    """Keep tracebacks and warnings, such as of a client that has gone, off standard error."""
    for name in ("uvicorn", "asyncio", "python_multipart"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False


def _run(
    library: Library, worker: Worker, listener: socket.socket, settings: Settings
) -> int | None:
    """Serve; return the number of the signal that has ended it."""
    models = choices(settings.model)

    async def main() -> int | None:
        app = application(
            library, models, settings.most_megabytes * 10**6, settings.host, settings.token
        )
        server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                proxy_headers=False,
                log_config=None,
                access_log=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=GRACE,
                server_header=False,
            )
        )
        worker.start()
        tidying = asyncio.create_task(_tidy(library))
        _announce(listener, settings)
        with _signals(server, library) as numbers:
            await server.serve(sockets=[listener])
        tidying.cancel()
        return numbers[0] if numbers else None

    return asyncio.run(main())


class _Protocol(H11Protocol):
    """A connection that ends if no request comes in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEAD, self._close_without_request)

    def _close_without_request(self) -> None:
        if self.cycle is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """A server that leaves signals to ``_signals``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals(server: uvicorn.Server, library: Library) -> Iterator[list[int]]:
    """End the server at a signal; yields the list of signals that came."""
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        came.append(number)
        library.is_closed = True  # ends streams of events
        server.should_exit = True

    handlers = signal_handlers()
    for number in handlers:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


async def _tidy(library: Library) -> None:
    while True:
        await asyncio.to_thread(library.tidy)
        await asyncio.sleep(TIDYING)


def _listen(settings: Settings) -> socket.socket:
    """A socket that listens at host and port.

    Raises:
        SeparationError: it cannot.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise SeparationError(
            f"cannot listen at {settings.host}, port {settings.port}: {reason_of(error)}; "
            "name another --port, or 0 for any"
        ) from error


def _announce(listener: socket.socket, settings: Settings) -> None:
    """Print the address, and open it in a browser if that is wanted."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    query = "" if settings.token is None else f"?token={settings.token}"
    address = f"http://{host}:{port}/{query}"
    print(f"open {address} in a browser; Ctrl-C ends the server", flush=True)
    if settings.browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _folder(folder: Path | None) -> Path:
    """The folder of the songs."""
    if folder is not None:
        return folder.expanduser().absolute()
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(temporary_folder("name one with --folder")) / f"spleeter-2-web-{user}"


def _open_song(library: Library, path: str, model: str) -> None:
    """Put a copy of a file of this machine into the queue.

    Raises:
        SeparationError: it cannot be read or copied.
    """
    if not os.path.isfile(path):
        raise SeparationError(f"there is no file {path}: --open takes the path of a song")
    library.check_room(os.path.getsize(path))
    with library.scratch() as place:
        copy = place / "song"
        with writing(copy):
            shutil.copyfile(path, copy)
        name = clean_name(path)
        library.add(copy, name, audio_suffix(name), Options(model))
