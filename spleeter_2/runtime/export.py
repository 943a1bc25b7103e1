"""Export a network from Keras, and compare the result with it.

The only module of this package that imports TensorFlow.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.extras import require_extra
from spleeter_2.files import atomic_file

from . import model_file
from .external_data import refer_to_checkpoint
from .network import open_session
from .tensorflow_import import import_tensorflow

OPSET = 17
TOLERANCE = 1e-4  # largest difference to Keras, relative to the largest estimate
MIN_HALVED = 1024  # elements from which a tensor is stored in 16 bits where it loses nothing

Estimate = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def export_onnx(configuration: Configuration, path: Path, refer: bool = False) -> float:
    """Write the network of a configuration with its weights as an ONNX file.

    The file takes planes ``[1, T, F, 2C]`` of the mixture, T the frames of the configuration's
    segment, and returns planes of the same shape for every target. Kernels whose values are 16-bit
    floats are stored as such.

    Args:
        path: of the file, which is not written atomically.
        refer: let the file refer to the tensors in the checkpoint, which must be beside it.

    Returns:
        The largest difference to Keras on noise and on music, relative to the largest estimate.

    Raises:
        SeparationError: no weights, or weights that do not fit; no exporter; estimates that differ
            by more than ``TOLERANCE``.
    """
    tf = import_tensorflow()
    tf2onnx = _import_exporter()
    from spleeter_2.models.inference import load_for_inference

    with tf.device("CPU"):  # also where the weights are read
        model = load_for_inference(configuration)
        shape = (1, configuration.segment.nb_frames, *model.input_shape)
        signature = [tf.TensorSpec(shape, tf.float32, name=model_file.INPUT)]

        @tf.function(input_signature=signature, autograph=False)
        def function(mixture):
            estimates = model.function(mixture)
            return {name: tf.identity(estimates[name], name) for name in model.targets}

        graph, _ = tf2onnx.convert.from_function(function, signature, opset=OPSET)
    _store_in_half(graph)
    if refer:
        refer_to_checkpoint(graph, path.parent)
    window = b"" if model.window is None else model.window.astype("<f4").tobytes()
    facts = {
        model_file.DIGEST: model_file.digest(configuration),
        model_file.WINDOW: base64.b64encode(window).decode(),
    }
    _write(graph, facts, path)
    difference = _compare(
        lambda planes: {name: value.numpy() for name, value in function(planes).items()},
        open_session(path).estimate,
        _inputs(configuration, shape),
    )
    _write(graph, {model_file.DIFFERENCE: f"{difference:.1e}"}, path)
    return difference


def write_model_file(configuration: Configuration) -> float:
    """Write ``model.onnx`` beside a model's checkpoint, atomically.

    Returns:
        see ``export_onnx``.

    Raises:
        SeparationError: see ``export_onnx``; the folder cannot be written (``WriteError``).
    """
    with atomic_file(model_file.path_of(configuration)) as draft:
        return export_onnx(configuration, draft, refer=True)


def _import_exporter():
    """Import tf2onnx quietly.

    Raises:
        SeparationError: it is not installed.
    """
    require_extra("train", "exporting a network")
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.WARNING)
    return tf2onnx


def _write(graph, facts: Mapping[str, str], path: Path) -> None:
    import onnx

    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=value)
    path.write_bytes(graph.SerializeToString())
    onnx.checker.check_model(os.fspath(path))


def _store_in_half(graph) -> None:
    """Store tensors of 16-bit values in 16 bits, with a cast behind; a runtime folds the cast."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < MIN_HALVED or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *nodes])


def _inputs(configuration: Configuration, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Planes ``[1, T, F, 2C]`` of noise and of something like music."""
    stft = configuration.stft
    nb_samples = (shape[1] - 1) * stft.frame_step
    time = np.arange(nb_samples) / configuration.sample_rate
    chord = sum(
        np.sin(2 * np.pi * frequency * partial * time) / partial
        for frequency in (110.0, 164.8, 220.0, 277.2)
        for partial in range(1, 20)
    )
    beats = np.exp(-8 * (time % 0.5))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(nb_samples, configuration.nb_channels))
    music = 0.05 * chord[:, np.newaxis] + 0.1 * beats[:, np.newaxis] * noise
    transform = Transform(stft.frame_length, stft.frame_step)
    spectrograms = [transform.forward(x.astype(np.float32)) for x in (0.1 * noise, music)]
    return [np.concatenate([x.real, x.imag], axis=-1)[np.newaxis] for x in spectrograms]


def _compare(expected: Estimate, found: Estimate, inputs: list[np.ndarray]) -> float:
    """Largest difference of estimates, relative to the largest expected one.

    Raises:
        SeparationError: it exceeds ``TOLERANCE``.
    """
    worst = 0.0
    for planes in inputs:
        other = found(planes)
        for name, estimate in expected(planes).items():
            scale = float(np.abs(estimate).max()) or 1.0
            worst = max(worst, float(np.abs(other[name] - estimate).max()) / scale)
    if not worst <= TOLERANCE:  # also NaN
        raise SeparationError(
            f"the exported network differs from Keras' by {worst:.1e} of the largest estimate, "
            f"more than {TOLERANCE:.0e}: please report it with the model's config.json"
        )
    return worst
