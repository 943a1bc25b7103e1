"""Separation models: Keras models from the mixture's complex STFT to one per instrument.

Every model maps complex64 ``[B, T, F, C]`` to a dictionary ``{target: complex64 [B, T, F, C]}``.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from spleeter_2.config.networks import CUNet, UNet
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .cunet import build_cunet
from .unet import build_unet

BUILDERS = {UNet: build_unet, CUNet: build_cunet}

__all__ = ["build_model", "targets_needed"]


def build_model(
    configuration: Configuration,
    instruments: Iterable[str] | None = None,
    band_only: bool = False,
) -> tf.keras.Model:
    """Build the network of a configuration, untrained.

    Args:
        configuration: what to build.
        instruments: what will be asked of it (default: all); targets that none of them needs
            are left out.
        band_only: spectrograms hold the bins that the network looks at alone, the lowest F =
            ``model.nb_bins``, and not all of the STFT.

    Returns:
        Model from complex64 ``[B, T, F, C]`` to ``{target: complex64 [B, T, F, C]}``, where T
        is a multiple of ``configuration.model.stride``.

    Raises:
        SeparationError: an instrument that the configuration does not have.
    """
    targets = targets_needed(configuration, instruments)
    nb_bins = configuration.model.nb_bins if band_only else configuration.stft.nb_bins
    return BUILDERS[type(configuration.model)](configuration, targets, nb_bins)


def targets_needed(
    configuration: Configuration, instruments: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Targets that must be estimated to know the instruments; the residual needs all of them."""
    wanted = tuple(instruments) if instruments is not None else configuration.instruments
    for instrument in wanted:
        if instrument not in configuration.instruments:
            raise SeparationError(
                f"{configuration.name} does not separate {instrument!r}; "
                f"it knows {', '.join(configuration.instruments)}"
            )
    if configuration.residual in wanted:
        return configuration.targets
    return tuple(target for target in configuration.targets if target in wanted)
