"""Separation models: Keras models from the mixture's complex STFT to one STFT per target.

Every model maps complex64 ``[B, T, F, C]`` to a dictionary ``{target: complex64 [B, T, F, C]}``.
"""

from __future__ import annotations

from collections.abc import Iterable

from spleeter_2.extras import use_keras_2

use_keras_2()  # before the first import of TensorFlow

import tensorflow as tf

from spleeter_2.config.networks import CUNet, RoFormer, UNet
from spleeter_2.config.schema import Configuration
from spleeter_2.weights.resolve import refuse_onnx

from .cunet import build_cunet
from .roformer import build_roformer
from .unet import build_unet

BUILDERS = {UNet: build_unet, CUNet: build_cunet, RoFormer: build_roformer}

__all__ = ["build_model"]


def build_model(
    configuration: Configuration,
    instruments: Iterable[str] | None = None,
    band_only: bool = False,
) -> tf.keras.Model:
    """Build the network of a configuration, untrained.

    Args:
        instruments: instruments to separate (default: all); other targets are not built.
        band_only: input and estimates have the lowest F = ``model.nb_bins`` bins, which are the
            network's input, in place of all bins of the STFT.

    Returns:
        Model from complex64 ``[B, T, F, C]`` to ``{target: complex64 [B, T, F, C]}``, where T
        is a multiple of ``configuration.model.stride``.

    Raises:
        SeparationError: an unknown instrument; a model that is no network of Keras.
    """
    refuse_onnx(configuration.name, configuration)
    targets = configuration.targets_needed(instruments)
    nb_bins = configuration.model.nb_bins if band_only else configuration.stft.nb_bins
    return BUILDERS[type(configuration.model)](configuration, targets, nb_bins)
