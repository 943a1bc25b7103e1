"""Songs and stems behind URLs, such as ``s3://bucket/song.mp3``, through fsspec.

A song is copied to a temporary file and separated from there. Stems are written to a temporary
folder and uploaded when all of them are complete. Both are drafts (``spleeter_2.files``): they are
removed at the end of the song, by an error or a signal too, and those of a killed process by the
next one.

``file://`` is another way to write a path, and needs no fsspec.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from spleeter_2.errors import SeparationError
from spleeter_2.extras import install_command, is_installed
from spleeter_2.files import Draft, reason_of, temporary_folder, writing

MOST_BYTES = 16 * 2**30  # of a song: a live stream has no end
# stores in which an upload appears when it is complete, and a move is a copy of all bytes
ATOMIC = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"))
_BLOCK = 2**20  # bytes
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LOCAL = re.compile(r"(?:file|local)://(?=/)")
_NO_CREDENTIALS = re.compile(r"credential|token", re.I)


def is_remote(name: str | os.PathLike) -> bool:
    """True for a URL of another protocol than ``file``."""
    return isinstance(name, str) and bool(_URL.match(name)) and not _LOCAL.match(name)


def is_readonly(url: str) -> bool:
    """True for a URL that songs can be read from, but no stem be written to."""
    return url.startswith(("http://", "https://"))


def without_file_protocol(name: str | os.PathLike) -> str:
    """The path of a ``file://`` URL; other names as they are."""
    return _LOCAL.sub("", os.fspath(name), count=1)


def parts_of(url: str) -> tuple[str, str]:
    """Name of a URL's folder and of its file, for the fields of a filename format."""
    if not is_readonly(url):
        folder, name = posixpath.split(url.partition("://")[2])
        return posixpath.basename(folder), name
    folder, name = posixpath.split(urlsplit(url).path)
    return unquote(posixpath.basename(folder)), unquote(name).replace("/", "_")


def join(root: str, path: str) -> str:
    """A path below the URL of a folder."""
    return f"{root.rstrip('/')}/{path}"


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[str]:
    """A temporary copy of a remote song while the block runs; a path is its own copy.

    Raises:
        SeparationError: the song cannot be fetched, has more than ``MOST_BYTES``, or the disk is
            full.
    """
    if not is_remote(source):
        yield source
        return
    with _scratch(parts_of(source)[1]) as path:
        with _store(source, "read") as (store, key), store.open(key, "rb") as remote:
            _copy(remote, path, source)
        yield str(path)


@contextlib.contextmanager
def local_stems(outputs: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Paths to write stems to; those of remote ones are uploaded when the block ends.

    Args:
        outputs: path or URL of each stem by instrument.

    Raises:
        SeparationError: an upload failed. Then none of the stems is new, as far as the store can
            delete.
    """
    if not any(map(is_remote, outputs.values())):
        yield dict(outputs)
        return
    with _scratch("stems", is_folder=True) as folder:
        suffixes = {name: posixpath.splitext(url)[1] for name, url in outputs.items()}
        paths = {name: str(folder / f"{name}{suffix}") for name, suffix in suffixes.items()}
        yield paths
        _upload({paths[name]: url for name, url in outputs.items()})


def are_there(outputs: Mapping[str, str]) -> bool:
    """True if all stems exist and are not empty; nothing is read.

    Raises:
        SeparationError: a store cannot be reached.
    """
    for output in outputs.values():
        if is_remote(output):
            with _store(output, "look for") as (store, key):
                if not store.exists(key) or store.info(key).get("size") == 0:
                    return False
        elif not (os.path.isfile(output) and os.path.getsize(output)):
            return False
    return True


@contextlib.contextmanager
def _scratch(name: str, is_folder: bool = False) -> Iterator[Path]:
    """A temporary file or folder, whose name ends with ``name``."""
    parent = temporary_folder()
    with writing(parent):
        draft = Draft(Path(parent) / re.sub(r"[^\w.-]", "_", name), is_folder)
    with draft:
        yield draft.path


def _copy(remote: Any, path: Path, source: str) -> None:
    """Copy an open remote file to a path, some bytes at a time.

    Raises:
        SeparationError: it has too many bytes, or they cannot be written.
    """
    place = f"a copy of {source} into {path.parent}"
    with writing(place):
        if (getattr(remote, "size", None) or 0) > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    nb_bytes = 0
    with path.open("wb") as file:
        while block := remote.read(_BLOCK):
            nb_bytes += len(block)
            if nb_bytes > MOST_BYTES:
                raise SeparationError(
                    f"{source} has more than {MOST_BYTES / 2**30:.0f} GiB: is it a live stream?"
                )
            with writing(place):  # an error of the store has another message
                file.write(block)
                file.flush()


def _upload(urls: Mapping[str, str]) -> None:
    """Upload files by path; all of them appear, or none.

    An object store shows an object when its upload is complete. Elsewhere each file is uploaded
    under a temporary name, and all are renamed at the end. If an upload fails, the files that were
    not there before are deleted.
    """
    begun: list[tuple[Any, str]] = []
    moves: list[tuple[Any, str, str, str]] = []
    try:
        for path, url in urls.items():
            with _store(url, "write") as (store, key):
                target = key if _is_atomic(store) else _temporary(key)
                if target != key:
                    store.makedirs(posixpath.dirname(key), exist_ok=True)
                    moves.append((store, target, key, url))
                if target != key or not store.exists(key):
                    begun.append((store, target))
                store.put_file(path, target)
        for store, target, key, url in moves:
            with _store(url, "write"):
                if not store.exists(key):
                    begun.append((store, key))
                store.mv(target, key)
    except BaseException:
        for store, key in begun:
            with contextlib.suppress(Exception):  # of a store: the first exception is kept
                store.rm(key)
        raise


def _is_atomic(store: Any) -> bool:
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    return not ATOMIC.isdisjoint(protocols)


def _temporary(key: str) -> str:
    folder, name = posixpath.split(key)
    return posixpath.join(folder, f".spleeter-2-{secrets.token_hex(6)}-{name}")


@contextlib.contextmanager
def _store(url: str, verb: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system of a URL, and the URL's key there, for the block.

    Raises:
        SeparationError: fsspec or a protocol's package is not installed; any error of the store.
    """
    if not is_installed("fsspec"):
        raise SeparationError(f"{url} needs fsspec: {install_command('cluster')}")
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(url)
    except SeparationError:
        raise
    # third-party code may raise any exception
    except Exception as error:
        raise SeparationError(f"cannot {verb} {url}: {_reason(error, url)}") from error


def _reason(error: Exception, url: str) -> str:
    """The reason of a store's exception, for the user."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # of HTTP: no connection
    protocol = url.partition("://")[0]
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, ImportError):
        advice = install_command("s3") if protocol.startswith("s3") else f"fsspec says: {text}"
        return f"a package for {protocol}:// is missing: {advice}"
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return f"fsspec has no protocol {protocol}://"
    if isinstance(error, FileNotFoundError):
        return "there is no such file or bucket"
    if isinstance(error, PermissionError):
        return "access is denied: check the credentials and the rights of the store"
    if _NO_CREDENTIALS.search(type(error).__name__):
        return (
            "there are no credentials: configure them as the store's own programs take them "
            "(S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return reason_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
