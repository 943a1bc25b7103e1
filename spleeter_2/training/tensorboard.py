"""TensorBoard events of a training run: scalars, images, audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from spleeter_2.audio.stft import Transform
from spleeter_2.files import writing
from spleeter_2.models.file_errors import file_errors

RANGE = 80.0  # of the images, in dB below the loudest bin


class TensorBoardLog:
    """Writer of TensorBoard events.

    Args:
        folder: of the events.
        sample_rate: of the audio, in Hz.
        transform: STFT of the images.

    Raises:
        SeparationError: the folder cannot be written.
    """

    def __init__(self, folder: Path, sample_rate: int, transform: Transform) -> None:
        self._folder = folder
        with writing(folder), file_errors():
            self._writer = tf.summary.create_file_writer(str(folder))
        self._rate = sample_rate
        self._transform = transform

    def write(
        self, step: int, numbers: Mapping[str, float], sounds: Mapping[str, np.ndarray]
    ) -> None:
        """Write the events of an epoch.

        Args:
            step: number of completed training steps.
            numbers: losses and scores by name.
            sounds: waveforms float32 ``[S, C]`` by name, written as audio and as images.

        Raises:
            SeparationError: the folder cannot be written.
        """
        with writing(self._folder), file_errors():
            self._write(step, numbers, sounds)

    def _write(
        self, step: int, numbers: Mapping[str, float], sounds: Mapping[str, np.ndarray]
    ) -> None:
        with self._writer.as_default(step=step):
            for name, number in numbers.items():
                tf.summary.scalar(name, number)
            for name, waveform in sounds.items():
                tf.summary.image(name, self._image(waveform))
                tf.summary.audio(name, waveform[np.newaxis], self._rate)
        self._writer.flush()

    def _image(self, waveform: np.ndarray) -> np.ndarray:
        """Waveform -> spectrogram ``[1, F, T, 1]``, 0 to 1 on a dB scale, highest bin first."""
        magnitude = np.abs(self._transform.forward(waveform)).mean(axis=-1)
        level = 20 * np.log10(magnitude / max(magnitude.max(), 1e-9) + 1e-9)
        return np.clip(1 + level / RANGE, 0, 1).T[np.newaxis, ::-1, :, np.newaxis]
