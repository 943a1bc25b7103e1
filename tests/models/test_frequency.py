"""Frequency transformations in both backbones."""

import numpy as np
import pytest
import tensorflow as tf
from support.models import CUNET, UNET, noise, run_model_test, small

from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.frequency import BandConv1D
from spleeter_2.models.variables import named_variables

SHARED = [
    {"type": "fc", "bn_factor": 4, "min_bn_units": 2},
    {"type": "fc", "bn_factor": None, "bias": True},
    {"type": "conv", "width": 4},
    {"type": "dilated", "width": 4, "dilations": [1, 2]},
    {"type": "dilated", "width": 4, "dilations": [1, 3], "parallel": True},
    {"type": "grouped", "width": 4, "bands": 3},
]
CONDITIONED = [
    {"type": "lasaft", "bn_factor": 4, "num_tdfs": 3, "dk": 4},
    {"type": "lasaft", "bn_factor": None, "num_tdfs": 2, "dk": 4, "bias": True},
    {"type": "lightsaft", "bn_factor": 4, "min_bn_units": 2, "num_tdfs": 3, "dk": 4},
]


def name_of(options):
    return "-".join(str(value) for value in options.values())


@pytest.mark.slow
@pytest.mark.parametrize("options", SHARED[:-1], ids=name_of)
def test_unet_with_every_type(options, tmp_path):
    run_model_test(small({**UNET, "frequency": [{**options, "level": 2}]}), tmp_path)


@pytest.mark.parametrize("options", SHARED[-1:], ids=name_of)
def test_unet(options, tmp_path):
    run_model_test(small({**UNET, "frequency": [{**options, "level": 2}]}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("options", [SHARED[2], SHARED[5], CONDITIONED[0]], ids=name_of)
def test_cunet_with_every_type(options, tmp_path):
    run_model_test(small({**CUNET, "frequency": options}, residual=None), tmp_path)


@pytest.mark.parametrize("options", [None, CONDITIONED[-1]], ids=lambda o: o and name_of(o))
def test_cunet(options, tmp_path):
    run_model_test(small({**CUNET, "frequency": options}, residual=None), tmp_path)


@pytest.mark.parametrize("options", SHARED, ids=name_of)
def test_starts_neutral_in_the_unet_and_learns(options):
    tf.keras.utils.set_random_seed(0)
    plain = build_model(small(UNET))
    model = build_model(small({**UNET, "frequency": [{**options, "level": 3}]}))
    for name, variable in named_variables(plain).items():
        named_variables(model)[name].assign(variable)
    mixture = noise(small(UNET))
    with tf.GradientTape() as tape:
        estimates = model(mixture, training=False)
        loss = tf.reduce_sum(tf.abs(estimates["vocals"]))
    expected = plain(mixture, training=False)
    for target in expected:
        np.testing.assert_array_equal(estimates[target], expected[target])
    added = [v for v in model.trainable_variables if v.name.startswith("vocals_frequency")]
    gradients = tape.gradient(loss, added)
    assert any(np.abs(gradient).max() > 0 for gradient in gradients)


def test_grouped_keeps_its_names():
    model = build_model(small({**UNET, "frequency": [{"type": "grouped", "level": 3}]}))
    names = named_variables(model)
    assert names["vocals_frequency_3_conv_1/kernel"].shape == (4, 3, 8, 128)
    assert names["vocals_frequency_3_norm_1/gamma"].shape == (128,)
    assert names["vocals_frequency_3_project/kernel"].shape == (4, 3, 128, 8)


def test_bands_are_convolved_apart():
    layer = BandConv1D(2, 3, bands=2)
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 3)).astype(np.float32)
    both = layer(x)
    kernel, bias = layer.get_weights()
    for band, (start, stop) in enumerate([(0, 5), (5, 9)]):
        alone = tf.nn.conv1d(x[0, :, start:stop], kernel[band], 1, "SAME") + bias[band]
        np.testing.assert_allclose(both[0, :, start:stop], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "conv", "bands": 2}, "bands must be 1 .* only type grouped has bands"),
        ({"type": "fc", "dilations": [1, 2]}, r"dilations must be \[1\] .* have dilations"),
        ({"type": "lightsaft", "bn_factor": None}, "bn_factor must not be null .* a bottleneck"),
        ({"type": "fc", "bn_factor": 0}, "bn_factor must be a whole number >= 1, not 0"),
        ({"kernel_size": 0}, "kernel_size must be a whole number >= 1, not 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, not 4"),
        ({"dilations": []}, r"dilations must be a list of length >= 1, not \[\]"),
        ({"dilations": [1, 0]}, r"dilations\[1\] must be a whole number >= 1, not 0"),
    ],
)
def test_faults(options, words):
    with pytest.raises(SeparationError, match=rf"^model\.frequency\[0\]\.{words}"):
        small({**UNET, "frequency": [{"level": 1, **options}]})


def test_unet_has_no_conditions():
    with pytest.raises(SeparationError, match=r"model\.frequency\[0\]\.type lasaft .* lacks"):
        small({**UNET, "frequency": [{"type": "lasaft", "level": 1}]})
