"""Checks of a converted model: stored arrays, finite output, agreement with PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.config.loading import WINDOW, load_configuration
from spleeter_2.config.networks import RoFormer
from spleeter_2.errors import SeparationError
from spleeter_2.separation.separator import Separator
from spleeter_2.weights import checkpoint as weights

if TYPE_CHECKING:
    import tensorflow as tf

TOLERANCE = 1e-4  # of the output's maximum
NB_SAMPLES = 10000  # of noise to separate


@dataclass(frozen=True)
class Difference:
    """Largest difference to PyTorch's output, ``relative`` to the maximum of that output.

    Attributes:
        limit: accepted absolute difference; None: ``TOLERANCE`` limits the relative one.
    """

    output: str
    absolute: float
    relative: float
    limit: float | None = None

    @property
    def is_accepted(self) -> bool:
        """True if the difference is within its limit; False for NaN."""
        if self.limit is None:
            return self.relative <= TOLERANCE
        return self.absolute <= self.limit


def check_arrays(folder: Path, values: Mapping[str, np.ndarray]) -> None:
    """Compare the arrays of a checkpoint with those that were written, a few at a time.

    Raises:
        SeparationError: an array is missing or differs.
    """
    checkpoint = weights.open_checkpoint(folder)
    if checkpoint.index.entries.keys() != values.keys():
        raise SeparationError(f"{folder} does not hold the arrays that were written")
    for found in checkpoint.in_pieces(verify=True):
        for name, array in found.items():
            if not np.array_equal(array, values[name].astype(np.float32, copy=False)):
                raise SeparationError(f"{folder}: {name} differs from the array that was written")


def noise_peak(folder: Path) -> float:
    """Separate fixed noise with a converted model.

    Returns:
        The largest sample of the estimates, for noise with a standard deviation of 0.1.

    Raises:
        SeparationError: an estimate is not finite.
    """
    separator = Separator(str(folder))
    channels = separator.configuration.nb_channels
    noise = np.random.default_rng(0).normal(0, 0.1, (NB_SAMPLES, channels)).astype(np.float32)
    stems = separator.separate(noise)
    for name, stem in stems.items():
        if not np.isfinite(stem).all():
            raise SeparationError(f"the converted network's estimate of {name} is not finite")
    return float(max(np.abs(stem).max() for stem in stems.values()))


def read_expected(path: Path) -> dict[str, np.ndarray]:
    """Read a network's inputs and outputs, computed by PyTorch, from an ``.npz`` file.

    For LaSAFT, ``spec_in`` ``[B, P, T, F]`` with ``spec_out`` ``[conditions, B, P, T, F]`` (the
    network alone), ``wave_in`` ``[1, S, C]`` with ``wave_out`` ``[conditions, 1, S, C]`` (a window
    through STFT, network and inverse STFT), ``cond_ids`` ``[conditions]``. For a RoFormer, see
    ``roformer_check``.

    Raises:
        SeparationError: the file cannot be read, or holds no such inputs and outputs.
    """
    arrays = read_arrays(path)
    if not any({f"{kind}_in", f"{kind}_out"} <= arrays.keys() for kind in ("spec", "wave")):
        raise SeparationError(
            f"{path} holds no expected outputs: it needs spec_in and spec_out, or wave_in and "
            "wave_out"
        )
    return arrays


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file.

    Raises:
        SeparationError: the file cannot be read.
    """
    try:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files if name != "config_json"}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise SeparationError(f"cannot read the expected outputs {path}: {error}") from error


def differences(folder: Path, expected: Mapping[str, np.ndarray]) -> list[Difference]:
    """Compare a converted model with the outputs that ``read_expected`` returned.

    Raises:
        SeparationError: the shapes are those of another network.
    """
    import tensorflow as tf

    from spleeter_2.models import build_model
    from spleeter_2.models.inference import inference_function, on_spectrograms
    from spleeter_2.models.variables import assign

    configuration = load_configuration(str(folder))
    if isinstance(configuration.model, RoFormer):
        from .roformer_check import differences_of_roformer

        return differences_of_roformer(configuration, expected)
    model = build_model(configuration)
    arrays = weights.read_checkpoint(folder)
    assign(model, arrays, folder)
    network = on_spectrograms(inference_function(model))  # as the separator uses it
    transform = Transform(
        configuration.stft.frame_length, configuration.stft.frame_step, arrays.get(WINDOW)
    )
    try:
        outputs = [
            *_spectrograms(model, expected),
            *_waveforms(network, transform, configuration.targets, expected),
        ]
        return [difference(name, found, expected[name]) for name, found in outputs]
    except (tf.errors.InvalidArgumentError, ValueError, IndexError) as error:
        raise SeparationError(
            f"the expected outputs are of another network than {configuration.name}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _conditions(expected: Mapping[str, np.ndarray], output: str) -> list[int]:
    return [int(number) for number in expected.get("cond_ids", range(len(expected[output])))]


def _spectrograms(
    model: tf.keras.Model, expected: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the outputs of the network alone, from spectrogram planes."""
    if not {"spec_in", "spec_out"} <= expected.keys():
        return
    import tensorflow as tf

    network = tf.keras.Model(model.get_layer("planes").output, model.get_layer("last_conv").output)
    batch = expected["spec_out"].shape[1]
    planes = np.moveaxis(expected["spec_in"][:batch], 1, -1)[np.newaxis]
    planes = network(planes, training=False).numpy()  # [I, B, T, F, P]
    planes = np.moveaxis(planes, -1, 2)
    yield "spec_out", planes[_conditions(expected, "spec_out")]
    if "spec_out_mixed" in expected:  # one condition per item of the batch
        mixed = [
            planes[int(number), item] for item, number in enumerate(expected["mixed_cond_ids"])
        ]
        yield "spec_out_mixed", np.stack(mixed)


def _waveforms(
    network: Callable[[np.ndarray], dict[str, tf.Tensor]],
    transform: Transform,
    targets: tuple[str, ...],
    expected: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield one window after STFT, network and inverse STFT."""
    if not {"wave_in", "wave_out"} <= expected.keys():
        return
    (waveform,) = expected["wave_in"]
    estimates = network(transform.forward(waveform)[np.newaxis])
    waves = [
        transform.inverse(estimates[targets[number]].numpy()[0], len(waveform))
        for number in _conditions(expected, "wave_out")
    ]
    yield "wave_out", np.stack(waves)[:, np.newaxis]


def difference(
    output: str, found: np.ndarray, expected: np.ndarray, limit: float | None = None
) -> Difference:
    """Compare an output.

    Raises:
        ValueError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(f"{output} has shape {found.shape}, not {expected.shape}")
    absolute = float(np.abs(found - expected).max())
    return Difference(output, absolute, absolute / float(np.abs(expected).max() or 1), limit)
