"""HTTP responses of the server: errors, files, and stems that grow while they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from spleeter_2.audio.riff import float_header

from .downloads import content_disposition
from .library import Library
from .songs import SAMPLE, Song

CHUNK = 1 << 18  # bytes
PAUSE = 0.1  # seconds between looks at a stem that grows
MOST_WORDS = 500  # characters of an error, which may cite a request
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Refusal(Exception):
    """An error with its HTTP status.

    Args:
        status: of HTTP.
        sentence: for the user.
        headers: of the response.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        sentence = "".join(c if c.isprintable() else " " for c in sentence)
        if len(sentence) > MOST_WORDS:
            sentence = f"{sentence[:MOST_WORDS]}..."
        super().__init__(sentence)
        self.status, self.headers = status, headers

    def response(self) -> JSONResponse:
        """The response, ``{"error": sentence}``."""
        return JSONResponse({"error": str(self)}, self.status, self.headers)


class Stream(StreamingResponse):
    """A response from files that are closed at its end, or when its client has gone.

    Args:
        content: pieces of the body; not iterated for HEAD.
        resources: is closed in every case.
        options: of ``StreamingResponse``.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes | str],
        resources: contextlib.ExitStack | None = None,
        **options: Any,
    ) -> None:
        super().__init__(content, **options)
        self._resources = resources or contextlib.ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # not in the iterator: that of a client who goes before the first piece never begins
        with self._resources:
            if scope["method"] == "HEAD":
                start = {"type": "http.response.start", "status": self.status_code}
                await send({**start, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
            else:
                await super().__call__(scope, receive, send)


def file_response(path: Path, name: str, kind: str, resources: contextlib.ExitStack) -> Response:
    """Send a file that was made for this request.

    Args:
        name: of the file for the user.
        kind: media type.
        resources: is closed after the last byte, or when the client has gone.

    Raises:
        OSError: the file cannot be read.
    """
    headers = {
        "Content-Length": str(path.stat().st_size),
        "Content-Disposition": content_disposition(name),
    }
    file = resources.enter_context(open(path, "rb"))

    async def content() -> AsyncIterator[bytes]:
        while data := await run_in_threadpool(file.read, CHUNK):
            yield data

    return Stream(content(), resources, headers=headers, media_type=kind)


def stem_response(library: Library, song: Song, index: int, asked: str | None) -> Response:
    """Send a stem as a WAV file of 32-bit floats, also while it grows.

    A whole stem that grows is sent to its end at the pace of the separation. A range of it ends at
    the last sample so far, and has no total length.

    Args:
        index: of the stem.
        asked: the header Range, or None.

    Raises:
        Refusal: 416, nothing of the range is there; 404, the song is removed.
    """
    stem = _GrowingFile(library, song, index)
    headers = {"Accept-Ranges": "bytes"}
    match = _RANGE.fullmatch(asked or "")
    if match is None or not any(match.groups()):  # others may be ignored: RFC 9110, 14.2
        if stem.total is not None:
            headers["Content-Length"] = str(stem.total)
        return stem.response(0, None, headers)
    first, last = stem.bounds(*match.groups())
    total = "*" if stem.total is None else stem.total
    headers["Content-Range"] = f"bytes {first}-{last}/{total}"
    headers["Content-Length"] = str(last - first + 1)
    return stem.response(first, last + 1, headers)


class _GrowingFile:
    """A WAV file of which only the samples are on the disk."""

    def __init__(self, library: Library, song: Song, index: int) -> None:
        self._library, self._song = library, song
        self._path = library.folder(song).samples(index)
        is_done = song.state == "done"
        nb_samples = song.nb_samples if is_done else None
        self._header = float_header(song.sample_rate, song.nb_channels, nb_samples)
        self.total = self._available() if is_done else None

    def _available(self) -> int:
        frame = SAMPLE.itemsize * self._song.nb_channels
        return len(self._header) + frame * self._song.nb_samples

    def bounds(self, first: str, last: str) -> tuple[int, int]:
        """First and last byte of a range, "a-b", "a-" or "-n"."""
        available = self._available()
        # Python refuses to read thousands of digits; 19 are beyond every file
        start, end = (int(digits.lstrip("0")[:19] or 0) for digits in (first, last))
        if first:
            end = min(end if last else available - 1, available - 1)
        else:  # the last n bytes
            start, end = max(available - end, 0), available - 1
            if self.total is None:
                start = available
        if start >= available or end < start:
            raise Refusal(
                416,
                f"the range is not there: the stem has {available} bytes so far",
                {"Content-Range": f"bytes */{available}"},
            )
        return start, end

    def response(self, start: int, end: int | None, headers: dict[str, str]) -> Response:
        """Send bytes up to ``end``, or all."""
        resources = contextlib.ExitStack()
        try:
            file = resources.enter_context(open(self._path, "rb"))
        except FileNotFoundError:
            raise Refusal(404, f"{self._song.name} is removed") from None
        return Stream(
            self._read(file, start, end),
            resources,
            status_code=200 if end is None else 206,
            headers=headers,
            media_type="audio/wav",
        )

    async def _read(self, file: BinaryIO, start: int, end: int | None) -> AsyncIterator[bytes]:
        """Yield bytes up to ``end``, or to the end of the song, waiting for it to grow."""
        position = start
        while True:
            is_over = self._song.is_over or not self._library.holds(self._song)
            limit = self._available() if end is None else end
            while position < limit:
                data = await run_in_threadpool(
                    self._part, file, position, min(limit - position, CHUNK)
                )
                if not data:  # the server would wait for the bytes that it has announced
                    raise ConnectionError("the stem was removed")
                position += len(data)
                yield data
            if end is not None or self._song.state == "done":
                return
            if is_over or self._library.is_closed:
                # without the last chunk, the client sees that the file is not whole
                raise ConnectionError("the separation was cancelled")
            await asyncio.sleep(PAUSE)

    def _part(self, file: BinaryIO, position: int, nb_bytes: int) -> bytes:
        if position < len(self._header):
            return self._header[position : position + nb_bytes]
        file.seek(position - len(self._header))
        return file.read(nb_bytes)
