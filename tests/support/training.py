"""A training so small that it takes no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spleeter_2.config.loading import parse_configuration
from spleeter_2.training.trainer import Trainer

from .models import SMALL

NB_SAMPLES = 31 * 32
UNET = {
    "type": "unet",
    "nb_bins": 64,
    "filters": [4, 6, 8],
    "dropout": 0.0,
    "head": {"type": "mask"},
}


class Tones:
    """Two instruments that a small network can tell apart: a low tone, and high noise."""

    def __getitem__(self, index):
        random = np.random.default_rng([7, index])
        time = np.arange(NB_SAMPLES)[:, np.newaxis] / 8000
        tone = 0.3 * np.sin(2 * np.pi * random.uniform(200, 900) * time + random.uniform(0, 6))
        noise = np.diff(random.normal(0, 0.1, (NB_SAMPLES + 2, 1)), n=2, axis=0)
        return np.stack([np.repeat(x, 2, axis=1) for x in (tone, noise)]).astype(np.float32)


class ValidationSet(list):
    """Four examples of two songs."""

    places = ((0, 0), (0, 1), (1, 0), (1, 1))

    def __init__(self, examples=None):
        super().__init__(examples or (Tones()[10**6 + index] for index in range(4)))
        self.places = self.places[: len(self)]


def trainer(folder, examples=None, model=None, distribution=None, **changes):
    """A run of four steps per epoch, of a network so small that it takes no time.

    The changes are keys of the configuration, or of its training.
    """
    whole = {key: changes.pop(key) for key in ("stft", "segment", "sample_rate") if key in changes}
    options = {
        "steps_per_epoch": 4, "epochs": 3, "batch_size": 2, "learning_rate": 0.01, **changes
    }  # fmt: skip
    data = {
        **SMALL, "spleeter_2": 1, "targets": ["vocals"], "residual": "accompaniment",
        "model": {**UNET, **(model or {})}, "training": options, **whole,
    }  # fmt: skip
    examples = examples or Tones()
    validation = ValidationSet()
    configuration = parse_configuration(data)
    summary = {"data": {"summary": "tones"}}
    return Trainer(configuration, examples, validation, folder, summary, distribution)


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "states").iterdir())
