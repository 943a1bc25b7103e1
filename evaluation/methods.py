"""Methods that can be scored: models, and the anchors ``mixture`` and ``irm``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from spleeter_2.audio.reader import BLOCK
from spleeter_2.audio.stft import Transform
from spleeter_2.config.loading import CHECKPOINT, load_configuration, parse_configuration
from spleeter_2.config.networks import Mdx
from spleeter_2.config.schema import Configuration, Segment, Stft
from spleeter_2.errors import SeparationError
from spleeter_2.runtime.model_file import path_of
from spleeter_2.runtime.onnx_file import read_onnx_file
from spleeter_2.separation.separator import Separator
from spleeter_2.separation.windows import OverlapAdd, Windows
from spleeter_2.weights.checkpoint import open_checkpoint
from spleeter_2.weights.resolve import is_there, with_weights

from .results import Identity
from .scores import SET_UPS, check_regroup, regroup
from .tracks import TrackAudio

ANCHORS = ("mixture", "irm")

# a track's audio -> estimates by source, float32 [S, C] each
Estimator = Callable[[TrackAudio], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Method:
    """A model or an anchor with its options.

    Attributes:
        sources: of the set-up, which may be sums of the model's instruments.
    """

    descriptor: str
    sources: tuple[str, ...]
    mwf: bool = False
    overlap: float | None = None
    shifts: int = 1
    device: str | None = None

    @property
    def name(self) -> str:
        """Short name, valid as a folder: ``spleeter_2-grouped`` for ``spleeter_2:grouped``."""
        tail = self.descriptor
        if ":" not in tail and tail not in ANCHORS:
            path = Path(tail).resolve()
            tail = path.stem if path.suffix == ".json" else path.name
        return re.sub(r"[^\w.+-]+", "-", tail) + ("-mwf" if self.mwf else "")

    def configuration(self) -> dict:
        """The model's configuration as JSON; empty for an anchor."""
        if self.descriptor in ANCHORS:
            return {}
        # the weights' digest is part of the identity, their folder is not
        configuration = msgspec.structs.replace(load_configuration(self.descriptor), weights=None)
        return msgspec.to_builtins(configuration)

    def identity(self) -> Identity:
        """Everything that determines the estimates."""
        return Identity(
            descriptor=self.descriptor,
            sources=self.sources,
            mwf=self.mwf,
            overlap=self.overlap,
            shifts=self.shifts,
            configuration=configuration_digest(self.configuration()),
            weights=None if self.descriptor in ANCHORS else _digest(self.descriptor),
        )


def configuration_digest(configuration: Mapping) -> str:
    """SHA-256 of a configuration as JSON; keys of newer versions have their defaults."""
    with contextlib.suppress(SeparationError):  # an anchor has none
        configuration = msgspec.to_builtins(parse_configuration(configuration))
        configuration["training"] = None  # estimates depend on the weights, not on their training
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def instruments_of(descriptor: str) -> tuple[str, ...]:
    """The instruments of a model; for an anchor the four of MUSDB18, which fit any set-up.

    Raises:
        SeparationError: there is no such model.
    """
    if descriptor in ANCHORS:
        return SET_UPS[4]
    return load_configuration(descriptor).instruments


def choose_sources(model: str, others: list[str], nb_sources: int | None) -> tuple[str, ...]:
    """Choose the sources for which all methods of a run are scored.

    Args:
        nb_sources: 2 or 4 (default: 2 for a model of two instruments, else 4). The two sources of
            a four-source model are its vocals and the sum of the rest.

    Raises:
        SeparationError: a method does not give these sources.
    """
    if nb_sources is None:
        nb_sources = 2 if len(instruments_of(model)) <= 2 else 4
    if nb_sources not in SET_UPS:
        raise SeparationError(f"--sources must be 2 or 4, not {nb_sources}")
    for descriptor in (model, *others):
        try:
            check_regroup(instruments_of(descriptor), SET_UPS[nb_sources])
        except SeparationError as error:
            raise SeparationError(
                f"{descriptor} cannot be scored here: {error}; see --sources, or use another run"
            ) from error
    return SET_UPS[nb_sources]


def open_estimator(method: Method) -> Estimator:
    """Build the estimator of a method, which loads its weights at the first song.

    Raises:
        SeparationError: the model or its weights are missing, or an option is not for it.
    """
    if method.descriptor == "mixture":
        return lambda song: dict.fromkeys(song.references, song.mixture)
    if method.descriptor == "irm":
        return ideal_ratio_mask
    separator = Separator(
        method.descriptor,
        overlap=method.overlap,
        mwf=method.mwf,
        device=method.device,
        shifts=method.shifts,
    )
    return lambda song: regroup(separator.separate(song.mixture, song.sample_rate), method.sources)


def ideal_ratio_mask(song: TrackAudio) -> dict[str, np.ndarray]:
    """Oracle: the mixture times each source's share of the power, bin by bin.

    STFT of 4096 samples every 1024, window by window.
    """
    transform = Transform()
    windows = Windows.of(Stft(), Segment())
    signals = np.concatenate([song.mixture, *song.references.values()], axis=1)

    def masked(window: np.ndarray) -> np.ndarray:
        """Window ``[L, C * (1 + sources)]`` -> estimates ``[sources, L, C]``."""
        spectrogram = transform.forward(window)  # [T, F, C * (1 + sources)]
        mixture, *sources = np.split(spectrogram, len(song.references) + 1, axis=2)
        powers = [np.abs(source) ** 2 for source in sources]
        total = np.maximum(sum(powers), np.finfo(np.float32).tiny)
        estimates = [mixture * (power / total) for power in powers]
        return np.stack([transform.inverse(part, windows.length) for part in estimates])

    overlap_add = OverlapAdd(windows)
    blocks = (signals[i : i + BLOCK] for i in range(0, len(signals), BLOCK))
    parts = [overlap_add.add(masked(window), left) for window, left in windows.cut(blocks)]
    stems = np.concatenate(parts, axis=1)  # [sources, S, C]
    return dict(zip(song.references, stems, strict=True))


def prepare(method: Method) -> None:
    """Check a method before any process starts, and fetch missing weights of Spleeter's.

    Raises:
        SeparationError: the model or its weights are missing, or an option is not for it.
    """
    open_estimator(method)
    if method.descriptor not in ANCHORS:
        with_weights(method.descriptor, load_configuration(method.descriptor))


def _digest(descriptor: str) -> str | None:
    """SHA-256 of the files of a model's checkpoint; None if they are not on this machine."""
    configuration = load_configuration(descriptor)
    if not is_there(configuration):
        return None
    configuration = with_weights(descriptor, configuration)
    digest = hashlib.sha256()
    for path in sorted(_weight_files(configuration), key=lambda path: path.name):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _weight_files(configuration: Configuration) -> list[Path]:
    if isinstance(configuration.model, Mdx):
        file = read_onnx_file(path_of(configuration))
        return [file.path, *(file.path.parent / name for name in file.others)]
    checkpoint = open_checkpoint(configuration.weights, configuration.targets)
    files = [f"{checkpoint.prefix}.index", *checkpoint.index.shards.values()]
    return [configuration.weights / CHECKPOINT, *map(Path, files)]
