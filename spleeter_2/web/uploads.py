"""Receive a song: the body of a request, raw or multipart, streamed into a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from spleeter_2.audio.reader import SUFFIXES
from spleeter_2.files import WriteError, writing

from .responses import Refusal

IDLE = 30.0  # seconds without a byte after which an upload ends
LONGEST_NAME = 200  # characters
RAW = "application/octet-stream"
MULTIPART = "multipart/form-data"


class Upload:
    """An uploaded file.

    Attributes:
        path: of the file.
        name: of the user's file, without folders.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @property
    def suffix(self) -> str:
        """Suffix of the name, if it is one of audio."""
        suffix = Path(self.name).suffix.lower()
        return suffix if suffix in SUFFIXES else ""


@contextlib.asynccontextmanager
async def receive(request: Request, folder: Path, most_bytes: int) -> AsyncIterator[Upload]:
    """Write the file of a request into ``folder``; it is removed if it is still there at the end.

    The first file of a multipart body is taken. The name of a raw body is the parameter ``name``.

    Raises:
        Refusal: 400, 408, 413, 507: no file, no bytes, a body that is too slow, too large, or does
            not fit the disk.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", RAW))
    is_multipart = kind.decode("latin-1") == MULTIPART
    if is_multipart and b"boundary" not in parameters:
        raise Refusal(400, "the multipart body has no boundary: send it with curl -F or FormData")
    place = folder / secrets.token_hex(8)
    with _folder_of_one_upload(place):
        files: list[File] = []
        parser = FormParser(
            MULTIPART if is_multipart else RAW,
            lambda field: None,
            files.append,
            boundary=parameters.get(b"boundary"),
            config={
                "UPLOAD_DIR": str(place),
                "UPLOAD_DELETE_TMP": False,
                "MAX_MEMORY_FILE_SIZE": 0,
                "MAX_FIELDS": 16,
                "MAX_FIELD_SIZE": 1 << 16,
            },
        )
        try:
            await _feed(request, parser, most_bytes)
            if files:
                await run_in_threadpool(files[0].flush_to_disk)
        finally:
            for file in files:
                file.close()
        if not files or not files[0].size:
            raise Refusal(400, "the upload holds no file, or an empty one: send a song")
        name = request.query_params.get("name") or (files[0].file_name or b"song").decode(
            "utf-8", "replace"
        )
        yield Upload(Path(os.fsdecode(files[0].actual_file_name)), clean_name(name))


def clean_name(name: str) -> str:
    """The last part of a path, in one line and not too long."""
    name = "".join(c if c.isprintable() else " " for c in name.replace("\\", "/").split("/")[-1])
    stem, suffix = os.path.splitext(name.strip())
    return (stem[: LONGEST_NAME - len(suffix[:10])] + suffix[:10]) or "song"


async def _feed(request: Request, parser: FormParser, most_bytes: int) -> None:
    """Send the body of a request to a parser."""
    nb_bytes = 0
    chunks = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(chunks.__anext__(), IDLE)
        except StopAsyncIteration:
            break
        except TimeoutError:  # two classes before Python 3.11
            raise Refusal(
                408, f"the upload paused for {IDLE:.0f} s: send it again", {"Connection": "close"}
            ) from None
        except ClientDisconnect:
            raise Refusal(400, "the client has gone") from None
        nb_bytes += len(chunk)
        if nb_bytes > most_bytes:
            raise too_large(most_bytes)
        await _write(parser, chunk)
    try:
        await run_in_threadpool(parser.finalize)
    except FormParserError as error:
        raise Refusal(400, f"the body is not multipart/form-data: {error}") from error


async def _write(parser: FormParser, chunk: bytes) -> None:
    try:
        with writing("the upload"):
            await run_in_threadpool(parser.write, chunk)
    except FormParserError as error:
        raise Refusal(400, f"the body is not multipart/form-data: {error}") from error
    except WriteError as error:
        raise Refusal(507, str(error)) from error


def too_large(most_bytes: int) -> Refusal:
    """The refusal of an upload of too many bytes."""
    return Refusal(
        413,
        f"the file is larger than {most_bytes / 1e6:.0f} MB, which is the most that is allowed: "
        "start the server with a greater --max-size",
        {"Connection": "close"},
    )


@contextlib.contextmanager
def _folder_of_one_upload(place: Path) -> Iterator[None]:
    """A folder for the parser's files, which are named by it."""
    with writing(place):
        place.mkdir(mode=0o700)
    try:
        yield
    finally:
        for path in place.iterdir():
            path.unlink(missing_ok=True)
        place.rmdir()
