"""Fetch Deezer's released models, from where upstream Spleeter fetches them.

A release on GitHub has an archive ``NAME.tar.gz`` per model and ``checksum.json``, an object of
their SHA-256 sums. ``GITHUB_HOST``, ``GITHUB_REPOSITORY`` and ``GITHUB_RELEASE`` name another one,
as for upstream. The archive is received as ``.NAME.SUM.part`` beside the model's folder, where an
interrupted download is resumed. It is unpacked once its sum is right, and the folder appears when
it is complete.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import logging
import os
import re
import socket
import ssl
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from spleeter_2.console import progress_bar
from spleeter_2.errors import ModelError, SeparationError
from spleeter_2.files import WriteError, atomic_folder, lock, reason_of, sha256_of, writing

from .folders import PROBE, download_folder, find, missing_file

# upstream's environment variables and its defaults
DEFAULTS = {
    "GITHUB_HOST": "https://github.com",
    "GITHUB_REPOSITORY": "deezer/spleeter",
    "GITHUB_RELEASE": "v1.4.0",
}
INDEX = "checksum.json"
MOST_INDEX = 10**6  # bytes
TIMEOUT = 30.0  # seconds of silence
MOST_BYTES = 4 * 2**30  # of an archive and of its contents; the largest model has 0.6 GB
MOST_FILES = 1000  # in an archive
_BLOCK = 2**16  # bytes
_GZIP = b"\x1f\x8b"  # first bytes of such a file

log = logging.getLogger(__name__)

# called with the bytes received, those of an earlier run included, and the size or None
Progress = Callable[[int, "int | None"], None]


class _Fault(Exception):
    """A download failed; the text is the reason."""


def find_or_fetch(name: str, progress: Progress | None = None) -> Path:
    """The folder of one of upstream's models, fetched if there is none.

    Another process that fetches into the same folder is waited for.

    Args:
        name: ``model_dir`` of an upstream configuration, such as ``4stems``.
        progress: called after every block; None: a progress bar, on a terminal only.

    Raises:
        ModelError: the folder lacks a file, or the model cannot be fetched or written.
    """
    found = find(name)
    if found is not None:
        return found
    folder = download_folder() / name
    with _locked(folder.parent):
        found = find(name)  # by now another process may have fetched it
        if found is not None:
            return found
        with contextlib.ExitStack() as stack:
            show = progress or stack.enter_context(_bar(name))
            _Download(folder, show).run()
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made."""
    with _writing_models():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock(folder, "")
        except WriteError:
            raise
        except SeparationError:
            log.info(f"another process is fetching a model into {folder}: waiting for its end")
            held = lock(folder, "", timeout=-1)
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _writing_models() -> Iterator[None]:
    """Turn a WriteError of the block into a ModelError with a way out."""
    try:
        yield
    except WriteError as error:
        raise ModelError(f"{error}; MODEL_PATH can name another folder for models") from error


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """Progress bar in bytes, on a terminal only."""
    with progress_bar(name, "B", unit_scale=True) as bar:

        def show(nb_received: int, size: int | None) -> None:
            bar.total = size
            bar.update(nb_received - bar.n)

        yield show


