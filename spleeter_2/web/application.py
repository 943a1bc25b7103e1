"""The HTTP interface: routes and what they answer (docs/web.md)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import mimetypes
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spleeter_2.audio.codecs import BITS, CODECS, Encoding
from spleeter_2.config.loading import embedded_models, load_configuration
from spleeter_2.config.schema import Configuration
from spleeter_2.console import reason
from spleeter_2.errors import SeparationError
from spleeter_2.files import WriteError
from spleeter_2.separation.separator import MOST_SHIFTS, Separator
from spleeter_2.weights.resolve import is_there

from . import STATIC
from .downloads import mix_file, parse_gains, safe_name, song_title, zip_file
from .guard import Guard
from .library import Library, NoRoom
from .pictures import spectrogram
from .responses import Refusal, Stream, file_response, stem_response
from .songs import Gone, Options, Song, peaks_of, read_samples
from .uploads import audio_suffix, receive, too_large

log = logging.getLogger(__name__)

UPLOADS = 8  # that are received at a time; others wait
ENCODERS = 2  # downloads and pictures that are made at a time
PAUSE = 0.2  # seconds between looks at what has changed
HEARTBEAT = 15.0  # seconds after which an event stream sends a comment
MOST_BINS = 4000
MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "m4a": "audio/mp4",
    "wma": "audio/x-ms-wma",
}


class Service:
    """What the routes do.

    Args:
        library: the songs.
        models: descriptors that may be chosen; the first is the default.
        most_bytes: of an upload.
    """

    def __init__(self, library: Library, models: Sequence[str], most_bytes: int) -> None:
        self.library = library
        self._models = models
        self._most_bytes = most_bytes
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._encoders = asyncio.Semaphore(ENCODERS)
        self._page = {path.name: path.read_bytes() for path in STATIC.iterdir()}

    def routes(self) -> list[Route]:
        """All routes."""
        song = "/api/songs/{song}"
        return [
            Route("/", self.page),
            Route("/static/{name}", self.page),
            Route("/api/models", self.models),
            Route("/api/events", self.events),
            Route("/api/songs", self.songs),
            Route("/api/songs", self.add, methods=["POST"]),
            Route(song, self.song),
            Route(song, self.remove, methods=["DELETE"]),
            Route(f"{song}/events", self.events),
            Route(f"{song}/peaks", self.peaks),
            Route(f"{song}/mix", self.mix),
            Route(f"{song}/stems.zip", self.archive),
            Route(f"{song}/stems/{{stem}}", self.stem),
            Route(f"{song}/stems/{{stem}}/spectrogram", self.spectrogram),
        ]

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "index.html")
        if name not in self._page:
            raise HTTPException(404)
        return Response(self._page[name], media_type=mimetypes.guess_type(name)[0])

    def models(self, request: Request) -> Response:
        """Models, codecs and limits that a client may choose from."""
        return JSONResponse(
            {
                "models": [describe_model(name) for name in self._models],
                "codecs": {name: list(BITS.get(name, ())) for name in CODECS},
                "max_size": self._most_bytes,
            }
        )

    def songs(self, request: Request) -> Response:
        """All songs."""
        return JSONResponse([song.describe() for song in self.library.songs()])

    def song(self, request: Request) -> Response:
        """One song."""
        return JSONResponse(self._song(request).describe())

    async def add(self, request: Request) -> Response:
        """Receive a song and put it into the queue."""
        options = await run_in_threadpool(self._options, request)
        announced = int(request.headers.get("content-length") or 0)
        if announced > self._most_bytes:
            raise too_large(self._most_bytes)
        self.library.check_room(announced)
        async with self._uploads:
            self.library.check_room(announced)
            async with receive(request, self.library, self._most_bytes) as upload:
                suffix = audio_suffix(upload.name)
                song = await run_in_threadpool(
                    self.library.add, upload.path, upload.name, suffix, options
                )
        return JSONResponse(song.describe(), 201, {"Location": f"/api/songs/{song.id}"})

    def remove(self, request: Request) -> Response:
        """Cancel and remove a song."""
        self.library.remove(self._song(request))
        return Response(status_code=204)

    def peaks(self, request: Request) -> Response:
        """Peaks of the waveforms so far."""
        song = self._song(request)
        nb_bins = whole(request, "bins", 1000, 1, MOST_BINS)
        return JSONResponse(peaks_of(song, self.library.folder(song), nb_bins))

    async def stem(self, request: Request) -> Response:
        """A stem: as it grows, or encoded as asked for."""
        song = self._song(request)
        index = self._stem_index(song, request)
        if "codec" not in request.query_params:
            return await run_in_threadpool(
                stem_response, self.library, song, index, request.headers.get("range")
            )
        name = song.instruments[index]
        return await self._mixed(request, song, {name: 1.0}, safe_name(name))

    async def mix(self, request: Request) -> Response:
        """The sum of the stems with gains."""
        song = self._done(request)
        gains = parse_gains(song, request.query_params.get("gains"))
        return await self._mixed(request, song, gains, "mix")

    async def archive(self, request: Request) -> Response:
        """All stems in a ZIP archive."""
        song = self._done(request)
        encoding = parse_encoding(request)
        make = functools.partial(zip_file, song, self.library.folder(song), encoding)
        return await self._made(
            request, song, make, f"{song_title(song.name)}.zip", "application/zip"
        )

    async def spectrogram(self, request: Request) -> Response:
        """A picture of a stem."""
        song = self._done(request)
        path = self.library.folder(song).samples(self._stem_index(song, request))

        def draw() -> bytes:
            samples = read_samples(path, song.nb_channels, song.nb_samples)
            return spectrogram(samples, song.sample_rate)

        return Response(await self._in_turn(request, song, draw), media_type="image/png")

    async def events(self, request: Request) -> Response:
        """Server-sent events: songs that have changed, and the identifiers of all."""
        only = self._song(request).id if "song" in request.path_params else None
        return Stream(self._changes(only), media_type="text/event-stream")

    async def _changes(self, only: str | None) -> AsyncIterator[str]:
        seen, silence = -1, 0.0
        while not self.library.is_closed:
            if (version := self.library.version) == seen:
                await asyncio.sleep(PAUSE)
                silence += PAUSE
                if silence >= HEARTBEAT:
                    silence = 0.0
                    yield ": still here\n\n"
                continue
            songs = [song for song in self.library.songs() if only in (None, song.id)]
            changed = [song.describe() for song in songs if song.version > seen]
            event = {"songs": changed, "ids": [song.id for song in songs]}
            seen, silence = version, 0.0
            yield f"data: {json.dumps(event)}\n\n"
            if only is not None and all(song.is_over for song in songs):
                return

    async def _mixed(
        self, request: Request, song: Song, gains: dict[str, float], label: str
    ) -> Response:
        """Stems times their gains, in one file."""
        encoding = parse_encoding(request)
        make = functools.partial(mix_file, song, self.library.folder(song), gains, encoding)
        file = f"{song_title(song.name)} - {label}.{encoding.codec}"
        return await self._made(request, song, make, file, MEDIA_TYPES[encoding.codec])

    async def _made(
        self, request: Request, song: Song, make: Callable[[Path], None], name: str, kind: str
    ) -> Response:
        """Make a file of a song that is done, and send it."""
        self._check_done(song)
        self.library.check_disk(0)

        def respond() -> Response:
            with contextlib.ExitStack() as stack:
                path = stack.enter_context(self.library.scratch()) / f"download{Path(name).suffix}"
                make(path)
                return file_response(path, name, kind, stack.pop_all())

        return await self._in_turn(request, song, respond)

    async def _in_turn(self, request: Request, song: Song, work: Callable[[], Any]) -> Any:
        """Do work on a song's stems in a thread; few of it at a time, so that others are left."""
        async with self._encoders:
            if await request.is_disconnected():
                raise Refusal(400, "the client has gone")
            try:
                return await run_in_threadpool(work)
            except SeparationError as error:
                if not self.library.holds(song):
                    raise Refusal(404, f"{song.name} is removed") from None
                if isinstance(error, Gone):
                    raise
                self.library.check_disk(0)  # ffmpeg's own error does not become a WriteError
                raise

    def _song(self, request: Request) -> Song:
        song = self.library.get(request.path_params["song"])
        if song is None:
            raise Refusal(404, "there is no such song: GET /api/songs lists all")
        return song

    def _done(self, request: Request) -> Song:
        song = self._song(request)
        self._check_done(song)
        return song

    def _check_done(self, song: Song) -> None:
        if song.state == "failed":
            raise Refusal(409, f"{song.name} has failed: {song.error}")
        if song.state != "done":
            raise Refusal(409, f"{song.name} is {song.state}: wait until it is done")

    def _stem_index(self, song: Song, request: Request) -> int:
        name = request.path_params["stem"]
        if name not in song.instruments:
            name = name.removesuffix(".wav")
        if song.state == "failed":
            self._check_done(song)
        if not song.nb_samples:
            raise Refusal(409, f"{song.name} has no samples yet: wait until it is in work")
        if name not in song.instruments:
            stems = ", ".join(song.instruments)
            raise Refusal(404, f"{song.name} has no stem {name}: there are {stems}")
        return song.instruments.index(name)

    def _options(self, request: Request) -> Options:
        """Options of a separation, checked."""
        query = request.query_params
        model = query.get("model") or self._models[0]
        if model not in self._models:
            raise SeparationError(f"there is no model {model}: GET /api/models lists all")
        stems = query.get("stems")
        options = Options(
            model,
            tuple(name.strip() for name in stems.split(",")) if stems else None,
            number(request, "overlap"),
            whole(request, "shifts", 1, 1, MOST_SHIFTS),
        )
        Separator(options.model, options.stems, options.overlap, shifts=options.shifts)
        return options


