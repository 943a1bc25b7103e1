"""Folders of Spleeter's models, laid out and named as upstream's.

A model's folder holds a TensorFlow checkpoint: the text file ``checkpoint``, which names a prefix,
``PREFIX.index`` and ``PREFIX.data-00000-of-00001``. Its parent is the folder that ``MODEL_PATH``
names; without it, ``pretrained_models`` in the current folder, then ``spleeter-2/models`` in the
user's cache.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from spleeter_2.errors import ModelError, model_errors
from spleeter_2.files import reason_of, user_cache

from .bundle import named_prefix

PROBE = ".probe"  # upstream's mark of a complete folder; it need not be there
_PIECE = re.compile(r"\.data-\d{5}-of-(\d{5})$")


@model_errors()
def download_folder() -> Path:
    """Absolute folder for downloads, the parent of the models' folders.

    Raises:
        ModelError: ``MODEL_PATH`` is not set and the user has no home.
    """
    if os.environ.get("MODEL_PATH"):
        return Path(os.path.abspath(os.environ["MODEL_PATH"]))
    cache = user_cache("models", "Spleeter's models: name a folder in MODEL_PATH")
    return Path(os.path.abspath(cache))


def _parents() -> list[Path]:
    """Absolute folders in which models are searched, in this order."""
    parents = []
    if not os.environ.get("MODEL_PATH"):
        with contextlib.suppress(OSError):  # the current folder may be gone
            parents.append(Path(os.path.abspath("pretrained_models")))
    with contextlib.suppress(ModelError):  # without a home there is no cache to search
        parents.append(download_folder())
    return parents


def find(name: str) -> Path | None:
    """The folder of a model, or None if it is missing or empty.

    An interrupted download of upstream's leaves an empty folder.

    Args:
        name: ``model_dir`` of an upstream configuration, also an absolute path.

    Raises:
        ModelError: it lacks a file or cannot be read.
    """
    for parent in _parents():
        folder = parent / name
        if not _is_empty(folder):
            checkpoint_prefix(folder)
            return folder
    return None


def checkpoint_prefix(folder: Path) -> Path:
    """The path of a folder's checkpoint without ``.index``; all its files are there.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    prefix, missing = _resolve(folder)
    if missing is None:
        return prefix
    raise ModelError(
        f"the model {folder} is incomplete: put {missing} there, or delete the folder, and one of "
        "Spleeter's released models is fetched again"
    )


def missing_file(folder: Path) -> str | None:
    """The first file that a folder lacks as a model, or None.

    Raises:
        ModelError: a file is unreadable.
    """
    return _resolve(folder)[1]


@model_errors()
def _resolve(folder: Path) -> tuple[Path, str | None]:
    """A checkpoint's prefix, and the first missing file."""
    if not os.path.lexists(folder / "checkpoint"):
        return folder, "checkpoint"
    prefix = Path(named_prefix(folder))
    index = Path(f"{prefix}.index")
    if not index.is_file():
        return prefix, _shown(index, folder)
    pieces = prefix.parent.glob(f"{_escaped(prefix.name)}.data-*")
    counts = [int(found[1]) for path in pieces if (found := _PIECE.search(path.name))]
    nb_pieces = max(counts, default=1)
    for number in range(nb_pieces):
        piece = Path(f"{prefix}.data-{number:05d}-of-{nb_pieces:05d}")
        if not piece.is_file():
            return prefix, _shown(piece, folder)
    return prefix, None


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = reason_of(error) if isinstance(error, OSError) else error
    return ModelError(f"cannot read the model {path}: {reason}")


def _shown(path: Path, folder: Path) -> str:
    """A path relative to the folder, if it is inside."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
