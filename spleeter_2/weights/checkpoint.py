"""Checkpoint in the folder of a model, whose keys are the names of the variables.

Variables are matched by name and shape, never by position, since the order of layers depends on
the Keras version. A folder has the files ``checkpoint``, ``checkpoint.index`` and
``checkpoint.data-*``, which ``tf.train.load_checkpoint(folder)`` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spleeter_2.config.loading import CHECKPOINT as PREFIX
from spleeter_2.config.loading import has_weights
from spleeter_2.errors import SeparationError

from .bundle import read_bundle, write_bundle


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


def read_checkpoint(folder: Path, verify: bool = False) -> dict[str, np.ndarray]:
    """All named arrays of a checkpoint in a folder, float16 converted to float32.

    Args:
        verify: compare the checksums of the arrays (see ``bundle.read_bundle``).

    Raises:
        SeparationError: there is no checkpoint, or a damaged or incomplete one.
    """
    if not has_weights(folder):
        raise SeparationError(f"there are no weights in {folder}")
    arrays = read_bundle(folder / PREFIX, verify=verify)
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
    }
