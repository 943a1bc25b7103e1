"""Weights on disk: TensorFlow checkpoints whose keys are the variables' own names.

``encoder_1_conv/kernel`` says what it is, whatever order a Keras version builds layers in, so a
checkpoint and a network are compared name by name, shape by shape, and nothing is matched by
position. The folder holds ``checkpoint``, ``checkpoint.index`` and ``checkpoint.data-*``, which
``tf.train.load_checkpoint(folder)`` reads.
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
    """A model's weights by name, such as ``vocals_encoder_1_conv/kernel``."""
    named = {variable.name.removesuffix(":0"): variable for variable in model.weights}
    if len(named) != len(model.weights):
        raise ValueError(f"{model.name}: two variables share a name")
    return named


def halved(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels as float16, half the size.

    Vectors (biases, BatchNorm) stay float32: variances of spectrograms exceed float16's range.
    """
    return {k: v.astype(np.float16) if v.ndim > 1 else v for k, v in values.items()}


def write_checkpoint(values: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write named arrays as a checkpoint.

    Args:
        folder: an existing one, of ``files.atomic_folder`` where readers may come meanwhile.

    Raises:
        OSError: the folder cannot be written to.
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
        OSError: with the system's error code where TensorFlow's message has its text.
    """
    try:
        yield
    except tf.errors.OpError as error:  # {{OPERATION}} FILE; REASON [Op:...]
        text = str(error)
        code = next((code for code in errno.errorcode if f"; {os.strerror(code)}" in text), None)
        reason = (code, os.strerror(code)) if code else (text.splitlines()[0],)
        raise OSError(*reason) from error


def read_tensors(prefix: str) -> dict[str, np.ndarray]:
    """All named arrays of any TensorFlow checkpoint.

    Raises:
        SeparationError: it is damaged or incomplete.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise SeparationError(
            f"the weights in {os.path.dirname(prefix)} are damaged or incomplete; get them again "
            f"({str(error).splitlines()[0]})"
        ) from error


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """All named arrays of a checkpoint of ours, float16 widened to float32.

    Raises:
        SeparationError: no checkpoint there, or an incomplete one.
    """
    if not has_weights(folder):
        raise SeparationError(f"there are no weights in {folder}")
    arrays = read_tensors(os.fspath(folder / PREFIX))
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
    }


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], source: object) -> None:
    """Fill a model from arrays that have every one of its variables.

    There may be more of them: a model that is built for fewer instruments takes its part.

    Args:
        source: where the arrays come from, for the message.

    Raises:
        SeparationError: a variable that is missing or has another shape.
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
