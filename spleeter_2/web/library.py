"""The server's songs: a folder on disk, a queue, and what clients may see of both."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from spleeter_2.errors import SeparationError
from spleeter_2.files import lock, writing

from .songs import Options, Song, SongFolder, move

log = logging.getLogger(__name__)

IDENTIFIER = re.compile(r"[0-9a-f]{16}")
UPLOADS = "uploads"
MARK = ".songs-of-spleeter-web"  # a file in folders of servers: all else there may be removed
LEAST_FREE = 200_000_000  # bytes of the disk that are left to others


class NoRoom(SeparationError):
    """The queue or the disk is full."""


class Library:
    """Songs in a folder, which one server uses at a time; safe for threads.

    Songs of an earlier server are there again; those that it did not finish are in the queue.

    Args:
        folder: is made if it is missing.
        most_songs: songs that are kept at most.
        keep: seconds after which finished songs are removed, or None.

    Raises:
        SeparationError: another server uses the folder, it belongs to somebody else, holds other
            files, or cannot be written.
    """

    def __init__(self, folder: Path, most_songs: int, keep: float | None = None) -> None:
        # messages of ffmpeg, whose paths ``without_paths`` removes, have no links
        folder = Path(os.path.realpath(folder.parent), folder.name)
        self._folder, self._most, self._keep = folder, most_songs, keep
        self._songs: dict[str, Song] = {}
        self._version = 0
        self._changed = threading.Condition(threading.RLock())
        self.is_closed = False
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(folder)
        self._lock = lock(
            folder, f"another server uses {folder}: open its page, or name another --folder"
        )
        with writing(folder):
            (folder / MARK).touch()
            shutil.rmtree(self.uploads, ignore_errors=True)
            self.uploads.mkdir(mode=0o700)
        for path in sorted(folder.iterdir()):
            if IDENTIFIER.fullmatch(path.name):
                self._restore(SongFolder(path))
        self._songs = dict(sorted(self._songs.items(), key=lambda item: item[1].created))

    @property
    def uploads(self) -> Path:
        """Folder of files that are being uploaded."""
        return self._folder / UPLOADS

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder for the files of a request, which is removed at the end.

        Raises:
            SeparationError: it cannot be made.
        """
        place = self.uploads / secrets.token_hex(8)
        with writing(place):
            place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def without_paths(self, text: str) -> str:
        """A message without the names of files in the folder, which mean nothing to a client."""
        return re.sub(
            re.escape(str(self._folder)) + r"([/\\][^\s:,;]*)?", "the server's files", text
        )

    @property
    def version(self) -> int:
        """Number of changes so far."""
        return self._version

    def folder(self, song: Song) -> SongFolder:
        """The files of a song."""
        return SongFolder(self._folder / song.id)

    def songs(self) -> list[Song]:
        """All songs, the oldest first."""
        with self._changed:
            return list(self._songs.values())

    def get(self, identifier: str) -> Song | None:
        """A song by its identifier."""
        return self._songs.get(identifier)

    def check_room(self, nb_bytes: int = 0) -> None:
        """Check that another song is allowed.

        Args:
            nb_bytes: that will be written.

        Raises:
            NoRoom: too many songs, or too little free disk.
        """
        if len(self._songs) >= self._most:
            raise NoRoom(f"{self._most} songs are here, and no more are allowed: remove some first")
        self.check_disk(nb_bytes)

    def check_disk(self, nb_bytes: int) -> None:
        """Check that the disk has room.

        Raises:
            NoRoom: less than ``nb_bytes`` and some for others.
            WriteError: the folder is gone.
        """
        with writing(self._folder):
            free = shutil.disk_usage(self._folder).free
        if free < nb_bytes + LEAST_FREE:
            raise NoRoom(
                f"the disk has {free / 1e6:.0f} MB left, and this song needs "
                f"{(nb_bytes + LEAST_FREE) / 1e6:.0f} MB: remove some songs"
            )

    def add(self, upload: Path, name: str, suffix: str, options: Options) -> Song:
        """Put an uploaded file into the queue.

        Args:
            upload: in ``uploads``; it is moved.
            name: for people.
            suffix: of the file, ".mp3" or "".

        Raises:
            NoRoom: too many songs.
            SeparationError: the folder cannot be written.
        """
        with self._changed:
            self.check_room()
            # later than the last one, also where the clock is coarse or was put back: their order
            last = max((song.created for song in self._songs.values()), default=0.0)
            created = round(max(time.time(), last + 1e-3), 3)
            song = Song(secrets.token_hex(8), name, options, f"source{suffix}", created)
            folder = self.folder(song)
            try:
                with writing(folder.path):
                    folder.path.mkdir(mode=0o700)
                move(upload, folder.path / song.source)
                folder.save(song)
            except BaseException:
                folder.remove()
                raise
            self._songs[song.id] = song
            self._touch(song)
        return song

    def update(self, song: Song, **values: object) -> None:
        """Change a song's attributes; the state is saved when it changes."""
        with self._changed:
            is_new_state = values.get("state", song.state) != song.state
            for name, value in values.items():
                setattr(song, name, value)
            self._touch(song)  # also if it cannot be saved
            if is_new_state and self.holds(song):
                self.folder(song).save(song)

    def remove(self, song: Song) -> None:
        """Remove a song and its files; one that is being separated is cancelled.

        The worker removes the files of that one, when it has noticed.
        """
        with self._changed:
            self._songs.pop(song.id, None)
            self._touch(None)
            if song.state != "running":
                self.folder(song).remove()

    def holds(self, song: Song) -> bool:
        """False once a song is removed."""
        return self._songs.get(song.id) is song

    def next_song(self) -> Song | None:
        """Wait for a song in the queue; None when the library is closed."""
        with self._changed:
            while not self.is_closed:
                for song in self._songs.values():
                    if song.state == "queued":
                        return song
                self._changed.wait()
        return None

    def tidy(self) -> None:
        """Remove songs that were finished longer ago than is to be kept."""
        if self._keep is None:
            return
        limit = time.time() - self._keep
        for song in self.songs():
            if song.finished is not None and song.finished < limit:
                self.remove(song)

    def close(self) -> None:
        """End ``next_song`` and the lock, and remove what requests have left."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()
        if self._lock.is_locked:
            shutil.rmtree(self.uploads, ignore_errors=True)
        self._lock.release()

    def _touch(self, song: Song | None) -> None:
        self._version += 1
        if song is not None:
            song.version = self._version
        self._changed.notify_all()

    def _restore(self, folder: SongFolder) -> None:
        """A song of an earlier server; what cannot be read is removed."""
        try:
            song = folder.load()
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
            folder.remove()
            return
        if song.state == "done" and not folder.holds_stems(song):
            song.state, song.error = "failed", "its stems are gone or damaged: add the song again"
        if not song.is_over:
            if not (folder.path / song.source).is_file():
                folder.remove()
                return
            folder.remove_stems()
            song.state, song.nb_samples = "queued", 0
        self._songs[song.id] = song


def _check_folder(folder: Path) -> None:
    """Raise SeparationError for a folder of other files, or one in which others could put some."""
    status = folder.lstat()
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise SeparationError(f"{folder} belongs to another user: name another --folder")
    if stat.S_ISLNK(status.st_mode):
        raise SeparationError(f"{folder} is a link: name the folder itself with --folder")
    with writing(folder):
        names = {path.name for path in folder.iterdir()} - {".lock"}
    if names and MARK not in names:
        raise SeparationError(
            f"{folder} holds other files, such as {min(names)}: name a new or an empty --folder"
        )
