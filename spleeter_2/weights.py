"""Weights on disk: TensorFlow checkpoints whose keys are the variables' own names.

``encoder_1_conv/kernel`` says what it is, whatever order a Keras version builds layers in, so a
checkpoint and a network are compared name by name, shape by shape, and nothing is matched by
position. The folder holds ``checkpoint``, ``checkpoint.index`` and ``checkpoint.data-*``, which
``tf.train.load_checkpoint(folder)`` reads.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from .configuration import CHECKPOINT as PREFIX
from .configuration import has_weights
from .errors import SeparationError

WINDOW = "stft/window"  # of a checkpoint that was trained with a window of its own


def named_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """A model's weights by name, such as ``vocals_encoder_1_conv/kernel``."""
    named = {variable.name.removesuffix(":0"): variable for variable in model.weights}
    if len(named) != len(model.weights):
        raise ValueError(f"{model.name}: two variables share a name")
    return named


def save_weights(model: tf.keras.Model, folder: Path, half: bool = False) -> None:
    """Write a model's weights; a reader sees the old checkpoint or the new one.

    Args:
        half: store kernels as float16, half the size. Vectors (biases, BatchNorm) stay float32:
            variances of spectrograms exceed the range of float16.
    """
    values = {name: variable.numpy() for name, variable in named_variables(model).items()}
    if half:
        values = {k: v.astype(np.float16) if v.ndim > 1 else v for k, v in values.items()}
    write_checkpoint(values, folder)


def write_checkpoint(values: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write named arrays as a checkpoint in ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".checkpoint-") as temporary:
        names = sorted(values)
        tf.raw_ops.SaveV2(
            prefix=os.path.join(temporary, PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(values[name]) for name in names],
        )
        Path(temporary, "checkpoint").write_text(
            f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
        )
        # data before index: an index never points at data that are not there
        for name in sorted(os.listdir(temporary), key=lambda name: "data" not in name):
            shutil.move(os.path.join(temporary, name), folder / name)


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """All named arrays of a checkpoint, float16 widened to float32.

    Raises:
        SeparationError: no checkpoint there, or an incomplete one.
    """
    return _read(folder, lambda name: True)


def read_window(folder: Path) -> np.ndarray | None:
    """STFT window ``[frame_length]`` that a converted checkpoint brings along, or None.

    Raises:
        SeparationError: no checkpoint there, or an incomplete one.
    """
    return _read(folder, lambda name: name == WINDOW).get(WINDOW)


def _read(folder: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    if not has_weights(folder):
        raise SeparationError(f"there are no weights in {folder}")
    try:
        reader = tf.train.load_checkpoint(os.fspath(folder / PREFIX))
        names = filter(wanted, reader.get_variable_to_shape_map())
        arrays = {name: reader.get_tensor(name) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise SeparationError(
            f"the weights in {folder} are damaged or incomplete; get them again "
            f"({str(error).splitlines()[0]})"
        ) from error
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
    }


def load_weights(model: tf.keras.Model, folder: Path) -> None:
    """Fill a model from a checkpoint that has every one of its variables.

    The checkpoint may hold more: a model that is built for fewer instruments takes its part.

    Raises:
        SeparationError: a variable that is missing or has another shape.
    """
    arrays = read_checkpoint(folder)
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
            f"the weights in {folder} do not fit the architecture of {model.name}: "
            f"{faults[0]}{more}"
        )
    for name, variable in named_variables(model).items():
        variable.assign(arrays[name])
