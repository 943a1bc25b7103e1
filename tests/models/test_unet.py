import numpy as np
import pytest
import tensorflow as tf
from msgspec import to_builtins
from msgspec.structs import replace
from support.models import UNET, noise, run_model_test, small

from spleeter_2.audio.mixing import residual
from spleeter_2.config.networks import FrequencyTransformation, Head
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.frequency import BandConv1D
from spleeter_2.models.inference import inference_function, on_spectrograms, without_neutral_parts
from spleeter_2.models.layers import BatchNormalization, from_polyphase, to_polyphase
from spleeter_2.models.polyphase import DilatedConv2D, UpConv2DToPolyphase
from spleeter_2.models.unet import LevelledMagnitude
from spleeter_2.models.variables import assign, named_variables


def unet(**options) -> Configuration:
    """Spleeter's U-Net, three levels deep, with one target."""
    return small({**UNET, **to_builtins(options)}, targets=["vocals"], residual="accompaniment")


GROUPED = FrequencyTransformation(level=3, bands=2, width=4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nb_bins": 65, "level": None},
        {"frequency": (GROUPED,)},
        {"frequency": (GROUPED, FrequencyTransformation(level=1, bands=3, dilations=(1, 2)))},
        {"shift_average": True},
        {"head": Head("regression"), "frequency": (GROUPED,), "shift_average": True},
    ],
)
def test_models(options, tmp_path):
    run_model_test(unet(**options), tmp_path)


def test_several_targets_share_nothing_but_the_input(tmp_path):
    configuration = small(UNET)
    run_model_test(configuration, tmp_path)
    assert configuration.targets_needed(["drums"]) == ("drums",)
    assert configuration.targets_needed(["other"]) == ("vocals", "drums")
    only = build_model(configuration, ["drums"])
    assert all("drums" in name for name in named_variables(only))
    with pytest.raises(SeparationError, match="does not separate 'bass'"):
        build_model(configuration, ["bass"])


def test_new_parts_start_neutral():
    """With Spleeter's weights in it, the regression network begins as the masking one."""
    plain = build_model(unet())
    regression = build_model(unet(head=Head("regression"), frequency=(GROUPED,)))
    named = named_variables(regression)
    for name, variable in named_variables(plain).items():
        named[name].assign(variable)
    mixture = noise(unet(), 2)
    before = plain(mixture, training=False)["vocals"]
    assert np.abs(before).max() > 1
    assert np.allclose(regression(mixture, training=False)["vocals"], before, atol=1e-4)


def test_shift_average_is_the_mean_of_two_grids():
    """A song that starts later by half the stride of the deepest level: the same mean."""
    model = build_model(unet(shift_average=True, level=None))
    single = build_model(unet(level=None))
    weights_of = named_variables(model)
    for name, variable in named_variables(single).items():
        weights_of[name].assign(variable)
    features = tf.random.stateless_normal((2, 8, 4, 6), (1, 2))

    def deepest(network):
        start = network.get_layer("vocals_encoder_3_conv")
        x = network.get_layer("vocals_decoder_1_norm")
        return lambda z: x(
            network.get_layer("vocals_decoder_1_activation")(
                network.get_layer("vocals_decoder_1_conv")(start(z))
            )
        )

    def padded(before):
        return tf.pad(features, ((0, 0), (before, 2 - before), (0, 0), (0, 0)))

    one = deepest(single)(padded(0))[:, :-2]
    two = deepest(single)(padded(1))[:, 1:-1]
    assert np.abs(one - two).max() > 1e-3
    mean = model.get_layer("vocals_mean_of_shifts")(
        deepest(model)(model.get_layer("vocals_split_shifts")(features))
    )
    assert np.allclose(mean, (one + two) / 2, atol=1e-5)


def test_neutral_parts_are_left_out_and_trained_ones_are_not():
    full = unet(head=Head("regression"), frequency=(GROUPED, replace(GROUPED, level=1)))
    model = build_model(full)
    arrays = {name: v.numpy() for name, v in named_variables(model).items()}
    assert without_neutral_parts(full, arrays) == unet(head=Head("mask"))
    arrays["vocals_frequency_1_project/kernel"] += 1e-3
    arrays["vocals_regression_project/bias"] += 1e-3
    assert without_neutral_parts(full, arrays) == unet(
        head=Head("regression"), frequency=(replace(GROUPED, level=1),)
    )


