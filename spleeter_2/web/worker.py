"""The thread that separates the songs of a library, one after the other."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.stft import import_fft
from spleeter_2.console import reason
from spleeter_2.errors import SeparationError
from spleeter_2.separation.background import meanwhile
from spleeter_2.separation.separator import Separator

from .library import Library
from .songs import SAMPLE, Options, Song, SongFolder, StemWriter

log = logging.getLogger(__name__)


class _Cancelled(Exception):
    """The song was removed, or the server ends."""


class Worker:
    """Separates queued songs until the library is closed.

    The network of the last song is kept for the next one.

    Args:
        library: whose songs are separated.
        device: see ``Separator``.
    """

    def __init__(self, library: Library, device: str | None = None) -> None:
        self._library, self._device = library, device
        self._options: Options | None = None
        self._separator: Separator | None = None
        self._thread = threading.Thread(target=self._work, name="separation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the thread, which ends after the window in work once the library is closed."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        while (song := self._library.next_song()) is not None:
            try:
                self._library.update(song, state="running", nb_samples=0)
                self._separate(song)
                self._library.update(song, state="done", finished=time.time())
                self._check(song, is_whole=True)
                self._library.folder(song).remove_source()
                log.info(f"separated {song.name}")
            except _Cancelled:
                self._drop(song)
            except Exception as error:  # one bad song does not stop the others
                self._fail(song, error)
            self._library.tidy()

    def _separate(self, song: Song) -> None:
        folder = self._library.folder(song)
        separator = self._load(song.options)
        self._check(song)
        source = folder.path / song.source
        with contextlib.ExitStack() as stack:
            with meanwhile(separator.load) as check_loaded:  # while ffmpeg starts
                reader = AudioReader(source, separator.stem_rate(None))
                stack.enter_context(reader)
                import_fft()
            check_loaded()
            writers = self._begin(song, separator, reader, folder, stack)
            estimates = stack.enter_context(contextlib.closing(separator.estimates(reader)))
            for block in estimates:
                for name, writer in writers.items():
                    writer.write(block[name])
                self._check(song)
                self._library.check_disk(0)
                nb_samples = song.nb_samples + len(block[separator.stems[0]])
                self._library.update(song, nb_samples=nb_samples)
            for writer in writers.values():
                writer.finish()
        if not folder.holds_stems(song):
            raise SeparationError(f"{song.name} was removed from the disk during its separation")
        notes = [self._for_clients(note, song) for note in reader.notes]
        seconds = song.nb_samples / song.sample_rate
        self._library.update(song, notes=notes, seconds=seconds)

    def _begin(
        self,
        song: Song,
        separator: Separator,
        reader: AudioReader,
        folder: SongFolder,
        stack: contextlib.ExitStack,
    ) -> dict[str, StemWriter]:
        """Publish the song's format, and open a writer for every stem."""
        self._check(song)
        nb_channels = separator.nb_channels(reader)
        if reader.seconds is not None:
            frame = SAMPLE.itemsize * nb_channels * len(separator.stems)
            self._library.check_disk(round(reader.seconds * reader.sample_rate) * frame)
        writers = {
            name: stack.enter_context(StemWriter(folder, index, reader.sample_rate))
            for index, name in enumerate(separator.stems)
        }
        self._library.update(
            song,
            instruments=list(separator.stems),
            sample_rate=reader.sample_rate,
            nb_channels=nb_channels,
            seconds=reader.seconds,
            tags=reader.tags,
        )
        return writers

    def _load(self, options: Options) -> Separator:
        if self._separator is None or self._options != options:
            self._separator = None  # before the next network takes memory
            self._separator = Separator(
                options.model, options.stems, options.overlap, False, self._device, options.shifts
            )
            self._options = options
        return self._separator

    def _check(self, song: Song, is_whole: bool = False) -> None:
        """Raise _Cancelled for a removed song, or for an incomplete one when the server ends."""
        if not self._library.holds(song) or (self._library.is_closed and not is_whole):
            raise _Cancelled

    def _for_clients(self, text: str, song: Song) -> str:
        """A message in which the song has its own name in place of that of the uploaded file."""
        source = str(self._library.folder(song).path / song.source)
        text = text.replace(f"file:{source}", song.name).replace(source, song.name)
        return self._library.without_paths(text)

    def _drop(self, song: Song) -> None:
        """Remove the files of a cancelled song; the next server begins it again if it was ours."""
        folder = self._library.folder(song)
        if self._library.holds(song):
            folder.remove_stems()
        else:
            folder.remove()

    def _fail(self, song: Song, error: Exception) -> None:
        folder = self._library.folder(song)
        if not self._library.holds(song):
            folder.remove()
            return
        if isinstance(error, SeparationError):
            sentence = str(error)
        else:
            sentence = reason(error) or f"internal error ({type(error).__name__}: {error})"
            log.debug("a song failed", exc_info=error)
        sentence = self._for_clients(sentence, song)
        name = "" if song.name in sentence else f"{song.name}: "
        log.error(f"error: {name}{sentence}")
        folder.remove_stems()
        folder.remove_source()
        with contextlib.suppress(SeparationError):  # the disk may be full
            self._library.update(song, state="failed", error=sentence, finished=time.time())
        if not self._library.holds(song):  # removed meanwhile
            folder.remove()
