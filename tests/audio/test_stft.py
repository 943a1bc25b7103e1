import numpy as np
import scipy.signal

from spleeter_2.audio.stft import Transform


def test_forward_is_the_centred_hann_stft():
    waveform = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    spectrogram = Transform(64, 16).forward(waveform)
    padded = np.pad(waveform, ((32, 32), (0, 0)), mode="reflect").T
    _, _, expected = scipy.signal.stft(
        padded, window="hann", nperseg=64, noverlap=48, boundary=None, padded=False
    )
    expected *= 32  # SciPy divides by the sum of the window
    assert spectrogram.shape == (1 + 1000 // 16, 33, 2)
    assert np.abs(spectrogram - expected.transpose(2, 1, 0)).max() < 1e-4
