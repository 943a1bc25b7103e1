"""Audio adapters of users."""

import numpy as np
import pytest

from spleeter_2.audio.adapter import Adapter
from spleeter_2.errors import SeparationError


class Loader:
    """Loads what a test gives to it."""

    waveform = np.zeros((100, 2), np.float32)

    def load(self, path, offset, duration, sample_rate):
        return self.waveform, sample_rate

    def save(self, path, waveform, sample_rate, codec, bitrate):
        raise NotImplementedError


@pytest.fixture
def load(monkeypatch):
    def load(waveform):
        monkeypatch.setattr(Loader, "waveform", waveform)
        return Adapter(f"{__name__}.Loader").reader("song.wav", 44100, 0.0, None)

    return load


def test_the_first_two_channels(load):
    waveform = np.arange(300, dtype=np.float32).reshape(100, 3)
    (block,) = load(waveform).blocks()
    assert np.array_equal(block, waveform[:, :2])


@pytest.mark.parametrize(
    "waveform, words",
    [
        (np.zeros((2, 44100), "f4"), r"not \[2, 44100\]"),  # transposed, as other libraries load it
        (np.zeros((0, 2), "f4"), r"not \[0, 2\]"),
        (np.full((100, 2), np.nan, "f4"), "NaN or infinity"),
    ],
)
def test_what_is_no_waveform_is_refused_with_the_song(load, waveform, words):
    with pytest.raises(SeparationError, match=f"^song.wav: .*{words}"):
        load(waveform)
