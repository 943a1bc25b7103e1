"""Rows of Parquet files, some at a time; pyarrow is imported when one is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from spleeter_2.errors import SeparationError
from spleeter_2.extras import install_command, is_installed

SUFFIXES = (".parquet", ".pq")
_BATCH = 10_000  # rows in memory, and of a row group


def is_parquet(path: str) -> bool:
    """True for the name of a Parquet file."""
    return path.lower().endswith(SUFFIXES)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows, values in their own types.

    Raises:
        SeparationError: pyarrow is not installed, or the file cannot be read.
    """
    pyarrow = _pyarrow(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise SeparationError(f"cannot read {path}: {_first_line(error)}") from error


def column_names(path: Path) -> list[str]:
    """Names of the columns.

    Raises:
        SeparationError: see ``read_rows``.
    """
    pyarrow = _pyarrow(path)
    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (OSError, pyarrow.ArrowException) as error:
        raise SeparationError(f"cannot read {path}: {_first_line(error)}") from error


def write_rows(path: Path, columns: Mapping[str, type], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file, some rows at a time.

    Args:
        columns: type of each column, str or float; an empty text is no float.
    """
    pyarrow = _pyarrow(path)
    kinds = {str: pyarrow.string(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    rows = ({name: _typed(row[name], kind) for name, kind in columns.items()} for row in rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _typed(value: Any, kind: type) -> Any:
    return kind(value) if value not in ("", None) else None if kind is float else ""


def _pyarrow(path: Path) -> ModuleType:
    if not is_installed("pyarrow"):
        raise SeparationError(f"{path} needs pyarrow: {install_command('cluster')}")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:  # of another NumPy
        raise SeparationError(f"{path} needs pyarrow: {_first_line(error)}") from error
    return pyarrow


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
