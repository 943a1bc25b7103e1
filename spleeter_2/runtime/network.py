"""Interface of a trained network, independent of the runtime (at present TensorFlow)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from spleeter_2.checks import check_text
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .tensorflow_import import import_tensorflow


@dataclass(frozen=True)
class Network:
    """A trained network, ready for inference.

    Attributes:
        estimate: function from mixture complex64 ``[T, F, C]`` to
            ``{target: complex64 [T, F, C]}``, T the frames of the configuration's segment.
        targets: the estimated targets.
        window: STFT window ``[frame_length]``, or None for the Hann window.
    """

    estimate: Callable[[np.ndarray], dict[str, np.ndarray]]
    targets: tuple[str, ...]
    window: np.ndarray | None


def load_network(
    configuration: Configuration,
    instruments: Iterable[str] | None = None,
    device: str | None = None,
    sole_user: bool = False,
) -> Network:
    """Import TensorFlow, build the network and read its weights.

    Args:
        instruments: instruments to separate (default: all).
        device: "cpu", "gpu" or "gpu:N" (default: TensorFlow's choice).
        sole_user: see ``import_tensorflow``.

    Raises:
        SeparationError: weights that are damaged or do not fit, or an unknown device.
    """
    tf = import_tensorflow(sole_user)
    from spleeter_2.models.inference import load_for_inference

    device = _device(tf, device)
    with tf.device(device):
        model = load_for_inference(configuration, instruments)
    shape = (1, configuration.segment.nb_frames, *model.input_shape)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.complex64)], autograph=False)
    def function(mixture):
        with tf.device(device):
            return model.function(mixture)

    def estimate(mixture: np.ndarray) -> dict[str, np.ndarray]:
        estimates = function(np.ascontiguousarray(mixture)[np.newaxis])
        return {name: estimates[name].numpy()[0] for name in model.targets}

    return Network(estimate, model.targets, model.window)


def parse_device(name: str) -> tuple[str, int]:
    """Kind ("CPU" or "GPU") and number of a device.

    Raises:
        SeparationError: another text, or no text.
    """
    found = re.fullmatch(r"(cpu|gpu)(?::([0-9]{1,9}))?", check_text("the device", name).lower())
    if found is None:
        raise SeparationError(f"the device must be cpu, gpu or gpu:N, not {name!r}")
    return found[1].upper(), int(found[2] or 0)


def _device(tf, name: str | None) -> str | None:
    """TensorFlow's name of a device, or None for TensorFlow's choice.

    Raises:
        SeparationError: an invalid or missing device.
    """
    if name is None:
        return None
    kind, index = parse_device(name)
    present = tf.config.list_logical_devices(kind)
    if index >= len(present):
        raise SeparationError(
            f"there is no {name}: TensorFlow finds {len(present)} {kind} device(s)"
        )
    return present[index].name
