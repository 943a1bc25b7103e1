"""Separation models: Keras models from the mixture's complex STFT to one per instrument.

Every model maps complex64 ``[B, T, F, C]`` to a dictionary ``{target: complex64 [B, T, F, C]}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from msgspec.structs import replace

from spleeter_2.config.networks import CUNet, UNet
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .cunet import build_cunet
from .inference import at_rest
from .unet import build_unet

BUILDERS = {UNet: build_unet, CUNet: build_cunet}

__all__ = ["at_rest", "build_model", "residual", "targets_needed", "without_neutral_parts"]


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


def without_neutral_parts(
    configuration: Configuration, arrays: Mapping[str, np.ndarray]
) -> Configuration:
    """The configuration less what is still at its neutral start, for inference.

    A frequency transformation whose last kernel is zero adds nothing, a regression whose last
    kernel is zero is the masked mixture: the estimates are the same, only sooner. Only a last
    kernel that is there, has the right shape and is zero says so: whatever else stays in, and
    ``weights.assign`` judges whether it fits.

    Args:
        arrays: the weights by name.
    """
    model = configuration.model
    if not isinstance(model, UNet):
        return configuration

    def neutral(part: str, shape: tuple[int, ...]) -> bool:
        names = [f"{target}_{part}_project" for target in configuration.targets]
        return all(
            f"{name}/kernel" in arrays
            and arrays[f"{name}/kernel"].shape == shape
            and not arrays[f"{name}/kernel"].any()
            and not arrays[f"{name}/bias"].any()
            for name in names
        )

    frequency = tuple(
        block
        for block in model.frequency
        if block.linear
        or not neutral(
            f"frequency_{block.level}", block.last_kernel(model.filters[block.level - 1])
        )
    )
    regression = (1, 1, model.head.width, 16 * configuration.nb_channels)
    plain = model.head.type == "regression" and neutral("regression", regression)
    head = replace(model.head, type="mask") if plain else model.head
    return replace(configuration, model=replace(model, frequency=frequency, head=head))


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


def residual(mixture: Any, estimates: Mapping[str, Any]) -> Any:
    """Mixture minus all estimates: waveforms or spectrograms, NumPy or TensorFlow."""
    for estimate in estimates.values():
        mixture = mixture - estimate
    return mixture
