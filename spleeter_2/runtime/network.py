"""Trained networks: a configuration with its weights -> a function for inference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spleeter_2 import models
from spleeter_2.config.loading import WINDOW
from spleeter_2.config.schema import Configuration
from spleeter_2.models import checkpoint as weights
from spleeter_2.models.inference import Network


@dataclass(frozen=True)
class Trained:
    """A network at rest.

    Attributes:
        network: complex64 ``[B, T, F, C]`` -> ``{target: complex64 [B, T, F, C]}``.
        targets: what it estimates.
        input_shape: of a spectrogram, ``(F, C)``.
        window: of the STFT ``[frame_length]``, where it has one of its own.
    """

    network: Network
    targets: tuple[str, ...]
    input_shape: tuple[int, int]
    window: np.ndarray | None


def load_network(configuration: Configuration, instruments: Iterable[str] | None = None) -> Trained:
    """Build a network, fill it with its weights and put it at rest.

    Args:
        instruments: what will be asked of it (default: all).

    Raises:
        SeparationError: no weights, or weights that do not fit; an unknown instrument.
    """
    folder = configuration.weights
    arrays = weights.read_checkpoint(folder)
    model = models.build_model(models.without_neutral_parts(configuration, arrays), instruments)
    weights.assign(model, arrays, folder)
    return Trained(
        models.at_rest(model),
        models.targets_needed(configuration, instruments),
        tuple(model.input_shape[2:]),
        arrays.get(WINDOW),
    )
