"""The checkpoint of a model: tensors by the names of our variables.

Variables are matched by name and shape, never by position, since the order of layers depends on
the Keras version. A folder of ours has the files ``checkpoint``, ``checkpoint.index`` and
``checkpoint.data-*``, which ``tf.train.load_checkpoint(folder)`` reads; one of Spleeter's has
``checkpoint``, which names the others.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from spleeter_2.config.loading import CHECKPOINT as PREFIX
from spleeter_2.config.loading import has_weights
from spleeter_2.errors import SeparationError

from . import spleeter
from .bundle import Index, latest_checkpoint, read_bundle, read_index, write_bundle

PIECE = 2**26  # bytes of the arrays that are read at once where all of them may not fit


def half_precision(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert kernels to float16.

    Vectors (biases, BatchNorm) stay float32: variances of spectrograms exceed float16's range.
    """
    return {k: v.astype(np.float16) if v.ndim > 1 else v for k, v in values.items()}


def write_checkpoint(values: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write named arrays as a checkpoint.

    Args:
        folder: an existing folder; not written atomically (see ``files.atomic_folder``).

    Raises:
        OSError: the folder cannot be written.
    """
    write_bundle(values, folder / PREFIX)
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a folder.

    Attributes:
        prefix: path without ``.index``.
        index: tensors by the names of our variables.
        is_spleeters: the files are those of Spleeter, with its names.
    """

    prefix: str
    index: Index
    is_spleeters: bool
    _names: Mapping[str, str]  # stored names by ours

    def resolved(self) -> Checkpoint:
        """The same with the targets of links in place of data files.

        ONNX Runtime reads no file to which a link leads out of a folder.
        """
        shards = {number: os.path.realpath(path) for number, path in self.index.shards.items()}
        return dataclasses.replace(self, index=Index(self.index.entries, shards))

    def read(self, verify: bool = False) -> dict[str, np.ndarray]:
        """All arrays by the names of our variables, float16 converted to float32.

        Args:
            verify: compare the checksums of the arrays (see ``bundle.read_bundle``).

        Raises:
            SeparationError: a damaged checkpoint.
        """
        stored = read_bundle(self.prefix, self._names.values(), verify)
        arrays = {name: stored[other] for name, other in self._names.items()}
        return {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in arrays.items()
        }

    def in_pieces(self, verify: bool = False) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of ``read``, some at a time, for networks that fill the memory."""
        piece, size = {}, 0
        for name, other in self._names.items():
            piece[name] = other
            size += self.index.entries[name].size
            if size >= PIECE:
                yield dataclasses.replace(self, _names=piece).read(verify)
                piece, size = {}, 0
        if piece:
            yield dataclasses.replace(self, _names=piece).read(verify)


def open_checkpoint(folder: Path, targets: Sequence[str] = ()) -> Checkpoint:
    """Find the checkpoint in a folder of ours or of Spleeter's.

    Args:
        targets: of the model, in the order of Spleeter's networks.

    Raises:
        SeparationError: there is no checkpoint, a damaged one, or one without these targets.
    """
    if not has_weights(folder):
        raise SeparationError(f"there are no weights in {folder}")
    prefix = latest_checkpoint(folder)
    index = read_index(prefix)
    is_spleeters = spleeter.FIRST in index.entries
    if not is_spleeters:
        names = {name: name for name, entry in index.entries.items() if entry.dtype is not None}
        return Checkpoint(prefix, index, False, names)
    names = spleeter.tensor_names(targets)
    for name, other in names.items():
        if other not in index.entries:
            raise SeparationError(
                f"the weights in {folder} have no network for {_instrument(name, targets)}: "
                f"they lack {other}"
            )
    entries = {name: index.entries[other] for name, other in names.items()}
    return Checkpoint(prefix, Index(entries, index.shards), True, names)


def _instrument(variable: str, targets: Sequence[str]) -> str:
    """The instrument of a variable; a name may begin with that of another."""
    return max((x for x in targets if variable.startswith(f"{x}_")), key=len)


def read_checkpoint(
    folder: Path, targets: Sequence[str] = (), verify: bool = False
) -> dict[str, np.ndarray]:
    """All named arrays of a checkpoint in a folder; see ``open_checkpoint``."""
    return open_checkpoint(folder, targets).read(verify)
