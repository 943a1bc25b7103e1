"""A trained network in ONNX Runtime."""

from __future__ import annotations

import base64
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spleeter_2.checks import check_text
from spleeter_2.config.networks import Mdx, RoFormer
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.extras import gpu_command, install_command, is_installed
from spleeter_2.files import WriteError, atomic_file, writing
from spleeter_2.weights.bundle import FLOATS
from spleeter_2.weights.checkpoint import Checkpoint, open_checkpoint
from spleeter_2.weights.spleeter import tensor_names, variable_shapes

from . import mdx, model_file
from .memory import return_free_memory
from .onnxruntime_import import import_onnxruntime, onnxruntime_errors
from .references import input_name, references

log = logging.getLogger(__name__)

# execution providers of ONNX Runtime for GPUs: NVIDIA, AMD (two), Windows, Apple
PROVIDERS = (
    "CUDAExecutionProvider",
    "MIGraphXExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
)
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"  # an entry of a session
ADVICE = "delete it, and it is exported again where TensorFlow is installed"


@dataclass(frozen=True)
class Network:
    """A trained network, ready for inference.

    Attributes:
        estimate: function from mixture complex64 ``[T, F, C]`` to
            ``{target: complex64 [T, F', C]}``, T the frames of the configuration's segment and F'
            the bins of the model's band: estimates are zero above it.
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
) -> Network:
    """Read the exported network of a model; export it first if that has not been done.

    Args:
        instruments: instruments to separate (default: all).
        device: "cpu", "gpu" or "gpu:N" (default: CPU).

    Raises:
        SeparationError: a network that is damaged, foreign or not exported; an unknown device.
    """
    targets = configuration.targets_needed(instruments)
    if isinstance(configuration.model, Mdx):
        path = model_file.path_of(configuration)
        session = start_session(mdx.checked(path), device, advice=mdx.ADVICE)
        return Network(mdx.estimator(configuration, path, session), targets, None)
    checkpoint = open_checkpoint(configuration.weights, configuration.targets)
    if checkpoint.is_spleeters or model_file.ships(configuration):
        checkpoint = checkpoint.resolved()
        content, folder = complete_model(checkpoint, configuration), Path(checkpoint.index.folder)
        session = open_session(content, device, folder, _advice(configuration))
    else:
        session = _session_of(configuration, device)
    return_free_memory()
    if len(session.targets) != len(configuration.targets):
        raise SeparationError(
            f"{session.path} estimates {', '.join(session.targets)}, not "
            f"{', '.join(configuration.targets)}: {ADVICE}"
        )
    # a network without weights may be used for instruments of other names
    outputs = dict(zip(configuration.targets, session.targets, strict=True))

    nb_bins = configuration.model.nb_bins

    def estimate(mixture: np.ndarray) -> dict[str, np.ndarray]:
        planes = to_planes(mixture[:, :nb_bins])[np.newaxis]
        estimates = session.estimate(planes, [outputs[name] for name in targets])
        return {name: from_planes(estimates[outputs[name]][0]) for name in targets}

    return Network(estimate, targets, session.window)


def to_planes(spectrogram: np.ndarray) -> np.ndarray:
    """Complex64 ``[T, F, C]`` -> planes float32 ``[T, F, 2C]``."""
    *shape, channels = spectrogram.shape
    planes = np.empty((*shape, 2 * channels), np.float32)
    planes[..., :channels], planes[..., channels:] = spectrogram.real, spectrogram.imag
    return planes


def from_planes(planes: np.ndarray) -> np.ndarray:
    """Planes float32 ``[T, F, 2C]`` -> complex64 ``[T, F, C]``."""
    real, imaginary = np.split(planes, 2, axis=-1)
    spectrogram = np.empty(real.shape, np.complex64)
    spectrogram.real, spectrogram.imag = real, imaginary
    return spectrogram


class Session:
    """An ONNX file, loaded.

    Attributes:
        digest: see ``model_file.digest``; empty in a file of another origin.
        window: STFT window ``[frame_length]``, or None for the Hann window.
        targets: names of the outputs, in the order of the configuration that was exported.
    """

    def __init__(self, path: Path, session) -> None:
        self.path = path
        self._session = session
        facts = session.get_modelmeta().custom_metadata_map
        self.digest = facts.get(model_file.DIGEST, "")
        try:
            window = np.frombuffer(base64.b64decode(facts.get(model_file.WINDOW, "")), "<f4")
        except ValueError as error:
            raise SeparationError(f"the metadata of {path} are damaged: {ADVICE}") from error
        self.window = window if len(window) else None
        outputs = [output.name for output in session.get_outputs()]
        self.targets = tuple(facts.get(model_file.TARGETS, ",".join(outputs)).split(","))
        if sorted(self.targets) != sorted(outputs):
            raise _foreign(path)
        optional = [item.name for item in session.get_overridable_initializers()]
        self._can_choose = model_file.INSTRUMENTS in optional

    def estimate(
        self, planes: np.ndarray, targets: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Planes float32 ``[1, T, F, 2C]`` -> ``{target: planes [1, T, F, 2C]}``."""
        names = list(self.targets if targets is None else targets)
        feeds = {model_file.INPUT: planes}
        if self._can_choose:  # other networks compute all outputs at once
            feeds[model_file.INSTRUMENTS] = np.array([*map(self.targets.index, names)], np.int64)
        found = self._session.run(names, feeds)
        return dict(zip(names, found, strict=True))