def test_only_what_is_there_and_zero_is_left_out():
    """A block of linear maps has no such kernel; a checkpoint without a part does not fit it."""
    linear = unet(frequency=(FrequencyTransformation(type="fc", level=2),))
    model = build_model(linear)
    arrays = {name: v.numpy() for name, v in named_variables(model).items()}
    assert without_neutral_parts(linear, arrays) == linear
    full = unet(head=Head("regression"), frequency=(GROUPED,))
    arrays = {name: v.numpy() for name, v in named_variables(build_model(full)).items()}
    wider = unet(head=Head("regression", width=5), frequency=(replace(GROUPED, width=7),))
    for other in (wider, unet(frequency=(replace(GROUPED, level=2),))):
        kept = without_neutral_parts(other, arrays)
        assert kept == other
        with pytest.raises(SeparationError, match="do not fit the architecture"):
            assign(build_model(kept), arrays, "here")


def test_the_regression_can_leave_magnitude_and_phase_of_the_mixture():
    model = build_model(unet(head=Head("regression")))
    bias = named_variables(model)["vocals_regression_project/bias"]
    planes = np.zeros((4, 8), np.float32)  # g real, g imaginary, r real, r imaginary
    planes[1] = 3.0
    bias.assign(planes.reshape(-1))
    mixture = noise(unet(), 1)
    estimate = model(mixture, training=False)["vocals"].numpy()[:, :, :60]
    ratio = estimate / mixture[:, :, :60]
    assert np.allclose(ratio.imag, 3.0, atol=1e-3)
    assert (ratio.real > 0).all() and (ratio.real < 1).all()


def test_the_estimate_follows_the_level_of_the_mixture():
    """With level normalisation a quieter song gives the same stems, quieter."""
    mixture = noise(unet(), 1)
    levelled = build_model(unet(level=0.175))
    loud = levelled(mixture, training=False)["vocals"].numpy()
    quiet = levelled(0.03 * mixture, training=False)["vocals"].numpy()
    assert np.allclose(quiet, 0.03 * loud, atol=1e-4 * np.abs(loud).max())


def test_level_is_the_rms_of_the_waveform():
    from spleeter_2.audio.stft import Transform

    waveform = 0.05 * np.random.default_rng(0).normal(size=(65536, 2)).astype(np.float32)
    mixture = Transform(1024, 256).forward(waveform)[np.newaxis]
    layer = LevelledMagnitude(513, 513, 1024, level=0.2, max_gain=40)
    magnitude = np.abs(mixture)
    assert layer.gain(magnitude).numpy().item() == pytest.approx(4.0, rel=0.02)
    padded = np.pad(magnitude, ((0, 0), (0, 300), (0, 0), (0, 0)))
    assert layer.gain(padded).numpy().item() == pytest.approx(4.0, rel=0.02)
    assert layer.gain(0 * magnitude).numpy().item() == pytest.approx(100.0)


def test_silence_stays_silence():
    """Whatever the network has learnt to say of it, and without a gradient that is no number."""
    model = build_model(unet(head=Head("regression"), frequency=(GROUPED,)))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.3))
    silence = tf.zeros_like(noise(unet()))
    corrections = tf.keras.Model(model.input, model.get_layer("vocals_regression_project").output)
    assert np.abs(corrections(silence, training=False)).max() > 0.1
    with tf.GradientTape() as tape:
        estimate = model(silence, training=False)["vocals"]
        loss = tf.reduce_sum(tf.math.real(estimate) + tf.math.imag(estimate))
    assert np.abs(estimate).max() == 0
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


@pytest.mark.parametrize("head", ["mask", "regression"])
def test_a_model_of_its_band_only_is_the_same(head):
    configuration = unet(head=Head(head), level=0.2, frequency=(GROUPED,))
    whole, band = build_model(configuration), build_model(configuration, band_only=True)
    rng = np.random.default_rng(0)
    for one, other in zip(whole.weights, band.weights, strict=True):
        one.assign(np.abs(rng.normal(size=one.shape, scale=0.3)))
        other.assign(one)
    mixture = noise(configuration, 1)
    expected = whole(mixture, training=False)["vocals"]
    found = band(mixture[:, :, :60], training=False)["vocals"]
    assert found.shape == (*mixture.shape[:2], 60, mixture.shape[3])
    np.testing.assert_allclose(found, expected[:, :, :60], rtol=1e-5, atol=1e-5)


def test_above_its_band_a_model_is_silent():
    estimate = build_model(unet())(noise(unet(), 1), training=False)["vocals"].numpy()
    assert np.abs(estimate[:, :, 60:]).max() == 0 and np.abs(estimate[:, :, 59]).max() > 0


