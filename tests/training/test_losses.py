"""The losses against numbers worked by hand, against NumPy, and their gradients."""

import numpy as np
import pytest
import tensorflow as tf

from spleeter_2.config.training import LossOptions
from spleeter_2.training.losses import OverMixturePenalty, SpectrogramLoss, build_loss

LOSSES = [
    SpectrogramLoss("mse"),
    SpectrogramLoss("l1"),
    SpectrogramLoss("magnitude_l1"),
    SpectrogramLoss("mse", two_source=True),
    SpectrogramLoss("log_mse", two_source=True),
    OverMixturePenalty(0.5),
    OverMixturePenalty(0.5, "sum", floor=-60.0, frame_length=16),
    build_loss(LossOptions("l1", over_mixture_penalty=2.0), 4096),
]
NAMES = [f"{type(loss).__name__}-{index}" for index, loss in enumerate(LOSSES)]


def bins(*values):
    """One example of one frame, one bin, one channel; the values are instruments."""
    return tf.constant(np.array(values, np.complex64).reshape(1, -1, 1, 1, 1))


def batch_of(truth, nb_targets=1):
    """Mixture, targets and residual of ``[B, 1 + I, T, F, C]``."""
    batch = {"mixture": truth[:, 0], "targets": truth[:, 1 : nb_targets + 1]}
    return {**batch, "residual": truth[:, -1]} if truth.shape[1] > nb_targets + 1 else batch


def spectrograms(seed=0, instruments=1, residual=True):
    """A batch, and estimates ``[2, I, 3, 5, 2]``."""
    random = np.random.default_rng(seed)
    shape = (2, instruments + residual, 3, 5, 2)
    truth = random.normal(size=shape) + 1j * random.normal(size=shape)
    mixture = truth.sum(axis=1, keepdims=True)
    noise = random.normal(size=(2, instruments, 3, 5, 2)) * (1 + 1j)
    whole = np.concatenate([mixture, truth], axis=1).astype(np.complex64)
    return batch_of(whole, instruments), (truth[:, :instruments] + noise).astype(np.complex64)


@pytest.mark.parametrize(
    ("loss", "truth", "estimate", "expected"),
    [
        # vocals 3 + 4i of a mixture 10, estimated as 0: (9 + 16) / 2, (3 + 4) / 2, |5 - 0|
        (SpectrogramLoss("mse"), (10, 3 + 4j, 7 - 4j), (0,), 12.5),
        (SpectrogramLoss("l1"), (10, 3 + 4j, 7 - 4j), (0,), 3.5),
        (SpectrogramLoss("magnitude_l1"), (10, 3 + 4j, 7 - 4j), (0,), 5.0),
        # the accompaniment is estimated as 10 where it is 7 - 4i: the same error once more
        (SpectrogramLoss("mse", two_source=True), (10, 3 + 4j, 7 - 4j), (0,), 25.0),
        # of a magnitude error another one: |10 - sqrt(65)|
        (SpectrogramLoss("magnitude_l1", True), (10, 3 + 4j, 7 - 4j), (0,), 15 - 65**0.5),
        # 12.5 of a mixture's 50, and a floor of a hundredth
        (SpectrogramLoss("log_mse"), (10, 3 + 4j, 7 - 4j), (0,), np.log(0.26)),
        (SpectrogramLoss("log_mse", True), (10, 3 + 4j, 7 - 4j), (0,), 2 * np.log(0.26)),
        (SpectrogramLoss("log_mse"), (0, 0, 0), (0,), np.log(0.01)),
        # two targets: the sum of both errors, 1 / 2 and 4 / 2
        (SpectrogramLoss("mse"), (10, 1, 2), (2, 2 - 2j), 2.5),
        # twice the mixture costs log 2, half of it nothing
        (OverMixturePenalty(3.0, floor=-200.0), (10, 5, 5), (20,), 3 * np.log(2)),
        (OverMixturePenalty(3.0, floor=-200.0), (10, 5, 5), (5j,), 0.0),
    ],
)
def test_by_hand(loss, truth, estimate, expected):
    batch = batch_of(bins(*truth), len(estimate))
    assert loss(batch, bins(*estimate)).numpy() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_penalty_against_numpy(reduce):
    batch, estimate = spectrograms(instruments=2)
    floor = 512 / 4 * 10 ** (-40 / 20)
    mixture = batch["mixture"][:, np.newaxis]
    ratio = (np.abs(estimate) ** 2 + floor**2) / (np.abs(mixture) ** 2 + floor**2)
    excess = np.maximum(0, np.log(np.sqrt(ratio)))
    expected = 0.1 * getattr(excess, reduce)(axis=(2, 3, 4)).sum(axis=1)
    loss = OverMixturePenalty(0.1, reduce, floor=-40.0, frame_length=512)
    assert expected.min() > 0
    np.testing.assert_allclose(loss(batch, estimate), expected, rtol=1e-5)


@pytest.mark.parametrize("error", ["mse", "l1", "magnitude_l1"])
def test_errors_against_numpy(error):
    batch, estimate = spectrograms(instruments=2, residual=False)
    difference = estimate - batch["targets"]
    expected = {
        "mse": np.concatenate([difference.real, difference.imag], axis=4) ** 2,
        "l1": np.abs(np.concatenate([difference.real, difference.imag], axis=4)),
        "magnitude_l1": np.abs(np.abs(estimate) - np.abs(batch["targets"])),
    }[error]
    expected = expected.mean(axis=(2, 3, 4)).sum(axis=1)
    np.testing.assert_allclose(SpectrogramLoss(error)(batch, estimate), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_gradients(loss):
    """Against finite differences in float64, real and imaginary part of every bin."""
    batch, estimate = tf.nest.map_structure(
        lambda x: tf.constant(x, tf.complex128), spectrograms(3)
    )

    def of_parts(real, imaginary):
        return tf.reduce_sum(loss(batch, tf.complex(real, imaginary)))

    parts = [tf.math.real(estimate), tf.math.imag(estimate)]
    theory, numeric = tf.test.compute_gradient(of_parts, parts, delta=1e-6)
    for ours, differences in zip(theory, numeric, strict=True):
        assert np.abs(ours).max() > 1e-4
        np.testing.assert_allclose(ours, differences, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("estimate", [0.0, 1e-20, 1e4])
def test_silence_has_finite_gradients(loss, estimate):
    silence = tf.zeros((1, 3, 2, 3, 2), tf.complex64)
    parts = tf.Variable(tf.fill((1, 1, 2, 3, 2), estimate))
    with tf.GradientTape() as tape:
        value = loss(batch_of(silence), tf.complex(parts, tf.zeros_like(parts)))
    assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, parts)).all()


def test_silence_costs_nothing():
    silence = tf.zeros((1, 2, 2, 3, 2), tf.complex64)
    assert OverMixturePenalty(1.0)(batch_of(silence), silence[:, :1]).numpy() == 0.0


def test_what_is_refused():
    with pytest.raises(ValueError, match="must be one of mse, "):
        SpectrogramLoss("l3")
    with pytest.raises(ValueError, match="must be mean or sum"):
        OverMixturePenalty(1.0, "max")
    with pytest.raises(ValueError, match="must not be negative"):
        OverMixturePenalty(-1.0)
    with pytest.raises(ValueError, match="needs a model with a residual"):
        SpectrogramLoss("mse", two_source=True)(*spectrograms(residual=False))
