"""Export a network from Keras for other runtimes, and compare the result with it.

With ``onnx_graph`` the only module of this package that imports TensorFlow.
"""

from __future__ import annotations

import base64
import functools
import gc
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.config.networks import RoFormer
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.extras import is_installed, require_extra
from spleeter_2.files import atomic_file
from spleeter_2.weights.checkpoint import Checkpoint, open_checkpoint

from . import model_file, onnx_graph
from .memory import return_free_memory
from .network import complete_model, open_session, shares_weights, to_planes
from .references import input_name, metadata, references
from .tensorflow_import import import_tensorflow

# bytes of weights from which a graph is built without them, and from which an ONNX file has them
# beside it: a protocol buffer has 2 GB at most
LARGE, EXTERNAL = 2**28, 1.5e9
TOLERANCE = 1e-4  # largest difference to Keras, relative to the largest estimate
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
    choose: bool = False,
) -> Exported:
    """Write the network of a configuration with its weights, and load it again to compare it.

    The input is named ``mixture``: planes ``[1, T, F, 2C]``, T the frames of the configuration's
    segment and F its lowest bins, the model's band. Every output has the name of its target and the
    same shape. In an ONNX file, kernels whose values are 16-bit floats are stored as such.

    Args:
        path: of the file, or of the folder of a SavedModel; not written atomically.
        form: a key of ``FILES``.
        instruments: instruments to separate (default: all).
        choose: see ``onnx_graph.build_graph``.

    Raises:
        SeparationError: no weights, or weights that do not fit; a package that is not installed;
            an unknown instrument; estimates that differ by more than ``TOLERANCE``.
        OSError: the path cannot be written.
    """
    require_extra("train", "exporting a network")
    network = _build(configuration, instruments)
    write_onnx = functools.partial(_write_onnx, choose=choose)
    write = {"onnx": write_onnx, "saved_model": _write_saved_model, "litert": _write_litert}
    difference = _difference(network, write[form](network, path))
    if form == "onnx":
        with open(path, "ab") as file:
            file.write(metadata(_facts(network, difference)) + _stamp(configuration))
    return Exported(network.targets, network.shape, network.window, difference)


def write_model_file(configuration: Configuration, path: Path | None = None) -> float | None:
    """Write a network beside its checkpoint, to which the file refers, atomically.

    A network that ships without weights is not exported again, so TensorFlow is not needed.

    Args:
        path: of the file (default: ``model.onnx``).

    Returns:
        The difference to Keras, see ``Exported``; None for a network that ships, without
        TensorFlow.

    Raises:
        SeparationError: see ``export_network``; the folder cannot be written (``WriteError``).
    """
    with atomic_file(path or model_file.path_of(configuration)) as draft:
        if model_file.ships(configuration):
            checkpoint = open_checkpoint(configuration.weights, configuration.targets)
            content = complete_model(checkpoint, configuration)
            difference = _compared_model(configuration, content)
        else:
            graph = _compared_graph(configuration)
            content, difference = graph.references + graph.content, graph.difference
        draft.write_bytes(content + _stamp(configuration))
    return difference


def export_graph(configuration: Configuration) -> tuple[bytes, float]:
    """Export a network without weights, for checkpoints in other folders.

    Returns:
        The ONNX model without its ``references``, and the difference to Keras; see ``Exported``.

    Raises:
        SeparationError: see ``export_network``.
    """
    graph = _compared_graph(configuration)
    return graph.content, graph.difference


@dataclass(frozen=True)
class _Graph:
    """An ONNX model in two parts.

    Attributes:
        references: to the tensors of the checkpoint.
        content: all else.
        difference: to Keras; see ``Exported``.
    """

    references: bytes
    content: bytes
    difference: float


def _compared_graph(configuration: Configuration) -> _Graph:
    require_extra("train", "exporting a network")
    network = _build(configuration)
    checkpoint = open_checkpoint(configuration.weights, configuration.targets)
    is_large, files = _size(checkpoint) >= LARGE, checkpoint.resolved()
    inputs = _inputs(configuration, network.shape)
    inputs = [_halves(*inputs)] if is_large else inputs
    expected = [network.estimate(planes) for planes in inputs]
    _collect()
    graph = network.graph(choose=True, with_values=not _omits_values(configuration, checkpoint))
    names = {name: input_name(name) for name in graph.variables}
    content = graph.model.SerializeToString()
    network = replace(network, function=None, keras=None)
    del graph
    _collect()  # the weights of a large network do not fit into memory twice
    session = open_session(
        references(files, names) + content,
        folder=Path(files.index.folder),
        shares_weights=shares_weights(configuration),
    )
    _collect()
    difference = _compare(expected, session.estimate, inputs)
    content += metadata(_facts(network, difference))
    return _Graph(references(checkpoint, names), content, difference)


def _collect() -> None:
    gc.collect()
    return_free_memory()


