"""Export a network from Keras for other runtimes, and compare the result with it.

The only module of this package that imports TensorFlow.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.extras import require_extra
from spleeter_2.files import atomic_file

from . import model_file
from .external_data import prepend, refer_to_checkpoint
from .network import open_session, to_planes
from .tensorflow_import import import_tensorflow

OPSET = 17
TOLERANCE = 1e-4  # largest difference to Keras, relative to the largest estimate
MIN_HALVED = 1024  # elements from which a tensor is stored in 16 bits where it loses nothing
# formats, and the name of the file or folder of each
FILES = {"onnx": model_file.NAME, "saved_model": "saved_model", "litert": "model.tflite"}

Estimate = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Exported:
    """Facts about an exported network.

    Attributes:
        targets: names of its outputs.
        shape: of its input and of each output, planes ``(1, T, F, 2C)``.
        window: STFT window ``[frame_length]``, or None for the periodic Hann window.
        difference: largest difference to Keras on noise and on music, relative to the largest
            estimate.
    """

    targets: tuple[str, ...]
    shape: tuple[int, int, int, int]
    window: np.ndarray | None
    difference: float


def export_network(
    configuration: Configuration,
    path: Path,
    form: str,
    instruments: Iterable[str] | None = None,
    refer: bool = False,
    choose: bool = False,
) -> Exported:
    """Write the network of a configuration with its weights, and load it again to compare it.

    The input is named ``mixture``: planes ``[1, T, F, 2C]``, T the frames of the configuration's
    segment. Every output has the name of its target and the same shape.

    Args:
        path: of the file, or of the folder of a SavedModel; not written atomically.
        form: a key of ``FILES``.
        instruments: instruments to separate (default: all).
        refer: let an ONNX file refer to the tensors of the checkpoint, which must be beside it.
        choose: give the ONNX file of a conditioned network an optional input of the instruments to
            compute (``instrument_loop``), about which ONNX Runtime logs a warning.

    Raises:
        SeparationError: no weights, or weights that do not fit; a package that is not installed;
            an unknown instrument; estimates that differ by more than ``TOLERANCE``.
        OSError: the path cannot be written.
    """
    require_extra("train", "exporting a network")
    import_tensorflow().get_logger().setLevel(logging.ERROR)
    network = _build(configuration, instruments)
    write_onnx = functools.partial(_write_onnx, refer=refer, choose=choose)
    write = {"onnx": write_onnx, "saved_model": _write_saved_model, "litert": _write_litert}
    estimate = write[form](network, path)
    difference = _compare(network.estimate, estimate, _inputs(configuration, network.shape))
    if form == "onnx":
        _add_metadata(path, configuration, network.window, difference)
    return Exported(network.targets, network.shape, network.window, difference)


def export_onnx(
    configuration: Configuration, path: Path, instruments: Iterable[str] | None = None
) -> float:
    """Write the network of a configuration as a self-contained ONNX file for ``network.Session``.

    Kernels whose values are 16-bit floats are stored as such. The metadata has the digest of the
    checkpoint, the STFT's window and the difference to Keras.

    Returns:
        The difference to Keras; see ``Exported``. For all else see ``export_network``.
    """
    return export_network(configuration, path, "onnx", instruments, choose=True).difference


def write_model_file(configuration: Configuration, path: Path | None = None) -> float:
    """Write a network beside its checkpoint, atomically.

    Args:
        path: of the file (default: ``model.onnx``).

    Returns:
        The difference to Keras; see ``Exported``.

    Raises:
        SeparationError: see ``export_network``; the folder cannot be written (``WriteError``).
    """
    with atomic_file(path or model_file.path_of(configuration)) as draft:
        return export_network(configuration, draft, "onnx", refer=True, choose=True).difference


@dataclass(frozen=True)
class _Network:
    """A network as a function from planes ``[1, T, F, 2C]`` to ``{target: planes}``.

    Attributes:
        function: of the Keras model.
        keras: tf.function of it.
        signature: its argument.
    """

    function: Callable
    keras: Callable
    signature: list
    targets: tuple[str, ...]
    shape: tuple[int, int, int, int]
    window: np.ndarray | None

    def estimate(self, planes: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.keras(planes).items()}


def _build(configuration: Configuration, instruments: Iterable[str] | None) -> _Network:
    import tensorflow as tf

    from spleeter_2.models.inference import load_for_inference

    with tf.device("CPU"):  # also where the weights are read
        model = load_for_inference(configuration, instruments)
        shape = (1, configuration.segment.nb_frames, *model.input_shape)
        signature = [tf.TensorSpec(shape, tf.float32, name=model_file.INPUT)]
        keras = tf.function(model.function, signature, autograph=False)
    return _Network(model.function, keras, signature, model.targets, shape, model.window)


def _constant(function: Callable, signature: list) -> Callable:
    """tf.function of the same graph with all weights and captured tensors as constants.

    Args:
        function: its result is a dictionary of tensors.
        signature: its arguments, which have names.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        concrete = tf.function(function, signature, autograph=False).get_concrete_function()
        graph, outputs = _constant_graph(concrete)
        names = sorted(concrete.structured_outputs)  # the order of a dictionary's values

    @tf.function(input_signature=signature, autograph=False)
    def constant(*arguments):
        inputs = {spec.name: value for spec, value in zip(signature, arguments, strict=True)}
        results = tf.graph_util.import_graph_def(graph, inputs, outputs, name="")
        return dict(zip(names, results, strict=True))

    return constant


