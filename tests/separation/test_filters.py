"""Estimates above a model's band."""

import numpy as np
import pytest
from support.models import UNET, small, write_model

from spleeter_2.errors import SeparationError
from spleeter_2.separation.filters import extended_by_power
from spleeter_2.separation.separator import Separator


def noise(rng, shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def test_the_mixture_goes_on_above_the_band_by_the_share_of_power_below():
    mixture = noise(np.random.default_rng(0), (5, 12, 2))
    estimate = mixture[:, :8].copy()
    estimate[0] = 0  # no voice
    estimate[1, 6:] *= 0.5  # the highest quarter of 8 bins
    estimate[2, :6] = 0  # the others do not count
    estimate[3, :, 1] = 0  # in the left channel only
    estimate[4] *= 3  # more than the mixture
    extended = extended_by_power(mixture, {"vocals": estimate})["vocals"]
    assert extended.dtype == np.complex64 and extended.shape == mixture.shape
    np.testing.assert_array_equal(extended[:, :8], estimate)
    share = [[0, 0], [0.25, 0.25], [1, 1], [1, 0], [1, 1]]
    expected = mixture[:, 8:] * np.array(share)[:, np.newaxis]
    np.testing.assert_allclose(extended[:, 8:], expected, rtol=1e-5, atol=1e-7)


def test_silence_stays_silent():
    silence = np.zeros((2, 12, 1), np.complex64)
    assert not extended_by_power(silence, {"vocals": silence[:, :8]})["vocals"].any()


@pytest.mark.parametrize("mwf", [False, True])
def test_only_the_band_above_changes(tmp_path, mwf):
    waveform = 0.1 * np.random.default_rng(0).standard_normal((10000, 2)).astype(np.float32)
    vocals = {}
    for extension in ("zeros", "power"):
        folder = tmp_path / extension
        write_model(small({**UNET, "nb_bins": 48}, extension=extension), folder)
        stems = Separator(folder, mwf=mwf).separate(waveform)
        np.testing.assert_allclose(sum(stems.values()), waveform, rtol=0, atol=1e-6)
        vocals[extension] = stems["vocals"]
    added = vocals["power"] - vocals["zeros"]
    spectrum = np.abs(np.fft.rfft(added * np.hanning(len(added))[:, np.newaxis], axis=0)) ** 2
    edge = 48 * len(spectrum) // 64  # of the model's band
    assert spectrum[edge - edge // 16 :].sum() > 1000 * spectrum[: edge - edge // 16].sum() > 0


def test_one_extension_at_a_time():
    masks = {"residual": None, "ratio_mask": {}, "extension": "power"}
    with pytest.raises(SeparationError, match="extension must be zeros beside ratio_mask"):
        small(UNET, **masks)
