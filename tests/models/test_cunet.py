"""The conditioned U-Net: its own behaviour; its numbers are in test_weight_converter_lasaft."""

import numpy as np
import pytest
import tensorflow as tf
from msgspec.structs import replace
from support.models import CUNET, noise, run_model_test, small

from spleeter_2.config.loading import embedded_models, load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.layers import DenseConvNorm
from spleeter_2.separation.separator import Separator


@pytest.mark.parametrize(
    ("model", "conditioning"),
    [
        ({"spectrogram": "magnitude", "estimate": "masking"}, {"type": "film", "norm": False}),
        ({"spectrogram": "magnitude"}, {"type": "pocm", "where": "full"}),
        ({"estimate": "masking", "time_levels": [1]}, {"where": "encoder", "transposed": True}),
        ({"time_levels": [], "activation": "leaky_relu"}, {"control_layers": 4}),
    ],
    ids=["film", "pocm", "encoder", "no time levels"],
)
def test_options(model, conditioning, tmp_path):
    conditioning = {**CUNET["conditioning"], **conditioning}
    run_model_test(small({**CUNET, **model, "conditioning": conditioning}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "leaky_relu"])
def test_activations_along_frequency(activation, tmp_path):
    frequency = {"type": "fc", "bn_factor": 4, "min_bn_units": 2}
    run_model_test(small({**CUNET, "activation": activation, "frequency": frequency}), tmp_path)


def test_activation_of_film_has_pytorchs_slope():
    film = {"type": "film", "norm": False, "gamma_activation": "leaky_relu"}
    model = build_model(small({**CUNET, "conditioning": {**CUNET["conditioning"], **film}}))
    kernel, bias = model.get_layer("gamma").weights
    kernel.assign(tf.zeros_like(kernel))
    bias.assign(-tf.ones_like(bias))
    gammas = tf.keras.Model(model.input, model.get_layer("gamma_per_block").output)
    np.testing.assert_allclose(gammas(noise(small(CUNET)))[0], -0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("frequency", "where", "shared"),
    [
        (None, "decoder", "decoder_1_dense"),
        ({"type": "fc"}, "decoder", "decoder_1_dense"),
        ({"type": "lasaft"}, "decoder", "encoder_1_frequency_linear_1"),
        ({"type": "lasaft"}, "full", "encoder_1_dense"),
    ],
)
def test_what_instruments_share_is_computed_once(frequency, where, shared):
    conditioning = {**CUNET["conditioning"], "where": where}
    model = build_model(small({**CUNET, "frequency": frequency, "conditioning": conditioning}))
    axis = 1 if "linear" in shared else 0
    assert model.get_layer(shared).output.shape[axis] == 1
    later = [layer for layer in model.layers if layer.name.startswith("decoder_2_dense")]
    assert all(layer.output.shape[0] == 2 for layer in later)


def test_silence_has_a_phase():
    model = build_model(small({**CUNET, "spectrogram": "magnitude"}))
    estimates = model(tf.zeros_like(noise(small(CUNET))), training=False)
    assert np.isfinite(estimates["vocals"]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": 4}, "model.blocks must be odd, not 4"),
        ({"kernel_size": 4}, "model.kernel_size must be odd"),
        ({"time_levels": [2]}, "model.time_levels must be different levels between 0 and 1"),
        ({"nb_bins": 67}, "multiple of 4 plus 1"),
        ({"nb_bins": 61}, "must be the 65 bins"),
        ({"channels": 0}, "model.channels must be a whole number >= 1, not 0"),
        (
            {"frequency": {"type": "grouped", "bands": 17}},
            "model.frequency.bands must be at most 16",
        ),
        (
            {"conditioning": {"control_layers": 1}},
            "model.conditioning.control_layers .* >= 2",
        ),
        ({"conditioning": {"embedding": 0}}, "model.conditioning.embedding .* >= 1"),
        ({"blocks": 13}, "nb_frames must be a multiple of 64"),
    ],
)
def test_faults(changes, words):
    if changes.get("blocks") == 13:
        changes = {**changes, "nb_bins": 65}
    with pytest.raises(SeparationError, match=words):
        small({**CUNET, **changes})


def test_norm_needs_company():
    with pytest.raises(SeparationError, match="two or more targets"):
        small(CUNET, targets=["vocals"])


def test_another_type_replaces_the_base(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"spleeter_2": 1, "base": "spleeter_2:mask", "model": {"type": "cunet"}}')
    with pytest.raises(SeparationError, match="two or more targets"):  # not: unknown key level
        load_configuration(str(path))


@pytest.mark.parametrize("name", ["lasaft", "lightsaft", "cunet_grouped"])
def test_embedded_without_weights(name):
    assert f"spleeter_2:{name}" in embedded_models()
    configuration = load_configuration(f"spleeter_2:{name}")
    assert configuration.instruments == ("vocals", "drums", "bass", "other")
    with pytest.raises(SeparationError, match="train it, or convert a checkpoint"):
        Separator(f"spleeter_2:{name}")
    few = replace(configuration.model, blocks=3, channels=2, layers=1)
    model = build_model(replace(configuration, model=few))
    assert model.output_shape.keys() == set(configuration.targets)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_dense_convolutions_spread(count):
    layer = DenseConvNorm("x", 3, 3, count, "leaky_relu")
    tf.keras.utils.set_random_seed(0)
    x = tf.random.normal((2, 1, 8, 9, 5))
    layer(x)
    for weight in layer.weights:
        weight.assign(tf.random.uniform(weight.shape, 0.5, 1.5))
    joined = layer(x)
    layer.freeze()
    np.testing.assert_allclose(layer(x), joined, rtol=1e-5)
    layer.weights[0].assign(2 * layer.weights[0])
    np.testing.assert_allclose(layer(x), joined, rtol=1e-5)  # rearranged once, not per call
    assert [w.name for w in layer.convolutions[0].weights][:2] == [
        "x_conv_1/kernel:0",
        "x_conv_1/bias:0",
    ]
