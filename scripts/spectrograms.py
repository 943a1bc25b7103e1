"""Draw docs/spectrograms.png, the spectrograms of the demo song and its stems.

python scripts/spectrograms.py
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from spleeter_2 import Separator
from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.stft import Transform

HERE = Path(__file__).parent
SECONDS = (8, 20)  # start and end of the excerpt
TOP = 8000  # highest frequency, in Hz


def main() -> None:
    with AudioReader(HERE.parent / "demo" / "lets-go-fishin.ogg") as reader:
        rate = reader.sample_rate
        mixture = np.concatenate(list(reader.blocks()))
    separator = Separator("spleeter_2:grouped")
    stems = {"mixture": mixture, **separator.separate(mixture, rate)}
    transform = Transform(
        separator.configuration.stft.frame_length, separator.configuration.stft.frame_step
    )
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, constrained_layout=True)
    for axis, (name, waveform) in zip(axes, stems.items(), strict=True):
        part = waveform[SECONDS[0] * rate : SECONDS[1] * rate]
        power = np.mean(np.abs(transform.forward(part)) ** 2, axis=2)
        level = 10 * np.log10(power.T + 1e-6)
        image = axis.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(*SECONDS, 0, rate / 2000),
            vmin=-20,
            vmax=50,
            cmap="magma",
        )
        axis.set(title=name, xlabel="time in s", ylim=(0, TOP / 1000))
    axes[0].set_ylabel("frequency in kHz")
    figure.colorbar(image, ax=axes, label="power in dB")
    figure.savefig(HERE.parent / "docs" / "spectrograms.png", dpi=90)


if __name__ == "__main__":
    main()
