"""A release of Spleeter's models on a local HTTP server, and what may go wrong with one."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import re
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = "/deezer/spleeter/releases/download/v1.4.0/"
INDEX = "checksum.json"


def model_files(nb_bytes: int = 300_000) -> dict[str, bytes]:
    """Files of a model in upstream's layout, with random bytes for the weights."""
    return {
        "checkpoint": b'model_checkpoint_path: "model"\nall_model_checkpoint_paths: "model"\n',
        "model.index": b"index",
        "model.data-00000-of-00001": random.Random(0).randbytes(nb_bytes),
        "model.meta": b"graph",
    }


def archive_of(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """A ``.tar.gz`` as ``tar -czf X.tar.gz .`` makes it, and further members without contents.

    Equal contents give equal bytes: gzip's header has no time.
    """
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        root = tarfile.TarInfo("./")
        root.type = tarfile.DIRTYPE
        tar.addfile(root)
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in more:
            tar.addfile(member)
    return gzip.compress(target.getvalue(), mtime=0)


class Release:
    """The release; a server of its own.

    Attributes:
        host: for ``GITHUB_HOST``.
        files: contents by name.
        answers: what to do in place of sending the file of a name.
        requests: names and values of ``Range``, in order.
        resumes: serve ranges.
    """

    def __init__(self, scheme: str = "http") -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[_Handler], None]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.resumes = True
        self.stopped = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.release = self
        self.host = f"{scheme}://127.0.0.1:{self.server.server_port}"

    def add(self, name: str, archive: bytes | None = None) -> None:
        """Offer a model's archive, with its sum in the index."""
        archive = archive_of(model_files()) if archive is None else archive
        index = json.loads(self.files.get(INDEX, b"{}"))
        index[name] = hashlib.sha256(archive).hexdigest()
        self.files |= {INDEX: json.dumps(index).encode(), f"{name}.tar.gz": archive}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        release = self.server.release
        name = self.path.rpartition("/")[2]
        release.requests.append((name, self.headers.get("Range")))
        with contextlib.suppress(OSError):  # the client has gone
            if name in release.answers:
                release.answers[name](self)
            elif ROOT in self.path and name in release.files:
                send(self, release.files[name])
            else:
                status(404)(self)

    def log_message(self, *_) -> None:
        pass


def send(handler: _Handler, data: bytes, until: int | None = None) -> None:
    """Send a file, or the part that is asked for; of that only bytes before ``until``."""
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(wanted[1]) if wanted and handler.server.release.resumes else 0
    if start and start >= len(data):
        status(416)(handler)
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    handler.wfile.write(data[start:until])
    handler.wfile.flush()


def cut(name: str, until: int) -> Callable[[_Handler], None]:
    """The connection ends after some bytes."""

    def answer(handler: _Handler) -> None:
        send(handler, handler.server.release.files[name], until)

    return answer


def stalled(name: str, until: int) -> Callable[[_Handler], None]:
    """Nothing comes after some bytes."""

    def answer(handler: _Handler) -> None:
        send(handler, handler.server.release.files[name], until)
        handler.server.release.stopped.wait(60)

    return answer


def slow(name: str, seconds: float, nb_blocks: int = 8) -> Callable[[_Handler], None]:
    """The file comes in blocks, each after some seconds; chunked, without its size."""

    def answer(handler: _Handler) -> None:
        data = handler.server.release.files[name]
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        step = -(-len(data) // nb_blocks)
        for start in range(0, len(data), step):
            handler.server.release.stopped.wait(seconds)
            block = data[start : start + step]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def status(code: int) -> Callable[[_Handler], None]:
    """An error page."""
    return lambda handler: handler.send_error(code)


def page(handler: _Handler) -> None:
    """A login page with status 200."""
    send(handler, b"<!DOCTYPE html><title>Log in</title>")


def text(data: bytes) -> Callable[[_Handler], None]:
    """Some bytes with status 200."""
    return lambda handler: send(handler, data)


def redirect(url: str) -> Callable[[_Handler], None]:
    """A redirect."""

    def answer(handler: _Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.end_headers()

    return answer


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Release]:
    """A running release, over TLS if there is a file with a key and a certificate."""
    release = Release("https" if certificate else "http")
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        release.server.socket = context.wrap_socket(release.server.socket, server_side=True)
    thread = threading.Thread(target=release.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield release
    finally:
        release.stopped.set()
        release.server.shutdown()
        release.server.server_close()
        thread.join()


def use(release: Release, monkeypatch, folder: Path) -> None:
    """Let this process and its children fetch from a release into a folder."""
    for name in ("GITHUB_REPOSITORY", "GITHUB_RELEASE", "MODEL_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_HOST", release.host)
    monkeypatch.setenv("MODEL_PATH", str(folder))