def open_session(
    source: Path | bytes,
    device: str | None = None,
    folder: Path | None = None,
    advice: str = ADVICE,
    shares_weights: bool = False,
) -> Session:
    """Load an ONNX model.

    Args:
        source: a file, or the contents of one.
        folder: of the tensors that the contents of a file refer to.
        advice: end of the message about a model that cannot be loaded.
        shares_weights: compute with the weights as they are in the file: ONNX Runtime would keep a
            copy in its own order for each node that uses them.

    Raises:
        SeparationError: it is missing, damaged, or has other inputs; an unknown device.
        MemoryError: there is not enough memory for it.
    """
    session = start_session(source, device, folder, advice)
    path = source if isinstance(source, Path) else folder
    if [item.name for item in session.get_inputs()] != [model_file.INPUT]:
        raise _foreign(path)
    return Session(path, session)


def start_session(
    source: Path | bytes,
    device: str | None = None,
    folder: Path | None = None,
    advice: str = ADVICE,
):
    """``onnxruntime.InferenceSession`` of any ONNX model; see ``open_session``."""
    onnxruntime = import_onnxruntime()
    providers = execution_providers(onnxruntime, device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are exceptions
    # threads that wait by spinning would take the cores from the STFT and from ffmpeg
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # it plans one block for all tensors of a run, a larger one
    options.enable_mem_reuse = False  # it keeps a tensor's memory for later ones of the same shape
    options.intra_op_num_threads = nb_threads()
    if shares_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    path = source if isinstance(source, Path) else folder
    if folder is not None:
        options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
    with onnxruntime_errors(f"cannot load the network {path}", advice):
        # another provider is tried, with a message on standard output, only if there is one
        fallback = int(len(providers) > 1)
        return onnxruntime.InferenceSession(source, options, providers, enable_fallback=fallback)


def nb_threads() -> int:
    """Threads of a network by ``OMP_NUM_THREADS``, a number or OpenMP's list; 0 for all cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _foreign(path: Path) -> SeparationError:
    return SeparationError(f"{path} is no network that spleeter-2 has exported: {ADVICE}")


def parse_device(name: str) -> tuple[str, int]:
    """Kind ("CPU" or "GPU") and number of a device.

    Raises:
        SeparationError: another text, or no text.
    """
    found = re.fullmatch(r"(cpu|gpu)(?::([0-9]{1,9}))?", check_text("the device", name).lower())
    if found is None:
        raise SeparationError(f"the device must be cpu, gpu or gpu:N, not {name!r}")
    return found[1].upper(), int(found[2] or 0)


def execution_providers(onnxruntime, device: str | None) -> list:
    """Execution providers of a device.

    Raises:
        SeparationError: there is no such device.
    """
    cpu = "CPUExecutionProvider"
    kind, number = parse_device(device or "cpu")
    if kind == "CPU":
        if number:
            raise SeparationError(f"there is no {device}: all cores are cpu")
        return [cpu]
    available = onnxruntime.get_available_providers()
    for name in PROVIDERS:
        if name in available:
            return [(name, {} if name.startswith("CoreML") else {"device_id": number}), cpu]
    raise SeparationError(
        f"there is no {device}: this ONNX Runtime computes on the CPU only; "
        f"{gpu_command()} brings the one for NVIDIA's GPUs"
    )


def shares_weights(configuration: Configuration) -> bool:
    """True for large networks that compute their layers in pieces; see ``open_session``."""
    return isinstance(configuration.model, RoFormer)


def _session_of(configuration: Configuration, device: str | None) -> Session:
    """The exported network of a model, exported anew if it is older than its weights."""
    wanted = model_file.digest(configuration)
    path, shares = model_file.path_of(configuration), shares_weights(configuration)
    session = open_session(path, device, shares_weights=shares) if path.is_file() else None
    if session and not session.digest:
        raise _foreign(path)
    if session and not model_file.has_same_architecture(session.digest, wanted):
        path = model_file.path_of(configuration, is_variant=True)
        session = open_session(path, device, shares_weights=shares) if path.is_file() else None
    if session and session.digest == wanted:
        return session
    fault = "was exported from another checkpoint" if session else "is missing"
    _require_tensorflow(f"{path} {fault}")
    return _exported(configuration, path, fault, device)


def _require_tensorflow(fault: str) -> None:
    if not is_installed("tensorflow"):
        raise SeparationError(
            f"{fault}: export it where TensorFlow is installed ({install_command('train')}), by "
            "separating a song there"
        )


def complete_model(checkpoint: Checkpoint, configuration: Configuration) -> bytes:
    """The ONNX model of a network that is exported without weights, with those of a checkpoint.

    It refers to the tensors in the folder of the checkpoint. Its outputs have numbers in place of
    the names of the targets, in their order. A network that does not ship is exported.

    Raises:
        SeparationError: a network that does not ship, without TensorFlow; weights of another.
    """
    _check_weights(checkpoint, configuration)
    anonymous = model_file.anonymous(configuration)
    numbered = tensor_names(anonymous.targets)
    names = dict(zip(tensor_names(configuration.targets), map(input_name, numbered), strict=True))
    return references(checkpoint, names) + _graph(anonymous, configuration.name)


def _check_weights(checkpoint: Checkpoint, configuration: Configuration) -> None:
    """Raise SeparationError if a checkpoint lacks a variable, or has another kind of array."""
    folder, entries = Path(checkpoint.prefix).parent, checkpoint.index.entries
    filters, nb_channels = configuration.model.filters, configuration.nb_channels
    for target in configuration.targets:
        for name, shape in variable_shapes([target], filters, nb_channels).items():
            if name not in entries:
                raise SeparationError(
                    f"the weights in {folder} have no network for {target}: they lack {name}"
                )
            if entries[name].shape != shape:
                raise SeparationError(
                    f"the weights in {folder} are not those of {configuration.name}: {name} has "
                    f"the shape {list(entries[name].shape)}, not {list(shape)}"
                )
            if entries[name].number not in FLOATS:
                raise SeparationError(
                    f"the weights in {folder} cannot be used: {name} must be float32 or float16; "
                    "'python -m weight_converter --from spleeter' converts float64"
                )


def _advice(configuration: Configuration) -> str:
    """Advice for a network without weights that cannot be loaded with a checkpoint."""
    advice = "put the files of its weights there again"
    if model_file.ships(configuration):
        return advice
    graph = model_file.graph_path(model_file.anonymous(configuration))
    return f"{advice}, or delete {graph}, which is then exported again"


def _graph(anonymous: Configuration, name: str) -> bytes:
    """A network without weights, exported if it does not ship; see ``complete_model``."""
    path = model_file.graph_path(anonymous)
    if path.is_file():
        return path.read_bytes()
    _require_tensorflow(f"the network of {name} is not one of those that ship")
    from .export import export_graph

    content, _ = export_graph(anonymous)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as draft:
            draft.write_bytes(content)
    except WriteError as error:
        log.warning(f"note: {error}: the network will be exported again the next time")
    return content


def _exported(configuration: Configuration, path: Path, fault: str, device: str | None) -> Session:
    from .export import export_network, write_model_file

    try:
        write_model_file(configuration, path)
        log.info(f"note: {path} {fault}: the network has been exported from its checkpoint")
        return open_session(path, device, shares_weights=shares_weights(configuration))
    except WriteError as error:
        log.warning(f"note: {error}: the network will be exported again the next time")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        export_network(configuration, draft, "onnx", choose=True)
        return open_session(draft, device)
