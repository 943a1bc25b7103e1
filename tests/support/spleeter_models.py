"""Checkpoints of Spleeter's, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spleeter_2.config.loading import load_configuration
from spleeter_2.weights.bundle import write_bundle
from spleeter_2.weights.checkpoint import read_checkpoint
from spleeter_2.weights.spleeter import NORM, tensor_names, variable_shapes

FILTERS = (16, 32, 64, 128, 256, 512)
UNUSED = "batch_normalization_5/gamma"  # of the deepest encoder


def write_spleeter_model(
    folder: Path,
    instruments: Sequence[str],
    filters: Sequence[int] = FILTERS,
    more: Mapping[str, np.ndarray] | None = None,
    prefix: str = "model",
) -> dict[str, np.ndarray]:
    """Write a model's folder in upstream's layout; return its arrays by our variables' names.

    Args:
        more: further tensors, as those of an optimizer.
    """
    rng = np.random.default_rng(0)
    names = tensor_names(instruments)
    arrays = {}
    for name, shape in variable_shapes(instruments, filters, 2).items():
        if len(shape) > 1:
            # magnitudes of music are large, and large logits would amplify rounding errors: each
            # layer halves the variance
            height, width, *channels = shape  # those of a transposed convolution: output, input
            nb_inputs = height * width * channels["_decoder_" in name]
            bound = (3 / nb_inputs) ** 0.5
            arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        else:
            centre = 1.0 if name.endswith(("gamma", "moving_variance")) else 0.0
            arrays[name] = (centre + 0.1 * rng.normal(size=shape)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {names[name]: array for name, array in arrays.items()}
    write_bundle({**stored, UNUSED: np.ones(filters[-1], "f4"), **(more or {})}, folder / prefix)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
    return arrays


def unused_tensors(nb_instruments: int, filters: Sequence[int]) -> dict[str, np.ndarray]:
    """What Spleeter restores as well: the steps of a training, BatchNorms without effect."""
    ones = np.ones(filters[-1], np.float32)
    numbers = range(5, 12 * nb_instruments, 12)  # of the deepest encoder of each instrument
    norms = {f"batch_normalization_{number}/{part}": ones for number in numbers for part in NORM}
    return {**norms, "global_step": np.int64(1)}


def write_deezers_model(folder: Path) -> None:
    """Write Deezer's 2stems, whose weights are in the package, as Spleeter reads it."""
    configuration = load_configuration("spleeter:2stems")
    names = tensor_names(configuration.targets)
    arrays = read_checkpoint(configuration.weights, configuration.targets)
    stored = {names[name]: array for name, array in arrays.items()}
    folder.mkdir(parents=True)
    write_bundle({**stored, **unused_tensors(2, FILTERS)}, folder / "model")
    (folder / "checkpoint").write_text('model_checkpoint_path: "model"\n')
