"""Conversion of Deezer's released U-Nets (TensorFlow 1) to our U-Net.

Keras numbered the layers of both instruments consecutively: ``conv2d`` to ``conv2d_6`` belong to
the first instrument, ``conv2d_7`` to ``conv2d_13`` to the second. ``TABLE`` has the numbers of the
first; the second adds the number of layers per instrument. Axes stay as they are.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from spleeter_2.checks import check_path, check_whole
from spleeter_2.config.loading import parse_configuration, read_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import named_variables
from spleeter_2.weights.bundle import latest_checkpoint, read_bundle

from .mapping import Conversion, Row, shown

INSTRUMENTS = ("vocals", "accompaniment")  # of Spleeter's 2stems, in the order of its networks

CONV = ("bias", "kernel")
NORM = ("beta", "gamma", "moving_mean", "moving_variance")
# kind of TF1 layer, its tensors, number of layers per instrument, {index: our layer}
TABLE = (
    ("conv2d", CONV, 7, {**{i: f"encoder_{i + 1}_conv" for i in range(6)}, 6: "mask_conv"}),
    ("conv2d_transpose", CONV, 6, {i: f"decoder_{i + 1}_conv" for i in range(6)}),
    (
        "batch_normalization",
        NORM,
        12,
        # 5, the BatchNorm of the deepest encoder, is stored but not used by the network
        {
            **{i: f"encoder_{i + 1}_norm" for i in range(5)},
            **{i + 6: f"decoder_{i + 1}_norm" for i in range(6)},
        },
    ),
)


def read_spleeter(
    folder: str | os.PathLike, model: str = "spleeter_2:mask", seed: int = 0
) -> Conversion:
    """Plan the conversion of a Spleeter 2stems checkpoint.

    Args:
        folder: Spleeter's model directory (``checkpoint``, ``model.index``, ...).
        model: descriptor of the architecture that receives the weights.
        seed: for the layers that Spleeter lacks; they keep their neutral initial values.

    Raises:
        SeparationError: another kind of checkpoint, or an architecture without these layers.
    """
    folder = Path(check_path("folder", folder))
    seed = check_whole("the seed", seed, 0, 2**32 - 1)
    path = latest_checkpoint(folder)
    source = read_bundle(path, verify=True)
    configuration = read_configuration(model)
    parsed = parse_configuration(configuration)
    tf.keras.utils.set_random_seed(seed)
    variables = named_variables(build_model(parsed))
    values = {name: variable.numpy() for name, variable in variables.items()}
    rows = [
        Row(name, source[name].shape, variable, source[name].shape, _axes(source[name]))
        for name, variable in _names(source, folder, parsed.targets).items()
    ]
    for row in rows:
        if row.variable not in values or values[row.variable].shape != row.shape:
            raise SeparationError(
                f"{model} has no place for {row.source} of shape {shown(row.source_shape)}"
            )
        values[row.variable] = source[row.source]
    for key in ("weights", "card"):  # of the architecture's own weights
        configuration.pop(key, None)
    configuration["source"] = _provenance(folder, path)
    notes = []
    if start := len(variables) - len(rows):
        notes.append(f"{start} arrays that Spleeter lacks keep their neutral initial values")
    ignored = sorted(source.keys() - {row.source for row in rows})
    return Conversion("Spleeter 2stems", configuration, rows, ignored, values, notes)


def _axes(array: np.ndarray) -> str:
    """Return the rule that leaves all axes in place."""
    axes = "tfio"[: array.ndim]
    return f"{' '.join(axes)} -> {' '.join(axes)}"


def _provenance(folder: Path, prefix: str) -> dict[str, str]:
    data = Path(f"{prefix}.data-00000-of-00001")
    return {
        "project": "Spleeter",
        "file": f"{folder.resolve().name}/{data.name}",
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
    }


def _names(source: dict[str, np.ndarray], folder: Path, targets: tuple[str, ...]) -> dict[str, str]:
    """Return ``{Spleeter's tensor: our variable}`` for the networks of these instruments."""
    names = {}
    for target in targets:
        if target not in INSTRUMENTS:
            raise SeparationError(f"Spleeter's 2stems model has no network for {target}")
        rank = INSTRUMENTS.index(target)
        for kind, tensors, period, places in TABLE:
            for place, layer in places.items():
                number = place + rank * period
                prefix = f"{kind}_{number}" if number else kind
                if not any(name.startswith(f"{prefix}/") for name in source):
                    raise _lacks(folder, prefix)
                names.update({f"{prefix}/{t}": f"{target}_{layer}/{t}" for t in tensors})
    if missing := [name for name in names if name not in source]:
        raise _lacks(folder, missing[0])
    return names


def _lacks(folder: Path, name: str) -> SeparationError:
    return SeparationError(f"{folder} is not a Spleeter 2stems checkpoint: it lacks {name}")
