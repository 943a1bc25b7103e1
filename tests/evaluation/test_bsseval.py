"""Our BSSEval and museval's on the same arrays."""

import museval
import numpy as np
import pytest
from scipy.signal import butter, sosfilt
from support.evaluation import excerpt

from evaluation import bsseval
from evaluation.bsseval import METRICS, TAPS, References
from evaluation.scores import round_to_16_bits

RATE = 44100


@pytest.fixture(scope="module")
def sources(stems):
    """Vocals and accompaniment ``[2, S, 2]`` of the excerpt, 2.3 s: two frames and a rest."""
    part = slice(RATE, RATE + int(2.3 * RATE))
    return np.stack([stems[name][part] for name in ("vocals", "accompaniment")]).astype(float)


def separated(references):
    """A leaky separation with noise of its own."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=references.shape)
    return 0.8 * references + 0.2 * references[::-1] + noise


def compare(references, estimates, rate=RATE):
    """Scores by museval and by us, ``[metrics, sources, frames]``."""
    expected = museval.metrics.bss_eval(references, estimates, window=rate, hop=rate)
    found = References(references, rate).score(estimates)
    assert list(found) == ["SDR", "ISR", "SIR", "SAR"] == list(METRICS)
    return np.stack(expected[:4]), np.stack(list(found.values()))


def silenced(signals, source, part):
    signals = signals.copy()
    signals[source, part] = 0
    return signals


def band_limited(signals):
    """What lossy codecs leave: nothing above 8 kHz but the rounding to 16 bits."""
    sections = butter(12, 8000, fs=RATE, output="sos")
    return round_to_16_bits(sosfilt(sections, signals, axis=1))


def mono(signals):
    return round_to_16_bits(signals.mean(axis=2, keepdims=True))


def opposed(signals):
    """The second channel of a second is the first one, inverted."""
    signals = signals.copy()
    signals[0, SECOND, 1] = -signals[0, SECOND, 0]
    return signals


SECOND = slice(RATE, 2 * RATE)
# references and estimates, made from two stereo sources; one channel is quicker
MATERIAL = {
    "stereo": lambda true: (true, separated(true)),
    "opposite channels": lambda true: (true, opposed(separated(true))),
    "equal channels": lambda true: (mono(true).repeat(2, 2), separated(true)),
    "a channel of silence": lambda true: (true * [[[1, 0]], [[1, 1]]], separated(true)),
    "mono": lambda true: (mono(true), separated(mono(true))),
    "silent reference": lambda true: (silenced(mono(true), 0, SECOND), separated(mono(true))),
    "silent estimate": lambda true: (mono(true), silenced(separated(mono(true)), 1, SECOND)),
    "band-limited": lambda true: (band_limited(mono(true)), separated(band_limited(mono(true)))),
    "whole frames": lambda true: cut(true, 2 * RATE),
    "a rest of one sample": lambda true: cut(true, RATE + 1),
    "below one frame": lambda true: cut(true, 20000),
}


def cut(true, nb_samples):
    true = mono(true)[:, :nb_samples]
    return true, separated(true)


@pytest.mark.parametrize("material", MATERIAL)
def test_scores_are_musevals(sources, material):
    true, said = map(round_to_16_bits, MATERIAL[material](round_to_16_bits(sources)))
    expected, found = compare(true, said)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    has_silence = material in ("silent reference", "silent estimate", "opposite channels")
    assert np.isnan(found[..., 1:]).any() == has_silence and np.isfinite(found[..., 0]).all()
    # equal channels have no unique filters: museval takes those that rounding errors lead to
    tolerance = 1e-5 if material == "equal channels" else 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_four_sources():
    stems = excerpt(1, 2.3)
    true = mono(np.stack([stems[name] for name in ("vocals", "drums", "bass", "other")]))
    expected, found = compare(true, round_to_16_bits(separated(true)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_other_frames():
    """Filters reach from one frame to the next, also where a frame is hardly longer."""
    true = np.random.default_rng(1).normal(size=(2, 8000, 1))
    expected, found = compare(true, separated(true) + 0.3 * np.roll(true, 500, axis=1), 600)
    assert found.shape == (4, 2, 13)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="shorter than 512 taps"):
        References(true, TAPS - 1)


def test_perfect_estimates(sources):
    """Without an error the SDR is infinite; museval's other ratios are those of its rounding."""
    true = mono(sources)
    expected, found = compare(true, true)
    assert np.isposinf(found[0]).all() and np.isposinf(expected[0]).all()
    assert found[1:].min() > 150 and expected[1:].min() > 150


def test_by_hand():
    """White noise needs no filters: own gain 1, leak a, noise b of independent sources."""
    generator = np.random.default_rng(0)
    nb_samples = 60 * 4000
    true = generator.normal(size=(2, nb_samples, 1))
    said = true + 0.1 * true[::-1] + 0.01 * generator.normal(size=true.shape)
    found = References(true, nb_samples).score(said)
    expected = {"SDR": -10 * np.log10(0.01 + 1e-4), "SIR": 20, "SAR": 10 * np.log10(1.01 / 1e-4)}
    for metric, level in expected.items():
        assert found[metric] == pytest.approx(np.full((2, 1), level), abs=0.1)
    delayed = np.concatenate([np.zeros((2, 300, 1)), true[:, :-300]], axis=1)
    found = References(true, nb_samples).score(delayed)
    assert found["SDR"] == pytest.approx(np.full((2, 1), -3), abs=0.1)
    # a delay is a filter; only the end of the track is lost
    level = 10 * np.log10(nb_samples / 300)
    assert found["SAR"] == pytest.approx(np.full((2, 1), level), abs=1)


def test_sources_that_depend_on_each_other(sources):
    """No Gram matrix of full rank: what of the estimate they explain is defined all the same."""
    said = round_to_16_bits(separated(mono(sources)))
    true = mono(sources)[[0, 0]] * [[[1]], [[0.5]]]
    expected, found = compare(true, said)
    np.testing.assert_allclose(found[[0, 1, 3]], expected[[0, 1, 3]], rtol=0, atol=1e-5)
    assert found[2].min() > 100 and expected[2].min() > 100  # one source: no interference


def test_shorter_than_the_filters(sources):
    """More filters than samples explain everything: artifacts are rounding errors."""
    true = mono(sources)[:, 2000:2100]
    expected, found = compare(true, round_to_16_bits(separated(true)))
    np.testing.assert_allclose(found[:3], expected[:3], rtol=0, atol=1e-5)
    assert found[3].min() > 100 and expected[3].min() > 100


def test_floats_without_rounding_differ(sources):
    """The references of a codec as they are: the filters above 8 kHz are free, in both."""
    sections = butter(12, 8000, fs=RATE, output="sos")
    true = sosfilt(sections, mono(sources), axis=1)
    expected, found = compare(true, separated(true))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-6)
    assert np.abs(found[2] - expected[2]).max() > 1


def test_references_are_prepared_once(sources, monkeypatch):
    made = []
    solver = bsseval._solver
    monkeypatch.setattr(bsseval, "_solver", lambda lags: made.append(1) or solver(lags))
    true = mono(sources)
    shared = References(true, RATE)
    for said in (separated(true), 0.5 * separated(true)):
        once = shared.score(iter(said))
        alone = References(true, RATE).score(said)
        for metric in METRICS:
            np.testing.assert_array_equal(once[metric], alone[metric])
    assert len(made) == 3 * 3  # of all sources and of each: shared, and twice alone
    with pytest.raises(ValueError, match="shapes differ"):
        shared.score(true[:, :-1])
