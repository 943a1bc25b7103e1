"""Validation: loss and SDR over fixed windows of the songs that are set aside."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from spleeter_2.audio.mixing import residual
from spleeter_2.audio.stft import Transform
from spleeter_2.config.schema import Configuration
from spleeter_2.data.examples import Windows

from .model import Trainee


class Validation:
    """A fixed set of windows, and what a network makes of them.

    Args:
        windows: float32 ``[I, S, C]`` each, the instruments in the configuration's order.
    """

    def __init__(self, configuration: Configuration, windows: Windows) -> None:
        self.configuration = configuration
        self.windows = windows
        self.transform = Transform(configuration.stft.frame_length, configuration.stft.frame_step)

    def run(self, trainee: Trainee) -> dict[str, float]:
        """Mean loss, and the mean over songs of the SDR in dB of every instrument.

        A song's SDR is that of all its windows together, 10 log10 of the energy of the stem over
        that of the error; songs in which an instrument is silent do not count for it.
        """
        names = self.configuration.instruments
        estimate = tf.function(trainee, autograph=False)
        losses = []
        energies: dict[int, np.ndarray] = {}
        for waveforms, (song, _) in zip(self.windows, self.windows.places, strict=True):
            truth = self._truth(waveforms)
            estimates = estimate(truth[:, 0], training=False)
            losses.append(float(trainee.loss.call(truth, estimates)[0]))
            errors = self.waveforms(waveforms, estimates.numpy()[0]) - waveforms
            sums = [
                np.sum(np.square(x, dtype=np.float64), axis=(1, 2)) for x in (waveforms, errors)
            ]
            energies[song] = energies.get(song, 0) + np.stack(sums)  # [2, I]
        found = {"val_loss": float(np.mean(losses))}
        for index, name in enumerate(names):
            pairs = [pair[:, index] for pair in energies.values() if pair[0, index] > 0]
            if pairs:
                ratios = [10 * np.log10(max(s, 1e-10) / max(e, 1e-10)) for s, e in pairs]
                found[f"val_sdr_{name}"] = float(np.mean(ratios))
        return found

    def sounds(self, trainee: Trainee) -> dict[str, np.ndarray]:
        """The first window: mixture, and of every instrument truth and estimate, ``[S, C]``."""
        waveforms = self.windows[0]
        mixture = self._truth(waveforms)[:, 0]
        estimates = self.waveforms(waveforms, trainee(mixture, training=False).numpy()[0])
        sounds = {"mixture": waveforms.sum(axis=0)}
        for name, true, estimate in zip(
            self.configuration.instruments, waveforms, estimates, strict=True
        ):
            sounds.update({f"{name}/truth": true, f"{name}/estimate": estimate})
        return sounds

    def _truth(self, waveforms: np.ndarray) -> np.ndarray:
        """Instruments ``[I, S, C]`` -> ``[1, 1 + I, T, F, C]``, the band's bins."""
        nb_bins = self.configuration.model.nb_bins
        return spectrograms(self.transform, waveforms, nb_bins)[np.newaxis]

    def waveforms(self, waveforms: np.ndarray, estimates: np.ndarray) -> np.ndarray:
        """Estimates ``[targets, T, F, C]`` -> waveforms of all instruments ``[I, S, C]``."""
        length = waveforms.shape[1]
        targets = self.configuration.targets
        found = {
            name: self.transform.inverse(estimates[index], length)
            for index, name in enumerate(targets)
        }
        if self.configuration.residual:
            found[self.configuration.residual] = residual(waveforms.sum(axis=0), found)
        return np.stack([found[name] for name in self.configuration.instruments])


def spectrograms(transform: Transform, waveforms: np.ndarray, nb_bins: int) -> np.ndarray:
    """Instruments ``[I, S, C]`` -> complex64 ``[1 + I, T, nb_bins, C]``, their sum first."""
    stems = [transform.forward(waveform)[:, :nb_bins] for waveform in waveforms]
    return np.stack([np.sum(stems, axis=0), *stems])
