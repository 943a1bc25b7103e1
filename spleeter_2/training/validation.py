"""Validation: loss and SDR over fixed examples of the songs that are set aside."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from spleeter_2.audio.mixing import residual
from spleeter_2.audio.stft import Transform
from spleeter_2.config.schema import Configuration
from spleeter_2.data.examples import ValidationSet

from .batches import named_spectrograms
from .model import TrainingModel


class Validation:
    """Scores of a model on a fixed set of examples.

    Args:
        examples: their instruments are in the configuration's order.
    """

    def __init__(self, configuration: Configuration, examples: ValidationSet) -> None:
        self.configuration = configuration
        self.examples = examples
        self.transform = Transform(configuration.stft.frame_length, configuration.stft.frame_step)

    def run(self, model: TrainingModel) -> dict[str, float]:
        """Mean loss, and the mean over songs of the SDR in dB of every instrument.

        A song's SDR is 10 log10 of the energy of the stem over that of the error, summed over all
        its examples; songs in which an instrument is silent do not count for that instrument.
        """
        names = self.configuration.instruments
        estimate = tf.function(model, autograph=False)
        losses = []
        energies: dict[int, np.ndarray] = {}
        for waveforms, (song, _) in zip(self.examples, self.examples.places, strict=True):
            batch = self._batch(waveforms)
            estimates = estimate(batch["mixture"], training=False)
            losses.append(float(model.loss_function(batch, estimates)[0]))
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

    def sounds(self, model: TrainingModel) -> dict[str, np.ndarray]:
        """The first example ``[S, C]``: mixture, truth and estimate of every instrument."""
        waveforms = self.examples[0]
        mixture = self._batch(waveforms)["mixture"]
        estimates = self.waveforms(waveforms, model(mixture, training=False).numpy()[0])
        sounds = {"mixture": waveforms.sum(axis=0)}
        for name, true, estimate in zip(
            self.configuration.instruments, waveforms, estimates, strict=True
        ):
            sounds.update({f"{name}/truth": true, f"{name}/estimate": estimate})
        return sounds

    def _batch(self, waveforms: np.ndarray) -> dict[str, np.ndarray]:
        """Instruments ``[I, S, C]`` -> batch of one example with the bins of the model's band."""
        nb_targets, nb_bins = len(self.configuration.targets), self.configuration.model.nb_bins
        example = named_spectrograms(waveforms, nb_targets, self.transform, nb_bins)
        return {name: stft[np.newaxis] for name, stft in example.items()}

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