class _Download:
    """One download into a folder, whose parent is locked; ``run`` is all of it."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._name = folder.name
        self._part: Path | None = None  # once the sum is known
        self._release = _Release()

    def run(self) -> None:
        """Receive, check, unpack.

        Raises:
            ModelError: the model cannot be fetched, or not written.
        """
        try:
            with _writing_models():
                self._run()
        except _Fault as error:
            again = "run again to resume, or " if self._nb_kept() else ""
            raise ModelError(
                f"cannot fetch the model {self._name} from {self._release.host}: {error}; "
                f"{again}put its files into {self._folder}, or name their parent folder in "
                "MODEL_PATH"
            ) from error
        except BaseException as error:
            if not isinstance(error, Exception) and self._nb_kept():
                log.info(f"{self._nb_kept() / 1e6:.1f} MB are kept: the next download resumes")
            raise

    def _run(self) -> None:
        expected = self._release.checksum(self._name)
        self._part = self._folder.with_name(f".{self._name}.{expected[:16]}.part")
        self._remove_other_parts()
        try:
            self._receive_verified(expected)
        except WriteError:
            _remove(self._part)  # the disk may be full
            raise
        try:
            with atomic_folder(self._folder) as folder:
                unpack(self._part, folder)
                (folder / PROBE).write_text("OK")
        except (_Fault, WriteError):
            _remove(self._part)
            raise
        _remove(self._part)

    def _receive_verified(self, expected: str) -> None:
        """Complete the archive and check its sum; one that was resumed is begun anew if wrong."""
        is_resumed = self._nb_kept() > 0
        if is_resumed and _sha256(self._part) == expected:  # killed before it was unpacked
            return
        self._receive()
        if _sha256(self._part) == expected:
            return
        _remove(self._part)
        if is_resumed:
            self._receive_verified(expected)
            return
        raise _Fault(
            f"the archive's SHA-256 sum is not the one in {INDEX}, it was changed on the way"
        )

    def _receive(self) -> None:
        """Receive the archive, or what is missing of it."""
        response, start = self._release.open(f"{quote(self._name)}.tar.gz", self._nb_kept())
        with response:
            size = _length(response)
            size = None if size is None else start + size
            blocks = self._blocks(response, start, size)
            # of an archive, or what is there would be lost to an error page
            first = next(blocks, b"")
            self._announce(start, size)
            nb_received = start
            with writing(self._part), open(self._part, "ab" if start else "wb") as file:
                for block in itertools.chain((first,), blocks):
                    file.write(block)
                    nb_received += len(block)
                    self._progress(nb_received, size)

    def _blocks(
        self, response: http.client.HTTPResponse, start: int, size: int | None
    ) -> Iterator[bytes]:
        """The blocks of an archive, up to its size.

        Raises:
            _Fault: it ends before, or is no archive.
        """
        nb_received = start
        try:
            for block in _read(response, len(_GZIP) if start == 0 else _BLOCK):
                if nb_received == 0 and not block.startswith(_GZIP):
                    raise _Fault(f"{_describe(response, block)} came in place of an archive")
                nb_received += len(block)
                if nb_received > MOST_BYTES:
                    _remove(self._part)
                    raise _Fault(f"more than {MOST_BYTES / 1e9:.1f} GB came")
                yield block
            if size is not None and nb_received < size:
                raise _Fault("the connection ended")
            if nb_received == 0:
                raise _Fault("nothing came in place of an archive")
        except _Fault as error:
            if nb_received == 0:
                raise
            of = "" if size is None else f" of {size / 1e6:.1f}"
            raise _Fault(f"{error} after {nb_received / 1e6:.1f}{of} MB") from error

    def _announce(self, start: int, size: int | None) -> None:
        amount = "size unknown" if size is None else f"{size / 1e6:.1f} MB"
        kept = f", {start / 1e6:.1f} MB are there" if start else ""
        log.info(
            f"fetching the model {self._name} ({amount}{kept}) from {self._release.host} into "
            f"{self._folder}"
        )

    def _nb_kept(self) -> int:
        """Bytes received so far, by this run or an earlier one."""
        if self._part is None:
            return 0
        try:
            return self._part.stat().st_size
        except OSError:
            return 0

    def _remove_other_parts(self) -> None:
        """Remove what is left of a download of another release."""
        pattern = re.compile(rf"\.{re.escape(self._name)}\.[0-9a-f]{{16}}\.part")
        with writing(self._folder.parent):
            for path in self._folder.parent.iterdir():
                if pattern.fullmatch(path.name) and path != self._part:
                    _remove(path)


class _Release:
    """The release that the environment names.

    Raises:
        ModelError: ``GITHUB_HOST`` is not an address.
    """

    def __init__(self) -> None:
        address, self._repository, self._release = (
            os.environ.get(name) or default for name, default in DEFAULTS.items()
        )
        try:
            parts = urlsplit(address)
            self.host, self._scheme = parts.hostname, parts.scheme
        except ValueError:
            self.host = self._scheme = None
        if not self.host or self._scheme not in ("https", "http"):
            raise ModelError(
                f"GITHUB_HOST must be an address such as https://github.com, not {address!r}"
            )
        self._root = "/".join(
            (address.rstrip("/"), self._repository, "releases/download", self._release)
        )

    def checksum(self, name: str) -> str:
        """SHA-256 sum of a model's archive, in lower case.

        Raises:
            _Fault: it cannot be read, or the release has no such model.
        """
        response, _ = self.open(INDEX)
        with response:
            text = b""
            for block in _read(response):
                text += block
                if len(text) > MOST_INDEX:
                    raise _Fault(f"{INDEX} is larger than {MOST_INDEX / 1e6:.1f} MB")
            try:
                index = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _Fault(f"{_describe(response, text)} came in place of {INDEX}") from error
        if not isinstance(index, dict):
            raise _Fault(f"{INDEX} is not an index of check sums")
        if name not in index:
            known = sorted(filter(re.compile(r"[\w.+-]+").fullmatch, index))
            only = f", only {', '.join(known)}" if known else ""
            raise _Fault(f"release {self._release} has no model {name}{only}")
        if not re.fullmatch("[0-9a-fA-F]{64}", str(index[name])):
            raise _Fault(f"{INDEX} has no SHA-256 sum of {name}")
        return index[name].lower()

    def open(self, file: str, start: int = 0) -> tuple[http.client.HTTPResponse, int]:
        """Request a file of the release.

        Args:
            start: first byte wanted.

        Returns:
            The response and the first byte that it has, 0 if the server cannot resume.

        Raises:
            _Fault: there is no answer, or an error.
        """
        headers = {"User-Agent": "spleeter-2"}
        if start:
            headers["Range"] = f"bytes={start}-"
        redirects = _Redirects(self._scheme)
        try:
            request = Request(f"{self._root}/{file}", headers=headers)
            response = build_opener(redirects).open(request, timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 416 and start:  # the file is shorter
                return self.open(file)
            raise _Fault(_status(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            to = f"redirected to {redirects.host}: " if redirects.host else ""
            raise _Fault(f"{to}{_reason(error)}") from error
        if response.status == 206:
            range_ = response.headers.get("Content-Range", "")
            if start and re.match(rf"bytes {start}-", range_):
                return response, start
            response.close()
            if not start:
                raise _Fault("a part of the file came, which was not asked for")
            return self.open(file)
        return response, 0


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, from https to https only unless ``GITHUB_HOST`` is http itself.

    Attributes:
        host: of the last redirect, or None.
    """

    def __init__(self, scheme: str) -> None:
        self.host: str | None = None
        self._schemes = ("https",) if scheme == "https" else ("https", "http")

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        target = urlsplit(newurl)
        if target.scheme not in self._schemes:
            fp.close()
            raise _Fault(
                f"it redirects to {target.scheme}://{target.hostname or ''}, which is not encrypted"
            )
        self.host = target.hostname
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a model's ``.tar.gz`` into an empty folder, without trust in what it holds.

    Only files are made, from their names and contents: no links, owners, rights or times. tarfile's
    own extraction is not used; its filter is missing from Python 3.10.0 to 3.10.11.

    Raises:
        _Fault: the archive is damaged, is no model, or has anything but files below the folder.
        WriteError: the folder cannot be written.
    """
    with writing(folder):
        try:
            with tarfile.open(archive, "r|gz") as tar:
                nb_bytes = 0
                for number, member in enumerate(tar):
                    nb_bytes += member.size
                    if number >= MOST_FILES or nb_bytes > MOST_BYTES:
                        raise _Fault(
                            f"the archive has too many or too large files: {member.name!r}"
                        )
                    path = folder.joinpath(*_parts(member))
                    if member.isfile() and not path.name.startswith("._"):  # macOS' attributes
                        path.parent.mkdir(parents=True, exist_ok=True)
                        _copy(tar.extractfile(member), path)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise _Fault(f"the archive is damaged ({error})") from error
    try:
        missing = missing_file(folder)
    except ModelError as error:
        raise _Fault("the archive is no model: its file checkpoint is damaged") from error
    if missing is not None:
        raise _Fault(f"the archive is no model: it lacks {missing}")


def _parts(member: tarfile.TarInfo) -> list[str]:
    """Names of the folders and of the file of a member.

    Raises:
        _Fault: the path leaves the folder, or it is neither a file nor a folder.
    """
    parts = [part for part in member.name.split("/") if part != "."]
    is_odd = any(part in ("", "..") or re.search(r"[\\:\x00-\x1f]", part) for part in parts)
    if is_odd or member.issparse() or not (member.isdir() or (member.isfile() and parts)):
        raise _Fault(f"the archive has {member.name!r}, which is no file of a model")
    return parts


def _copy(source, path: Path) -> None:
    if os.path.lexists(path):
        raise _Fault(f"the archive has {path.name!r} twice")
    with open(path, "xb") as file:
        while block := source.read(_BLOCK):
            file.write(block)


def _read(response: http.client.HTTPResponse, first: int = _BLOCK) -> Iterator[bytes]:
    """The blocks of a response; the first one has ``first`` bytes, or is the end.

    Raises:
        _Fault: the connection failed.
    """
    try:
        block = response.read(first)
        while block:
            yield block
            block = response.read1(_BLOCK)  # what has come: a slow server shows in the progress
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Fault(_reason(error)) from error


def _length(response: http.client.HTTPResponse) -> int | None:
    """Bytes that a response announces, or None."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _describe(response: http.client.HTTPResponse, head: bytes) -> str:
    """Description of a response that came in place of a file."""
    is_html = "html" in response.headers.get("Content-Type", "") or head.lstrip().startswith(b"<")
    what = "an HTML page, perhaps of a proxy or a login," if is_html else "something else"
    return f"{what} from {urlsplit(response.geturl()).hostname}"


def _status(error: HTTPError) -> str:
    """The reason of an HTTP status."""
    status = f"HTTP {error.code}"
    if 300 <= error.code < 400:
        return f"it redirects in a loop or to another protocol ({status})"
    if error.code == 404:
        return f"there is no {error.url} ({status})"
    if error.code >= 500:
        return f"the server has an error, try again later ({status})"
    return f"{error.url} is refused ({status})"


def _reason(error: BaseException) -> str:
    """The reason of a failed connection."""
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved, is there a network?"
    if isinstance(error, TimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        certificates = "SSL_CERT_FILE can name the certificates of a proxy"
        return f"its certificate is not trusted ({error.verify_message}), {certificates}"
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return "the connection ended"
    if isinstance(error, OSError):
        return reason_of(error)
    # of a server's text, in one line
    return f"the answer is not understood ({' '.join(str(error).split())})"


def _sha256(path: Path) -> str:
    with writing(path), open(path, "rb") as file:
        return sha256_of(file)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
