import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spleeter_2.config.training import USUAL, Augmentation, Training
from spleeter_2.config.validation import parse
from spleeter_2.data.augmentation import (
    augment,
    change_gain,
    change_gain_db,
    change_speed,
    clip,
    equalise,
    flip_sign,
    nb_samples_needed,
    peaking_filter,
    swap_channels,
)
from spleeter_2.errors import SeparationError

RATE = 44100
EVERYTHING = Augmentation(
    gain_db=(-6, 6), channel_swap=0.5, sign_flip=0.5, speed=0.06, equaliser_db=6, clipping=0.5
)


class Drawn:
    """A generator whose draws are given: results can be worked out by hand."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self, size):
        return np.array(self.draws.pop(0))

    def uniform(self, low, high, size=None):
        """``low + (high - low) * draw``."""
        return low + (high - low) * np.array(self.draws.pop(0))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


STEMS = np.array([[[1, 2], [3, -4]], [[5, 6], [7, 8]]], np.float32)  # [I, S, C]


def test_gain():
    louder = change_gain(STEMS, Drawn([0.0, 0.75]), 0.25, 1.25)
    np.testing.assert_allclose(louder, [[[0.25, 0.5], [0.75, -1]], [[5, 6], [7, 8]]])
    louder = change_gain_db(STEMS, Drawn([0.5, 1.0]), -20, 20)
    np.testing.assert_allclose(louder, [[[1, 2], [3, -4]], [[50, 60], [70, 80]]])


def test_channel_swap():
    swapped = swap_channels(STEMS, Drawn([0.4, 0.6]), 0.5)
    np.testing.assert_array_equal(swapped, [[[2, 1], [-4, 3]], [[5, 6], [7, 8]]])


def test_sign_flip():
    flipped = flip_sign(STEMS, Drawn([0.6, 0.4]), 0.5)
    np.testing.assert_array_equal(flipped, [[[1, 2], [3, -4]], [[-5, -6], [-7, -8]]])


def test_clipping():
    # the first stem: chosen, 20 log10(2) dB under its peak of 4; the second is not chosen
    clipped = clip(STEMS, Drawn([0.4, 0.6], [20 * np.log10(2) / 10, 1.0]), 0.5, 10)
    np.testing.assert_allclose(clipped, [[[1, 2], [2, -2]], [[5, 6], [7, 8]]], rtol=1e-6)


def test_the_peaking_filter_has_its_gain_at_its_centre_and_none_far_away():
    import scipy.signal

    section = peaking_filter(1000, 1.0, 6.0, RATE)
    _, response = scipy.signal.sosfreqz(section, [0, 1000, RATE / 2], fs=RATE)
    np.testing.assert_allclose(20 * np.log10(np.abs(response)), [0, 6, 0], atol=1e-9)


def test_speed_changes_pitch_and_tempo_together():
    time = np.arange(nb_samples_needed(Augmentation(speed=0.5), RATE)) / RATE
    sine = np.sin(2 * np.pi * 1000 * time, dtype=np.float32)
    stems = np.stack([np.stack([sine, 2 * sine], axis=1), np.stack([sine, sine], axis=1)])
    faster = change_speed(stems, Drawn(1.0), 0.5, RATE)  # the upper bound: 1.5
    assert faster.shape == (2, RATE, 2) and faster.dtype == np.float32
    expected = np.sin(2 * np.pi * 1500 * np.arange(RATE) / RATE)
    inner = slice(500, -500)  # the sine begins and ends hard
    np.testing.assert_allclose(faster[0, inner, 1], 2 * expected[inner], atol=2e-3)
    np.testing.assert_allclose(faster[1, inner, 0], expected[inner], atol=1e-3)
    slower = change_speed(stems, Drawn(0.0), 0.5, RATE)  # 1 / 1.5
    expected = np.sin(2 * np.pi * 1000 / 1.5 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(slower[1, inner, 0], expected[inner], atol=1e-3)


def test_the_defaults_do_nothing():
    stems = noise(2, 1000, 2)
    np.testing.assert_array_equal(
        augment(stems, Augmentation(), np.random.default_rng(0), 1000, RATE), stems
    )
    assert Augmentation().remix == 0


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    instruments=st.integers(1, 4),
    channels=st.integers(1, 2),
    nb_samples=st.integers(100, 20000),
)
def test_the_same_state_gives_the_same_stems_and_the_input_is_kept(
    seed, instruments, channels, nb_samples
):
    stems = noise(instruments, nb_samples_needed(EVERYTHING, nb_samples), channels, seed=seed)
    before = stems.copy()
    first = augment(stems, EVERYTHING, np.random.default_rng(seed), nb_samples, RATE)
    again = augment(stems, EVERYTHING, np.random.default_rng(seed), nb_samples, RATE)
    other = augment(stems, EVERYTHING, np.random.default_rng(seed + 1), nb_samples, RATE)
    assert first.shape == (instruments, nb_samples, channels) and first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(stems, before)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("speed", [0.0, 1e-6, 0.06, 0.5])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_speed_never_lacks_samples(speed, draw):
    for nb_samples in (1, 17, 4096, 44101):
        stems = noise(1, nb_samples_needed(Augmentation(speed=speed), nb_samples), 2)
        if speed:
            assert change_speed(stems, Drawn(draw), speed, nb_samples).shape == (1, nb_samples, 2)
        else:
            assert stems.shape[1] == nb_samples


def test_the_usual_draws_lie_in_their_bounds_and_spread():
    ones = np.ones((2, 1, 2), np.float32) * [1, 2]
    gains, flips, swaps = [], [], []
    for seed in range(2000):
        out = augment(ones.astype(np.float32), USUAL, np.random.default_rng(seed), 1, RATE)
        gains.extend(np.abs(out).min(axis=(1, 2)))
        flips.extend(out[:, 0, 0] < 0)
        swaps.extend(np.abs(out[:, 0, 0]) > np.abs(out[:, 0, 1]))
    assert 0.25 <= min(gains) < 0.27 and 1.23 < max(gains) <= 1.25
    assert 0.46 < np.mean(flips) < 0.54 and 0.46 < np.mean(swaps) < 0.54


def test_a_mono_stem_has_nothing_to_swap():
    stems = noise(2, 10, 1)
    np.testing.assert_array_equal(swap_channels(stems, np.random.default_rng(0), 1.0), stems)


def test_silence_stays_silence():
    silent = np.zeros((2, nb_samples_needed(EVERYTHING, 1000), 2), np.float32)
    assert not augment(silent, EVERYTHING, np.random.default_rng(1), 1000, RATE).any()


def test_the_equaliser_stays_within_its_decibels():
    impulse = np.zeros((4, 8192, 1), np.float32)
    impulse[:, 0] = 1
    out = equalise(impulse, np.random.default_rng(5), 6, RATE)
    response = 20 * np.log10(np.abs(np.fft.rfft(out[..., 0])))
    assert np.abs(response).max() < 6.01
    assert (np.abs(response).max(axis=1) > 0.1).all()  # each stem got a filter
    assert len({tuple(row) for row in response}) == 4  # of its own


def test_options_come_from_json_and_go_to_json():
    options = {"remix": 1, "gain": [0.25, 1], "channel_swap": 0.5}
    augmentation = parse(Augmentation, options)
    assert augmentation == Augmentation(remix=1.0, gain=(0.25, 1.0), channel_swap=0.5)
    text = json.dumps(msgspec.to_builtins(augmentation))
    assert parse(Augmentation, json.loads(text)) == augmentation


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"remix": 1.5}, "remix must be a number <= 1.0, not 1.5"),
        ({"remix": -0.5}, "remix must be a number >= 0.0, not -0.5"),
        ({"sign_flip": float("nan")}, "sign_flip must be a number >= 0.0, not nan"),
        ({"gain": [1.25, 0.25]}, "gain must be two finite numbers, the lower one first, not 1.25"),
        ({"gain": [-1.0, 1.0]}, "gain[0] must be a number >= 0.0, not -1.0"),
        ({"gain": [1.0]}, "gain must be a list of length 2, not [1.0]"),
        ({"gain": [0.5, 1.0], "gain_db": [-3.0, 3.0]}, "gain must not be set beside gain_db"),
        ({"gain_db": [-np.inf, 0.0]}, "gain_db must be two finite numbers"),
        ({"gain_db": [0.0, np.nan]}, "gain_db must be two finite numbers"),
        ({"speed": 0.7}, "speed must be a number <= 0.5, not 0.7"),
        ({"equaliser_db": -1.0}, "equaliser_db must be a number >= 0.0, not -1.0"),
        ({"clipping_db": 100.0}, "clipping_db must be a number <= 40.0, not 100.0"),
    ],
)
def test_values_out_of_range(options, sentence):
    with pytest.raises(SeparationError) as raised:
        parse(Training, {"augmentation": options})
    assert str(raised.value).startswith(f"augmentation.{sentence}")
