"""The table of results of many songs, a CSV or Parquet file that is written as the run goes.

A row is a song that was separated or that failed. The table is a journal: a row is appended and
synchronised to the disk when its song ends, and the last row of a song counts. So a kill costs the
songs in work; half a row at the end is dropped when the file is opened again.

A Parquet file cannot be appended to. While the run goes its rows are in a CSV file beside it,
``NAME.parquet.journal.csv``, and at the end of the run, also after an error or a signal, they are
added to the Parquet file. The journal of a killed process is taken up by the next run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_file, writing

from .parquet import column_names, is_parquet, read_rows, write_rows
from .remote import is_remote
from .song import Outcome, Task

COLUMNS = {
    "input": str,
    "output": str,
    "stems": str,
    "status": str,
    "seconds": float,
    "elapsed": float,
    "peak": float,
    "note": str,
    "digest": str,
    "date": str,
}
DONE = "done"
_TAIL = 1 << 20  # bytes of the end of a journal that are searched for its last whole row


class Table:
    """The table of a run, opened for its rows.

    Args:
        path: it is made, or appended to; ``.parquet`` is Parquet, any other suffix is CSV.

    Raises:
        SeparationError: it is no table of results, another run writes it, or it cannot be written.
    """

    def __init__(self, path: str) -> None:
        if is_remote(path):
            raise SeparationError(f"the table of results must be a file, not {path}")
        self._parquet = Path(path) if is_parquet(path) else None
        self._path = Path(f"{path}.journal.csv") if self._parquet else Path(path)
        if self._parquet is not None and self._parquet.exists():
            _check_columns(column_names(self._parquet), self._parquet)
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
        try:
            self._lock()
            self._repair()
        except BaseException:
            self._file.close()
            raise

    def done(self) -> dict[int, int]:
        """Keys of the songs whose last row is "done", each with the key of its digest.

        64 bits of a hash each, so that a million songs take about 0.15 GB.

        Raises:
            SeparationError: the table cannot be read.
        """
        found: dict[int, int] = {}
        for row in self._rows():
            if None in row or None in row.values():  # damaged
                continue
            key = _hash(row["input"], row["output"])
            if row["status"] == DONE:
                found[key] = _hash(row["digest"])
            else:
                found.pop(key, None)
        return found

    def append(self, task: Task, outcome: Outcome) -> None:
        """Append the row of a song.

        Raises:
            SeparationError: it cannot be written.
        """
        peak = None if outcome.peak is None else f"{outcome.peak:.6g}"
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        row = (
            *(*_place(task), ",".join(task.song.outputs), outcome.status),
            *(f"{outcome.seconds:.3f}", f"{outcome.elapsed:.3f}", peak, outcome.note),
            *(task.digest, date),
        )
        self._write([_cell(value) for value in row])

    def close(self) -> None:
        """Write the Parquet file, if that is the table.

        Raises:
            SeparationError: it cannot be written; its rows stay in the journal.
        """
        try:
            if self._parquet is not None:
                self._write_parquet()
        finally:
            self._file.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write_parquet(self) -> None:
        """Add the journal's rows to the Parquet file and remove the journal."""
        with atomic_file(self._parquet) as path:
            write_rows(path, COLUMNS, self._rows())
        with writing(self._path):
            self._path.unlink()

    def _rows(self) -> Iterator[dict[str, Any]]:
        """All rows in the order of their time, those of the Parquet file first."""
        if self._parquet is not None and self._parquet.exists():
            yield from read_rows(self._parquet)
        with self._path.open(newline="", encoding="utf-8-sig") as file:
            try:
                yield from csv.DictReader(file)
            except (csv.Error, UnicodeError) as error:
                raise SeparationError(f"cannot read the table {self._path}: {error}") from error

    def _lock(self) -> None:
        """Hold a lock of the journal until it is closed, where the file system has locks."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SeparationError(
                f"another run writes the table {self._path}: wait for its end, or name another"
            ) from error
        except OSError:
            return

    def _repair(self) -> None:
        """Write the head of a new journal; cut off half a row at the end of an old one."""
        header = ",".join(COLUMNS)
        first = _first_line(self._file)
        if (
            first
            and not first.endswith(b"\n")
            and f"{header}\r\n".startswith(first.decode("latin-1"))
        ):
            self._truncate(0)
            first = b""
        if not first:
            self._write(list(COLUMNS))
            return
        _check_columns(next(csv.reader([first.decode("utf-8-sig", "replace")])), self._path)
        end = self._file.seek(0, os.SEEK_END)
        begin = max(0, end - _TAIL)
        self._file.seek(begin)
        tail = self._file.read()
        if not tail.endswith(b"\n"):
            self._truncate(begin + tail.rfind(b"\n") + 1)

    def _truncate(self, size: int) -> None:
        with writing(self._path):
            self._file.truncate(size)

    def _write(self, cells: list[str]) -> None:
        """Append a line and synchronise it to the disk; after an error half of it is removed."""
        line = io.StringIO()
        csv.writer(line).writerow(cells)
        data = line.getvalue().encode()
        with writing(self._path):
            before = self._file.seek(0, os.SEEK_END)
            try:
                while data:  # a disk that is nearly full takes a part
                    data = data[self._file.write(data) :]
                os.fsync(self._file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(before)
                raise


def is_done(task: Task, done: dict[int, int]) -> bool:
    """True if the table has a song as done with the same digest; see ``Table.done``."""
    return done.get(_hash(*_place(task))) == _hash(task.digest)


def _place(task: Task) -> tuple[str, str]:
    """The columns ``input`` and ``output`` of a song, the latter with ``{instrument}`` in it."""
    source = task.song.source
    if source != STDIO and not is_remote(source):
        source = os.path.abspath(source)
    return _cell(source), _cell(task.song.pattern)


def _cell(value: object) -> str:
    """A value as one line of valid UTF-8: the end of a line is the end of a row."""
    text = "" if value is None else str(value)
    return " ".join(text.splitlines()).encode("utf-8", "backslashreplace").decode()


def _hash(*texts: str) -> int:
    """64 bits of a hash."""
    data = "\0".join(texts).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _first_line(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.readline(_TAIL)


def _check_columns(columns: object, path: Path) -> None:
    if list(columns) != list(COLUMNS):
        raise SeparationError(
            f"{path} is no table of results, whose columns are {', '.join(COLUMNS)}: name another "
            "file"
        )