def _size(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors."""
    return sum(entry.size for entry in checkpoint.index.entries.values())


def _omits_values(configuration: Configuration, checkpoint: Checkpoint) -> bool:
    """True if a graph is built without the values of variables.

    They may not fit into memory again. With values TensorFlow optimizes the graph first, and ONNX
    Runtime refuses the loops of RoFormers in the result ("Invalid tensor data type 0").
    """
    return _size(checkpoint) >= LARGE or isinstance(configuration.model, RoFormer)


def _compared_model(configuration: Configuration, content: bytes) -> float | None:
    """Load a complete model; its difference to Keras, or None without TensorFlow."""
    session = open_session(content, folder=Path(configuration.weights))
    if not is_installed("tensorflow"):
        return None

    def estimate(planes: np.ndarray) -> dict[str, np.ndarray]:
        estimates = session.estimate(planes)  # by the names of the network that ships
        return {
            target: estimates[name]
            for target, name in zip(configuration.targets, session.targets, strict=True)
        }

    return _difference(_build(configuration), estimate)


@dataclass(frozen=True)
class _Network:
    """A network of Keras.

    Attributes:
        function: planes ``[1, T, F, 2C]`` -> ``{target: planes}``.
        keras: tf.function of it.
        signature: its argument.
        shape: of its input and of each output.
    """

    configuration: Configuration
    function: Callable
    keras: Callable
    signature: list
    targets: tuple[str, ...]
    shape: tuple[int, int, int, int]
    window: np.ndarray | None

    def estimate(self, planes: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.keras(planes).items()}

    def graph(self, choose: bool, with_values: bool = True) -> onnx_graph.Graph:
        return onnx_graph.build_graph(
            self.function, self.signature, self.shape, choose, with_values
        )


def _build(configuration: Configuration, instruments: Iterable[str] | None = None) -> _Network:
    import_tensorflow().get_logger().setLevel(logging.ERROR)
    import tensorflow as tf

    from spleeter_2.models.inference import load_for_inference

    with tf.device("CPU"):  # also where the weights are read
        model = load_for_inference(configuration, instruments, band_only=True)
        shape = (1, configuration.segment.nb_frames, *model.input_shape)
        signature = [tf.TensorSpec(shape, tf.float32, name=model_file.INPUT)]
        keras = tf.function(model.function, signature, autograph=False)
    if _size(open_checkpoint(configuration.weights, configuration.targets)) >= LARGE:
        # eager: a graph computes independent parts at once, and a large network's take gigabytes
        keras = model.function
    return _Network(
        configuration, model.function, keras, signature, model.targets, shape, model.window
    )


def _write_onnx(network: _Network, path: Path, choose: bool = False) -> Estimate:
    """Write a self-contained file, or of a large network one with its weights beside it."""
    import onnx

    checkpoint = open_checkpoint(network.configuration.weights, network.configuration.targets)
    size = _size(checkpoint)
    if not _omits_values(network.configuration, checkpoint):
        model = network.graph(choose).complete()
    else:
        graph = network.graph(choose, with_values=False)
        values = (pair for arrays in checkpoint.in_pieces() for pair in arrays.items())
        model = graph.completed_by((input_name(name), value) for name, value in values)
    name = f"{path.name}.data"
    onnx.save_model(model, os.fspath(path), save_as_external_data=size >= EXTERNAL, location=name)
    onnx.checker.check_model(os.fspath(path))
    return open_session(path).estimate


def _stamp(configuration: Configuration) -> bytes:
    """The part of an ONNX model that names its checkpoint and its architecture."""
    return metadata({model_file.DIGEST: model_file.digest(configuration)})


def _facts(network: _Network, difference: float) -> dict[str, str]:
    """Metadata of an ONNX file, without its ``_stamp``."""
    values = b"" if network.window is None else network.window.astype("<f4").tobytes()
    return {
        model_file.TARGETS: ",".join(network.targets),
        model_file.WINDOW: base64.b64encode(values).decode(),
        model_file.DIFFERENCE: f"{difference:.1e}",
    }


def _write_saved_model(network: _Network, path: Path) -> Estimate:
    """Write a SavedModel whose weights are constants of its graph."""
    import tensorflow as tf

    from spleeter_2.models.file_errors import file_errors

    module = tf.Module()
    module.estimate = onnx_graph.trace(network.function, network.signature).function()
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


def _difference(network: _Network, found: Estimate) -> float:
    """Largest difference to Keras' estimates; see ``_compare``."""
    inputs = _inputs(network.configuration, network.shape)
    return _compare([network.estimate(planes) for planes in inputs], found, inputs)


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
    return [to_planes(spectrogram[:, : shape[2]])[np.newaxis] for spectrogram in spectrograms]


def _halves(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The first half of one window and the second half of another."""
    middle = one.shape[1] // 2
    return np.concatenate([one[:, :middle], two[:, middle:]], axis=1)


def _compare(
    expected: list[Mapping[str, np.ndarray]], found: Estimate, inputs: list[np.ndarray]
) -> float:
    """Largest difference of estimates, relative to the largest expected one.

    Raises:
        SeparationError: it exceeds ``TOLERANCE``, or an expected estimate is no number.
    """
    worst = 0.0
    for planes, estimates in zip(inputs, expected, strict=True):
        other = found(planes)
        for name, estimate in estimates.items():
            scale = float(np.abs(estimate).max()) or 1.0
            if not np.isfinite(scale):
                raise SeparationError(
                    f"the network of {name} estimates NaN or infinity: put its weights there again"
                )
            difference = float(np.abs(other[name] - estimate).max()) / scale
            worst = float(np.maximum(worst, difference))  # max() would drop NaN
    if not worst <= TOLERANCE:  # NaN too
        raise SeparationError(
            f"the exported network differs from Keras' by {worst:.1e} of the largest estimate, "
            f"more than {TOLERANCE:.0e}: please report it with the model's config.json"
        )
    return worst
