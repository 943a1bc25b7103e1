"""TensorFlow checkpoints whose keys are the names of the variables.

Variables are matched by name and shape, never by position, since the order of layers depends on
the Keras version. A folder has the files ``checkpoint``, ``checkpoint.index`` and
``checkpoint.data-*``, which ``tf.train.load_checkpoint(folder)`` reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from spleeter_2.config.loading import CHECKPOINT as PREFIX
from spleeter_2.config.loading import has_weights
from spleeter_2.errors import SeparationError


def named_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """Variables of a model by name, such as ``vocals_encoder_1_conv/kernel``.

    Raises:
        ValueError: two variables have the same name.
    """
    named = {variable.name.removesuffix(":0"): variable for variable in model.weights}
    if len(named) != len(model.weights):
        raise ValueError(f"{model.name}: two variables share a name")
    return named


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
    with file_errors():
        names = sorted(values)
        tf.raw_ops.SaveV2(
            prefix=os.path.join(folder, PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(values[name]) for name in names],
        )
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
    )


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Turn TensorFlow's file errors into OSError.

    Raises:
        OSError: with an error code if TensorFlow's message contains the system's text for it.
    """
    try:
        yield
    except tf.errors.OpError as error:  # its message: {{OPERATION}} FILE; REASON [Op:...]
        text = str(error)
        code = next((code for code in errno.errorcode if f"; {os.strerror(code)}" in text), None)
        reason = (code, os.strerror(code)) if code else (text.splitlines()[0],)
        raise OSError(*reason) from error


def read_tensors(prefix: str) -> dict[str, np.ndarray]:
    """All named arrays of any TensorFlow checkpoint.

    Raises:
        SeparationError: the checkpoint is damaged or incomplete.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise SeparationError(
            f"the weights in {os.path.dirname(prefix)} are damaged or incomplete: install or "
            f"download them again ({str(error).splitlines()[0]})"
        ) from error


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """All named arrays of a checkpoint in a folder, float16 converted to float32.

    Raises:
        SeparationError: there is no checkpoint, or an incomplete one.
    """
    if not has_weights(folder):
        raise SeparationError(f"there are no weights in {folder}")
    arrays = read_tensors(os.fspath(folder / PREFIX))
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
    }


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], source: object) -> None:
    """Assign arrays to the variables of a model, by name.

    Arrays without a variable are ignored: a model may be built for some of the instruments.

    Args:
        source: origin of the arrays, for the error message.

    Raises:
        SeparationError: an array is missing or has another shape.
    """
    faults = []
    for name, variable in named_variables(model).items():
        if name not in arrays:
            faults.append(f"{name} is missing")
        elif arrays[name].shape != tuple(variable.shape):
            faults.append(
                f"{name} has shape {list(arrays[name].shape)} instead of {list(variable.shape)}"
            )
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise SeparationError(
            f"the weights in {source} do not fit the architecture of {model.name}: "
            f"{faults[0]}{more}"
        )
    for name, variable in named_variables(model).items():
        variable.assign(arrays[name])