@pytest.mark.parametrize("n", [2, 4])
def test_polyphase_is_space_to_depth(n):
    inputs = tf.random.stateless_normal((2, 8, 12, 3), (1, 2))
    blocks = to_polyphase(inputs, n)
    assert (blocks.numpy() == tf.nn.space_to_depth(inputs, n).numpy()).all()
    assert (from_polyphase(blocks, n).numpy() == inputs.numpy()).all()


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 8, 16, 8)])
@pytest.mark.parametrize("n", [2, 4])
def test_polyphase_layers_are_the_last_two_of_spleeter(shape, n):
    """Whose inputs are joined, and whose result is in its places."""
    inputs = tf.random.stateless_normal(shape, (1, 2))
    parts = tf.split(inputs, [1, shape[-1] - 1], axis=-1)
    up, dilated = UpConv2DToPolyphase(), DilatedConv2D(2, n)
    plain_up = tf.keras.layers.Conv2DTranspose(1, 5, strides=2, padding="same")
    plain_dilated = tf.keras.layers.Conv2D(2, 4, dilation_rate=2, padding="same")
    dilated(tf.tanh(up(parts))), plain_dilated(plain_up(inputs))
    plain_up.set_weights([plain_up.get_weights()[0], np.array([0.3])])
    plain_dilated.set_weights([plain_dilated.get_weights()[0], np.array([0.5, -1.0])])
    up.set_weights(plain_up.get_weights())
    dilated.set_weights(plain_dilated.get_weights())

    def gradients(network, layers):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = network()
            value = tf.reduce_sum(tf.sin(outputs))
        variables = [variable for layer in layers for variable in layer.trainable_variables]
        return outputs, *tape.gradient(value, [inputs, *variables])

    def ours():
        parts = tf.split(inputs, [1, shape[-1] - 1], axis=-1)
        return tf.nn.depth_to_space(dilated(tf.tanh(up(parts))), n)

    found = gradients(ours, (up, dilated))
    # a dilated convolution has no gradient on a CPU: its kernel with the holes has
    expected = gradients(
        lambda: plain_dilated.bias + with_holes(tf.tanh(plain_up(inputs)), plain_dilated.kernel),
        (plain_up, plain_dilated),
    )
    assert np.allclose(found[0], plain_dilated(tf.tanh(plain_up(inputs))), atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, other, atol=1e-4)


def with_holes(x, kernel):
    """Convolution with dilation 2, as a plain one with a kernel that is zero in between."""
    spread = tf.one_hot([0, -1, 1, -1, 2, -1, 3], 4)
    return tf.nn.conv2d(x, tf.einsum("sk,tl,klio->stio", spread, spread, kernel), 1, "SAME")


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_one_channel_is_that_of_many(training):
    """It takes another way; the moving variance of the other one is the unbiased one."""
    inputs = 3 + 2 * tf.random.stateless_normal((2, 30, 40, 1), (1, 2))
    one = BatchNormalization()
    many = BatchNormalization()
    found = one(inputs, training=training)
    expected = many(tf.tile(inputs, (1, 1, 1, 2)), training=training)
    assert not one.fused and many.fused
    assert np.allclose(found, expected[..., :1], atol=1e-5)
    for ours, theirs in zip(one.weights, many.weights, strict=True):
        assert np.allclose(ours, theirs[:1], rtol=1e-3)


@pytest.mark.parametrize("bands, bins", [(1, 12), (4, 12), (3, 10)])
def test_every_band_has_its_own_kernel(bands, bins):
    inputs = tf.random.stateless_normal((2, 3, bins, 5), (1, 2)).numpy()
    layer = BandConv1D(4, kernel_size=3, bands=bands, dilation=2)
    outputs = layer(inputs).numpy()
    kernel = layer.kernel.numpy()
    assert kernel.shape == (bands, 3, 5, 4)
    assert bands == 1 or not np.allclose(kernel[0], kernel[1])
    start = 0
    for band, size in enumerate(np.diff(np.linspace(0, bins, bands + 1).astype(int))):
        size = layer.sizes[band]
        part = np.pad(inputs[:, :, start : start + size], ((0, 0), (0, 0), (2, 2), (0, 0)))
        expected = sum(part[:, :, 2 * k : 2 * k + size] @ kernel[band, k] for k in range(3))
        assert np.allclose(outputs[:, :, start : start + size], expected, atol=1e-5)
        start += size
    assert start == bins


def test_too_many_bands_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 9 bands"):
        BandConv1D(4, 3, bands=9)(tf.zeros((1, 1, 8, 2)))


def test_a_model_at_rest_computes_the_same():
    model = build_model(unet(head=Head("regression"), shift_average=True))
    mixture = noise(unet(), 1)
    before = model(mixture, training=False)["vocals"].numpy()
    fixed = on_spectrograms(inference_function(model))
    assert np.allclose(fixed(mixture)["vocals"], before, atol=1e-4)


def test_residual_is_what_is_left():
    estimates = {"vocals": np.array([1.0, 2.0]), "drums": np.array([0.5, 0.0])}
    assert residual(np.array([2.0, 2.0]), estimates).tolist() == [0.5, 0.0]
