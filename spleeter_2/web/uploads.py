"""Receive a song: the body of a request, raw or multipart, streamed into a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from spleeter_2.audio.reader import SUFFIXES
from spleeter_2.files import writing

from .library import Library
from .responses import Refusal

IDLE = 30.0  # seconds without a byte after which an upload ends
LONGEST_NAME = 200  # characters
MOST_HEADERS = 1 << 14  # bytes of the headers of a part
DISK_STEP = 1 << 24  # bytes after which the free disk is checked again


class Upload:
    """The file of a body, raw or the first of multipart; all else of the body is dropped.

    Args:
        file: open for writing.
        boundary: of a multipart body, or None.

    Attributes:
        name: that the body gives.
        is_whole: the file has ended.

    Raises:
        FormParserError: a boundary that is too long.
    """

    def __init__(self, file: BinaryIO, boundary: bytes | None) -> None:
        self._file = file
        self.path = Path(file.name)
        self.name, self.is_whole = "", boundary is None
        self._is_in_file = boundary is None
        self._field, self._header, self._nb_bytes = b"", b"", 0
        self._parser: MultipartParser | None = None
        if boundary is not None:
            names = (
                "part_begin", "header_field", "header_value", "header_end", "part_data", "part_end",
            )  # fmt: skip
            callbacks = {f"on_{name}": getattr(self, f"_{name}") for name in names}
            self._parser = MultipartParser(boundary, callbacks)

    def write(self, data: bytes) -> None:
        """Take a part of the body.

        Raises:
            FormParserError: it is not multipart.
            WriteError: the disk is full.
        """
        if self._parser is None:
            self._part_data(data, 0, len(data))
        else:
            self._parser.write(data)

    def _part_begin(self) -> None:
        self._nb_bytes = 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        self._count(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count(end - start)

    def _count(self, nb_bytes: int) -> None:
        self._nb_bytes += nb_bytes
        if self._nb_bytes > MOST_HEADERS:
            raise FormParserError("the headers of a part are too long")

    def _header_end(self) -> None:
        field, header, self._field, self._header = self._field, self._header, b"", b""
        if field.lower() == b"content-disposition" and not self.is_whole:
            name = parse_options_header(header)[1].get(b"filename")
            if name is not None:
                self._is_in_file, self.name = True, name.decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            with writing("the upload"):
                self._file.write(data[start:end])

    def _part_end(self) -> None:
        if self._is_in_file:
            self._is_in_file, self.is_whole = False, True


@contextlib.asynccontextmanager
async def receive(request: Request, library: Library, most_bytes: int) -> AsyncIterator[Upload]:
    """Write the file of a request into the library's folder; it is removed at the end.

    Raises:
        Refusal: 400, 408, 413, 415: no file, no bytes, a body that is too slow, too large or
            compressed.
        NoRoom, WriteError: it does not fit the disk.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "the body is compressed: send the file as it is")
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    boundary = parameters.get(b"boundary") if kind == b"multipart/form-data" else None
    if kind == b"multipart/form-data" and not boundary:
        raise Refusal(400, "the multipart body has no boundary: send it with curl -F or FormData")
    with library.scratch() as place:
        path = place / "song"
        try:
            with writing("the upload"), open(path, "wb") as file:
                upload = Upload(file, boundary)
                await _feed(request, upload, library, most_bytes)
        except FormParserError as error:
            raise Refusal(400, f"the body is not multipart/form-data: {error}") from error
        if not path.stat().st_size:
            raise Refusal(400, "the upload holds no file, or an empty one: send a song")
        if not upload.is_whole:
            raise Refusal(400, "the multipart body is cut short: send it again")
        upload.name = clean_name(request.query_params.get("name") or upload.name)
        yield upload


def clean_name(name: str) -> str:
    """The last part of a path, in one line and not too long."""
    name = "".join(c if c.isprintable() else " " for c in name.replace("\\", "/").split("/")[-1])
    stem, suffix = os.path.splitext(name.strip())
    return (stem[: LONGEST_NAME - len(suffix[:10])] + suffix[:10]) or "song"


def audio_suffix(name: str) -> str:
    """Suffix of a name, if it is one of audio."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


async def _feed(request: Request, upload: Upload, library: Library, most_bytes: int) -> None:
    """Send the body of a request to an upload."""
    nb_bytes = checked = 0
    chunks = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(chunks.__anext__(), IDLE)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:  # noqa: UP041  another class before Python 3.11
            raise Refusal(
                408, f"the upload paused for {IDLE:.0f} s: send it again", {"Connection": "close"}
            ) from None
        except ClientDisconnect:
            raise Refusal(400, "the client has gone") from None
        nb_bytes += len(chunk)
        if nb_bytes > most_bytes:
            raise too_large(most_bytes)
        if nb_bytes > checked + DISK_STEP:
            checked = nb_bytes
            library.check_disk(0)
        await run_in_threadpool(upload.write, chunk)


def too_large(most_bytes: int) -> Refusal:
    """The refusal of an upload of too many bytes."""
    return Refusal(
        413,
        f"the file is larger than {most_bytes / 1e6:.0f} MB, which is the most that is allowed: "
        "start the server with a greater --max-size",
        {"Connection": "close"},
    )
