"""Deezer's released U-Nets (TensorFlow 1 names) -> our U-Net.

Keras numbered the layers of both instruments in one run: ``conv2d`` to ``conv2d_6`` are the
first instrument's, ``conv2d_7`` to ``conv2d_13`` the second's. The table below gives the place
within one instrument; the instrument's rank adds its multiple of the period.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from spleeter_2 import weights
from spleeter_2.configuration import FORMAT, PREFIX, has_weights, load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model

INSTRUMENTS = ("vocals", "accompaniment")  # Spleeter's 2stems, in the order of its networks

# TF1 layer kind, layers of it per instrument, {place: our layer}
TABLE = (
    ("conv2d", 7, {**{i: f"encoder_{i + 1}_conv" for i in range(6)}, 6: "mask_conv"}),
    ("conv2d_transpose", 6, {i: f"decoder_{i + 1}_conv" for i in range(6)}),
    (
        "batch_normalization",
        12,
        # place 5, the deepest encoder's BatchNorm, is in the checkpoint but not on the path
        {
            **{i: f"encoder_{i + 1}_norm" for i in range(5)},
            **{i + 6: f"decoder_{i + 1}_norm" for i in range(6)},
        },
    ),
)


def read_spleeter(folder: Path, instrument: str) -> dict[str, np.ndarray]:
    """Read one instrument's network of a Spleeter 2stems checkpoint.

    Args:
        folder: what Spleeter calls the model directory (``checkpoint``, ``model.index``, ...).
        instrument: "vocals" or "accompaniment".

    Returns:
        Arrays by our names, ``{instrument}_encoder_1_conv/kernel`` and so on.

    Raises:
        SeparationError: not such a checkpoint.
    """
    path = tf.train.latest_checkpoint(os.fspath(folder))
    if path is None:
        raise SeparationError(f"there is no TensorFlow checkpoint in {folder}")
    source = weights.read_tensors(path)
    rank = INSTRUMENTS.index(instrument)
    arrays = {}
    for kind, period, places in TABLE:
        for place, layer in places.items():
            number = place + rank * period
            prefix = f"{kind}_{number}/" if number else f"{kind}/"
            found = {k[len(prefix) :]: v for k, v in source.items() if k.startswith(prefix)}
            if not found:
                raise SeparationError(
                    f"{folder} is not a Spleeter 2stems checkpoint: it lacks {prefix[:-1]}"
                )
            arrays.update({f"{instrument}_{layer}/{k}": v for k, v in found.items()})
    return arrays


def convert_spleeter(
    source: Path, output: Path, model: str, half: bool = False, force: bool = False, seed: int = 0
) -> str:
    """Fill one of our U-Nets with Deezer's networks and write checkpoint and configuration.

    Args:
        source: folder of a Spleeter 2stems model.
        output: folder to write; with weights in it, only with ``force``.
        model: descriptor of the architecture.
        half: store kernels as float16.
        seed: of the layers that Spleeter does not have.

    Returns:
        A sentence that says what was written.

    Raises:
        SeparationError: not such a checkpoint; a target that it does not have; a folder in use.
    """
    configuration = load_configuration(model)
    if has_weights(output) and not force:
        raise SeparationError(f"{output} holds weights already: give --force to replace them")
    arrays: dict[str, np.ndarray] = {}
    for target in configuration.targets:
        if target not in INSTRUMENTS:
            raise SeparationError(f"Spleeter's 2stems model has no network for {target}")
        arrays.update(read_spleeter(source, target))
    tf.keras.utils.set_random_seed(seed)
    network = build_model(configuration)
    variables = weights.named_variables(network)
    for name, array in arrays.items():
        if name not in variables or tuple(variables[name].shape) != array.shape:
            raise SeparationError(f"{model} has no place for {name} of shape {list(array.shape)}")
        variables[name].assign(array)
    weights.save_weights(network, output, half)
    base = model if model.startswith(PREFIX) else os.path.relpath(model, output)
    changes = {"spleeter_2": FORMAT, "base": base, "weights": "."}
    (output / "config.json").write_text(json.dumps(changes, indent=2) + "\n")
    return (
        f"{output}: {len(arrays)} arrays from {source}, "
        f"{len(variables) - len(arrays)} at their neutral start"
    )