def describe_model(name: str) -> dict[str, Any]:
    """What a client needs to choose a model."""
    configuration = load_configuration(name)
    return {
        "name": name,
        "description": configuration.description,
        "instruments": list(configuration.instruments),
        "is_here": is_there(configuration),
    }


def can_be_chosen(configuration: Configuration) -> bool:
    """True for a model that has weights, or whose weights can be fetched."""
    return configuration.model_dir is not None or is_there(configuration)


def choices(default: str) -> list[str]:
    """The default model and all embedded ones that have weights."""
    names = [name for name in embedded_models() if can_be_chosen(load_configuration(name))]
    return [default, *(name for name in names if name != default)]


def parse_encoding(request: Request) -> Encoding:
    """``codec``, ``bits`` and ``bitrate`` of a request.

    Raises:
        SeparationError: an unknown one.
    """
    query = request.query_params
    codec = query.get("codec", "wav")
    return Encoding(codec, query.get("bits", "16"), query.get("bitrate", "128k"))


def number(request: Request, name: str) -> float | None:
    """A parameter that is a number, or None without it.

    Raises:
        SeparationError: it is none.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise SeparationError(f"{name} must be a number, not {text}") from None


def whole(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A parameter that is a whole number.

    Raises:
        SeparationError: it is none, or beyond the bounds.
    """
    value = number(request, name)
    if value is None:
        return default
    if not least <= value <= most or value % 1:
        raise SeparationError(
            f"{name} must be a whole number between {least} and {most}, not {value:g}"
        )
    return int(value)


def application(
    library: Library, models: Sequence[str], most_bytes: int, host: str, token: str | None
) -> Guard:
    """The ASGI application.

    Args:
        library, models, most_bytes: see ``Service``.
        host, token: see ``Guard``.
    """
    service = Service(library, models, most_bytes)

    def refuse(status: int, error: Exception) -> Response:
        return Refusal(status, library.without_paths(str(error))).response()

    def refuse_address(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path}: {error.detail}"
        return Refusal(error.status_code, sentence, error.headers).response()

    def report(request: Request, error: Exception) -> Response:
        sentence = reason(error) or f"internal error ({type(error).__name__}: {error})"
        if not isinstance(error, ConnectionError):  # to a client of a song that was removed
            log.error(f"error: {request.method} {request.url.path}: {sentence}")
        return refuse(500, SeparationError(sentence))

    handlers = {
        Refusal: lambda request, error: error.response(),
        NoRoom: lambda request, error: refuse(507, error),
        WriteError: lambda request, error: refuse(507, error),
        Gone: lambda request, error: refuse(410, error),
        SeparationError: lambda request, error: refuse(400, error),
        HTTPException: refuse_address,
        Exception: report,
    }
    return Guard(Starlette(routes=service.routes(), exception_handlers=handlers), host, token)
