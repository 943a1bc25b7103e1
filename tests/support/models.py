"""``run_model_test``: the contract of every model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from spleeter_2.config.loading import WINDOW, load_configuration, parse_configuration, to_json
from spleeter_2.config.schema import Configuration
from spleeter_2.files import write_json
from spleeter_2.models import build_model
from spleeter_2.models.inference import inference_function, on_spectrograms
from spleeter_2.models.variables import assign, named_variables
from spleeter_2.weights import checkpoint as weights
from support.common import values_of

SMALL = {
    "name": "small",
    "sample_rate": 8000,
    "nb_channels": 2,
    "targets": ["vocals", "drums"],
    "residual": "other",
    "stft": {"frame_length": 128, "frame_step": 32},
    "segment": {"nb_frames": 32, "trim": 64, "overlap": 0.25, "join": "equal"},
}
UNET = {"type": "unet", "nb_bins": 60, "filters": [4, 6, 8]}
CUNET = {
    "type": "cunet",
    "nb_bins": 65,
    "blocks": 5,
    "channels": 4,
    "layers": 2,
    "conditioning": {"embedding": 4, "control_layers": 3},
}


def small(model: dict, **changes) -> Configuration:
    """A configuration for tests around a model."""
    return parse_configuration({**SMALL, "model": model, **changes})


def noise(configuration: Configuration, batch: int = 1, seed: int = 0) -> np.ndarray:
    """Complex64 ``[B, T, F, C]``."""
    rng = np.random.default_rng(seed)
    shape = (batch, configuration.segment.nb_frames, configuration.stft.nb_bins)
    shape = (*shape, configuration.nb_channels)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def run_model_test(configuration: Configuration, folder: Path) -> tf.keras.Model:
    """Build, shapes, batch sizes, tf.function, finite gradients, weights there and back."""
    tf.keras.utils.set_random_seed(0)
    model = build_model(configuration)
    names = named_variables(model)
    both = noise(configuration, batch=2)
    estimates = model(both, training=False)
    assert set(estimates) == set(configuration.targets)
    for target in configuration.targets:
        assert estimates[target].shape == both.shape
        assert estimates[target].dtype == tf.complex64
        assert np.isfinite(estimates[target].numpy()).all()
    same(tf.function(model)(both[:1]), estimates)
    with tf.GradientTape() as tape:
        trained = model(both, training=True)
        loss = tf.add_n([tf.reduce_mean(tf.square(tf.abs(x - both))) for x in trained.values()])
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, f"{variable.name} has no gradient"
        assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all(), variable.name
    weights.write_checkpoint(values_of(model), folder)
    again = build_model(configuration)
    assign(again, weights.read_checkpoint(folder), folder)
    for name, variable in named_variables(again).items():
        np.testing.assert_array_equal(variable, names[name])
    one = build_model(configuration, configuration.targets[:1])
    assign(one, weights.read_checkpoint(folder), folder)
    target = configuration.targets[0]
    expected = again(both, training=False)[target]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        one(both, training=False)[target], expected, rtol=0, atol=1e-5 * scale
    )
    estimates = again(both, training=False)
    fixed = on_spectrograms(inference_function(again))  # after which it does not learn any more
    same(fixed(both[:1]), estimates)
    same(tf.function(fixed)(both[:1]), estimates)
    return model


def same(estimates: dict, expected: dict) -> None:
    """Estimates of the first example are those of the batch that it came from."""
    for target, batch in expected.items():
        scale = np.abs(batch).max()
        np.testing.assert_allclose(estimates[target][0], batch[0], rtol=0, atol=1e-5 * scale)


def write_model(configuration: Configuration, folder: Path, window: np.ndarray | None = None):
    """Write a model of random weights as a folder that ``-p`` takes; return its configuration.

    Args:
        window: of the STFT, for the checkpoint.
    """
    rng = np.random.default_rng(0)
    tf.keras.utils.set_random_seed(0)
    arrays = {  # nothing is neutral
        name: value + rng.uniform(0.01, 0.1, value.shape).astype(np.float32)
        for name, value in values_of(build_model(configuration)).items()
    }
    if window is not None:
        arrays[WINDOW] = window
    folder.mkdir(parents=True, exist_ok=True)
    weights.write_checkpoint(arrays, folder)
    write_json(folder / "config.json", {**to_json(configuration), "weights": "."})
    return load_configuration(folder)
