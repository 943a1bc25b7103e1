"""The variables of a model by name, and arrays assigned to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from spleeter_2.config.loading import WINDOW
from spleeter_2.errors import SeparationError
from spleeter_2.weights.bundle import ALIGNMENT
from spleeter_2.weights.checkpoint import Checkpoint


def named_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """Variables of a model by name, such as ``vocals_encoder_1_conv/kernel``.

    Raises:
        ValueError: two variables have the same name.
    """
    named = {variable.name.removesuffix(":0"): variable for variable in model.weights}
    if len(named) != len(model.weights):
        raise ValueError(f"{model.name}: two variables share a name")
    return named


@contextlib.contextmanager
def unset_variables() -> Iterator[None]:
    """Context manager: variables are created as zeros that share memory, until ``assign``.

    A large network's random initial values would take time, and its weights' memory once more.
    """
    zeros = np.zeros(0, np.float32)

    def create(next_creator, **kwargs):
        nonlocal zeros
        shape, dtype = kwargs.get("shape"), tf.as_dtype(kwargs["dtype"] or tf.float32)
        if shape is not None and dtype == tf.float32:
            size = int(np.prod(shape))
            if size > zeros.size:
                zeros = aligned(size)
            kwargs["initial_value"] = zeros[:size].reshape(shape)
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield


def aligned(size: int) -> np.ndarray:
    """Zeros that TensorFlow uses in place; pages are allocated once they are written."""
    memory = np.zeros(size + ALIGNMENT, np.float32)
    return memory[-memory.ctypes.data % ALIGNMENT // memory.itemsize :]


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], source: object) -> None:
    """Assign arrays to the variables of a model, by name.

    Arrays without a variable are ignored: a model may be built for some of the instruments.

    Args:
        source: origin of the arrays, for the error message.

    Raises:
        SeparationError: an array is missing or has another shape.
    """
    _check_shapes(model, {name: array.shape for name, array in arrays.items()}, source)
    for name, variable in named_variables(model).items():
        variable.assign(arrays[name])


def assign_checkpoint(
    model: tf.keras.Model, checkpoint: Checkpoint, source: object
) -> np.ndarray | None:
    """``assign`` of a checkpoint's arrays, some at a time: all may not fit into memory twice.

    Returns:
        The STFT's window, if the checkpoint has one.
    """
    shapes = {name: entry.shape for name, entry in checkpoint.index.entries.items()}
    _check_shapes(model, shapes, source)
    variables, window = named_variables(model), None
    for arrays in checkpoint.in_pieces(verify=True):
        window = arrays.get(WINDOW, window)
        for name in arrays.keys() & variables.keys():
            variables[name].assign(arrays[name])
    return window


def _check_shapes(
    model: tf.keras.Model, shapes: Mapping[str, tuple[int, ...]], source: object
) -> None:
    """Raise SeparationError if an array is missing or has another shape."""
    faults = []
    for name, variable in named_variables(model).items():
        if name not in shapes:
            faults.append(f"{name} is missing")
        elif shapes[name] != tuple(variable.shape):
            faults.append(
                f"{name} has shape {list(shapes[name])} instead of {list(variable.shape)}"
            )
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise SeparationError(
            f"the weights in {source} do not fit the architecture of {model.name}: "
            f"{faults[0]}{more}"
        )
