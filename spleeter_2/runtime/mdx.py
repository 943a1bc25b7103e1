"""MDX-Net's ONNX files: spectrogram of the mixture in, spectrogram of one stem out.

Layout ``[N, 4, F, T]``, channels real and imaginary of the left, then of the right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .onnx_file import read_onnx_file
from .onnxruntime_import import onnxruntime_errors

ADVICE = "put the original ONNX file there again"
PLANES = 4  # real and imaginary parts of two channels
Estimate = Callable[[np.ndarray], dict[str, np.ndarray]]


def checked(path: Path) -> Path:
    """The path of an ONNX file that leads to no other program or folder; see ``onnx_file``."""
    read_onnx_file(path)
    return path


def check_contract(path: Path, session) -> tuple[int | None, int | None]:
    """Check the inputs and outputs of a session of ONNX Runtime.

    Returns:
        Bins and frames of the network, None where any number is accepted.

    Raises:
        SeparationError: not one input and one output float32 ``[N, 4, F, T]``.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for end in (*inputs, *outputs):
        sides = tuple(end.shape)
        fits = len(sides) == 4 and all(
            side == wanted or not isinstance(side, int)
            for side, wanted in zip(sides[:2], (1, PLANES), strict=True)
        )
        fits = fits or (not sides and end not in inputs)  # of an output it may not be stated
        if end.type != "tensor(float)" or not fits:
            shape = ", ".join(str(side) for side in sides)
            raise SeparationError(
                f"{path} is no MDX-Net: {end.name[:50]} is a {end.type} of [{shape}], not a "
                f"tensor(float) of [1, {PLANES}, bins, frames]"
            )
    if len(inputs) != 1 or len(outputs) != 1:
        raise SeparationError(
            f"{path} is no MDX-Net: it has {len(inputs)} inputs and {len(outputs)} outputs, not "
            "one of each"
        )
    bins, frames = (side if isinstance(side, int) else None for side in inputs[0].shape[2:])
    return bins, frames


def estimator(configuration: Configuration, path: Path, session) -> Estimate:
    """The function of ``Network.estimate``.

    Raises:
        SeparationError: the file is another network than the configuration's.
    """
    options = configuration.model
    sizes = (options.nb_bins, configuration.segment.nb_frames)
    for name, side, wanted in zip(
        ("bins", "frames"), check_contract(path, session), sizes, strict=True
    ):
        if side not in (None, wanted):
            raise SeparationError(
                f"{path} is a network of {side} {name}, the configuration {configuration.name} "
                f"has {wanted}"
            )
    (target,) = configuration.targets

    def estimate(mixture: np.ndarray) -> dict[str, np.ndarray]:
        planes = to_planes(mixture[:, : options.nb_bins])
        planes[:, :, : options.nb_zeroed] = 0
        found = run(path, session, planes)
        if options.denoise:
            found = 0.5 * (found - run(path, session, -planes))
        return {target: from_planes(found * np.float32(options.compensate))}

    return estimate


def run(path: Path, session, planes: np.ndarray) -> np.ndarray:
    """Planes ``[1, 4, F, T]`` through the network, same shape.

    Raises:
        SeparationError: the network cannot be computed, or returns another shape.
    """
    with onnxruntime_errors(f"cannot run the network {path}", ADVICE):
        (found,) = session.run(None, {session.get_inputs()[0].name: planes})
    if found.shape != planes.shape:
        raise SeparationError(
            f"{path} is no MDX-Net: of {list(planes.shape)} it makes {list(found.shape)}"
        )
    return found


def to_planes(spectrogram: np.ndarray) -> np.ndarray:
    """Complex64 ``[T, F, 2]`` -> float32 ``[1, 4, F, T]``."""
    parts = (spectrogram.real, spectrogram.imag)
    planes = [parts[part][..., channel].T for channel in (0, 1) for part in (0, 1)]
    return np.stack(planes)[np.newaxis].astype(np.float32, copy=False)


def from_planes(planes: np.ndarray) -> np.ndarray:
    """Float32 ``[1, 4, F, T]`` -> complex64 ``[T, F, 2]``."""
    spectrogram = np.empty((*planes.shape[:1:-1], PLANES // 2), np.complex64)
    spectrogram.real = planes[0, 0::2].T  # [T, F, 2]
    spectrogram.imag = planes[0, 1::2].T
    return spectrogram