def _constant_graph(function: Any) -> tuple[Any, list[str]]:
    """GraphDef of a concrete function without variables and captured tensors, and its outputs."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2_as_graph,
    )

    constant, graph = convert_variables_to_constants_v2_as_graph(function)
    for node in graph.node:  # gradients defined in Python, which a SavedModel would refer to
        node.attr.pop("_gradient_op_type", None)
        node.device = ""  # a SavedModel's user chooses
    return graph, [output.name for output in constant.outputs]


def _write_onnx(network: _Network, path: Path, refer: bool, choose: bool) -> Estimate:
    import onnx

    from spleeter_2.models.inference import PerInstrument

    if isinstance(network.function, PerInstrument):
        graph = _instrument_loop(network, choose)
    else:
        graph = _as_onnx(network.function, network.signature)
    _store_in_half(graph)
    if refer:
        refer_to_checkpoint(graph, path.parent)
    path.write_bytes(graph.SerializeToString())
    onnx.checker.check_model(os.fspath(path))
    return open_session(path).estimate


def _as_onnx(function: Callable, signature: list):
    """``onnx.ModelProto`` of a function from tensors to a dictionary of tensors."""
    # else tf2onnx copies all weights before each of its optimizers, for the case that it fails
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.WARNING)
    constant = _constant(function, signature)
    graph, _ = tf2onnx.convert.from_function(constant, signature, opset=OPSET)
    return graph


def _instrument_loop(network: _Network, choose: bool):
    """``onnx.ModelProto`` of a network that computes one instrument at a time."""
    import tensorflow as tf

    from . import instrument_loop

    parts, (mixture,) = network.function, network.signature
    name = instrument_loop.SHARED.format

    def shared(planes):
        return {name(number): x for number, x in enumerate(parts.shared(planes))}

    def own(planes, index, *tensors):
        return {instrument_loop.ESTIMATE: parts.own(planes, index, list(tensors))}

    index = tf.TensorSpec((), tf.int64, name=instrument_loop.INDEX)
    with tf.device("CPU"):
        found = tf.function(shared, [mixture], autograph=False).get_concrete_function()
    tensors = [
        tf.TensorSpec(found.structured_outputs[name(number)].shape, tf.float32, name=name(number))
        for number in range(len(found.structured_outputs))
    ]
    return instrument_loop.join(
        _as_onnx(shared, [mixture]),
        _as_onnx(own, [mixture, index, *tensors]),
        parts.targets,
        network.shape,
        choose,
    )


def _add_metadata(
    path: Path, configuration: Configuration, window: np.ndarray | None, difference: float
) -> None:
    import onnx

    values = b"" if window is None else window.astype("<f4").tobytes()
    graph = onnx.load(os.fspath(path), load_external_data=False)
    for key, value in {
        model_file.DIGEST: model_file.digest(configuration),
        model_file.WINDOW: base64.b64encode(values).decode(),
        model_file.DIFFERENCE: f"{difference:.1e}",
    }.items():
        graph.metadata_props.add(key=key, value=value)
    path.write_bytes(graph.SerializeToString())


def _write_saved_model(network: _Network, path: Path) -> Estimate:
    """Write a SavedModel whose weights are constants of its graph."""
    import tensorflow as tf

    from spleeter_2.models.checkpoint import file_errors

    module = tf.Module()
    module.estimate = _constant(network.function, network.signature)
    with file_errors():
        tf.saved_model.save(module, os.fspath(path), module.estimate)
    loaded = tf.saved_model.load(os.fspath(path)).signatures["serving_default"]

    def estimate(planes: np.ndarray) -> dict[str, np.ndarray]:
        with tf.device("CPU"):
            estimates = loaded(mixture=tf.constant(planes))
        return {name: value.numpy() for name, value in estimates.items()}

    return estimate


def _write_litert(network: _Network, path: Path) -> Estimate:
    """Write a file of LiteRT (TensorFlow Lite) with its built-in operations only."""
    import tensorflow as tf

    from spleeter_2.files import Draft

    with Draft(path.with_name("saved_model"), is_folder=True) as draft:
        _write_saved_model(network, draft.path)
        converter = tf.lite.TFLiteConverter.from_saved_model(os.fspath(draft.path))
        path.write_bytes(converter.convert())
    interpreter = tf.lite.Interpreter(os.fspath(path), num_threads=os.cpu_count())
    estimate = interpreter.get_signature_runner()
    return lambda planes: estimate(mixture=planes)


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
    prepend(graph, casts)


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
    return [to_planes(spectrogram)[np.newaxis] for spectrogram in spectrograms]


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
            difference = float(np.abs(other[name] - estimate).max()) / scale
            worst = float(np.maximum(worst, difference))  # max() would drop NaN
    if not worst <= TOLERANCE:  # NaN too
        raise SeparationError(
            f"the exported network differs from Keras' by {worst:.1e} of the largest estimate, "
            f"more than {TOLERANCE:.0e}: please report it with the model's config.json"
        )
    return worst
