import numpy as np
import pytest

from evaluation.metrics import is_silent, sdr


def test_a_tenth_of_the_amplitude_is_20_db():
    reference = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    assert sdr(reference, 0.9 * reference) == pytest.approx(20, abs=1e-3)


def test_all_channels_count_together():
    reference = np.array([[1.0, 1.0], [1.0, 1.0]])
    estimate = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert sdr(reference, estimate) == pytest.approx(10 * np.log10(4), abs=1e-5)


def test_silence_and_perfection_are_finite():
    silence = np.zeros((10, 2))
    assert sdr(silence, silence) == 0
    assert 60 < sdr(silence + 1, silence + 1) < 200
    assert sdr(silence, silence + 1) < -60


def test_shapes_that_differ():
    with pytest.raises(ValueError, match="shapes differ"):
        sdr(np.zeros((3, 2)), np.zeros((3, 1)))


def test_silence_is_60_db_below_full_scale():
    assert is_silent(np.zeros((0, 2))) and is_silent(np.zeros((3, 2)))
    assert is_silent(np.full((3, 2), -0.99e-3)) and not is_silent(np.full((3, 2), -1.01e-3))
    assert not is_silent(np.array([[0.0, 0.0], [0.0, 0.5]]))
