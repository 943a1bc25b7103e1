"""Descriptor -> validated ``Configuration``.

A descriptor is ``spleeter_2:NAME`` (embedded in ``resources/``), a JSON file, or a folder that
holds ``config.json`` (a converted checkpoint, a training run). A JSON file may name a ``base``
descriptor and state only what it changes. Files and folders that it names are relative to itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Union

import dacite

from .errors import SeparationError

PREFIX = "spleeter_2:"
RESOURCES = Path(__file__).parent / "resources"
CHECKPOINT = "checkpoint"  # prefix of a checkpoint's files in the folder of the weights
WINDOW = "stft/window"  # beside the weights, where the STFT has a window of its own
FORMAT = 1  # value of the key "spleeter_2", which tells our configurations from Spleeter's


def require(condition: bool, sentence: str) -> None:
    """Raise SeparationError with the sentence unless the condition holds."""
    if not condition:
        raise SeparationError(sentence)


@dataclass(frozen=True)
class Stft:
    """Short-time Fourier transform: periodic Hann window, lengths in samples."""

    frame_length: int = 4096
    frame_step: int = 1024

    def __post_init__(self) -> None:
        require(
            self.frame_length >= 4 and self.frame_length % 2 == 0,
            f"stft.frame_length must be an even number of samples, not {self.frame_length}",
        )
        require(
            0 < self.frame_step <= self.frame_length // 2,
            "stft.frame_step must lie between 1 and half of stft.frame_length, "
            f"not {self.frame_step}",
        )

    @property
    def nb_bins(self) -> int:
        """Frequency bins of a frame."""
        return self.frame_length // 2 + 1


@dataclass(frozen=True)
class Segment:
    """How a song is cut into windows for the network and joined again.

    ``nb_frames``: STFT frames per window. ``trim``: samples of context on either side of a
    window that help the network and are then dropped. ``overlap``: share of the rest that is
    computed twice. ``join``: "linear" cross-fades neighbours, over at least one STFT frame;
    "equal" weighs them alike where they overlap.
    """

    nb_frames: int = 512
    trim: int = 2048
    overlap: float = 0.0
    join: Literal["linear", "equal"] = "linear"

    def __post_init__(self) -> None:
        require(self.nb_frames > 1, f"segment.nb_frames must exceed 1, not {self.nb_frames}")
        require(self.trim >= 0, f"segment.trim must not be negative, not {self.trim}")
        require(
            0 <= self.overlap <= 0.5, f"the overlap must lie between 0 and 0.5, not {self.overlap}"
        )


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds per STFT frame."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class FrequencyTransformation:
    """A residual block along frequency; ``models/frequency.py`` says what each type computes.

    ``level`` is the U-Net's encoder stage after which it stands; the conditioned U-Net has one
    in every block. Of the rest, a type uses only what concerns it:

    - "conv", "dilated", "grouped": ``kernel_size`` in bins, inner ``width`` in channels,
      ``dilations`` (one convolution each, one after the other or ``parallel``), ``bands`` with
      kernels of their own. A plain convolution has one band and one dilation.
    - "fc", "lasaft", "lightsaft": ``bn_factor`` and ``min_bn_units`` set the bottleneck's units
      (null: no bottleneck), ``bias`` is that of the linear maps.
    - "lasaft", "lightsaft": ``num_tdfs`` maps, weighed by attention with keys of size ``dk``.
    """

    type: Literal["fc", "conv", "dilated", "grouped", "lasaft", "lightsaft"] = "grouped"
    level: int = 6
    bands: Optional[int] = None  # default: 4 if grouped, else 1
    kernel_size: int = 3
    dilations: Optional[tuple[int, ...]] = None  # default: 1, 2, 4, 8 if dilated, else 1
    parallel: bool = False
    width: int = 128
    bn_factor: Optional[int] = 16
    min_bn_units: int = 16
    bias: bool = False
    num_tdfs: int = 6
    dk: int = 32

    def __post_init__(self) -> None:
        what = "frequency transformation"
        if self.bands is None:
            object.__setattr__(self, "bands", 4 if self.type == "grouped" else 1)
        if self.dilations is None:
            dilations = (1, 2, 4, 8) if self.type == "dilated" else (1,)
            object.__setattr__(self, "dilations", dilations)
        names = ("level", "bands", "kernel_size", "width", "min_bn_units", "num_tdfs", "dk")
        for name in names:
            value = getattr(self, name)
            require(value >= 1, f"{what}: {name} must be positive, not {value}")
        require(
            self.kernel_size % 2 == 1,
            f"{what}: kernel_size must be odd, not {self.kernel_size}",
        )
        require(
            len(self.dilations) > 0 and min(self.dilations) >= 1,
            f"{what}: dilations must be positive whole numbers, not {list(self.dilations)}",
        )
        require(
            self.type == "grouped" or self.bands == 1,
            f"{what}: only type grouped has bands, {self.type} has not",
        )
        require(
            self.type in ("grouped", "dilated") or self.dilations == (1,),
            f"{what}: only the types dilated and grouped have dilations, {self.type} has not",
        )
        require(
            self.bn_factor is None or self.bn_factor >= 1,
            f"{what}: bn_factor must be null or positive, not {self.bn_factor}",
        )
        require(
            self.type != "lightsaft" or self.bn_factor is not None,
            f"{what}: lightsaft needs a bottleneck, so bn_factor must not be null",
        )

    @property
    def conditioned(self) -> bool:
        """Whether it depends on the instrument that is asked for."""
        return self.type in ("lasaft", "lightsaft")

    @property
    def linear(self) -> bool:
        """Whether it is made of linear maps of all bins, rather than of convolutions."""
        return self.conditioned or self.type == "fc"

    def bottleneck(self, nb_bins: int) -> Optional[int]:
        """Units of the bottleneck of linear maps of so many bins, None without one."""
        if self.bn_factor is None:
            return None
        size = nb_bins * self.num_tdfs if self.type == "lasaft" else nb_bins
        return max(size // self.bn_factor, self.min_bn_units)

    @property
    def inner(self) -> int:
        """Channels in front of the last convolution."""
        return self.width * (len(self.dilations) if self.parallel else 1)

    def last_kernel(self, channels: int) -> tuple[int, ...]:
        """Shape of the last convolution's kernel, back to so many channels."""
        return (self.bands, self.kernel_size, self.inner, channels)

    def cost(self, nb_bins: int, channels: int) -> Cost:
        """What it takes on ``[T, F, C]``; BatchNorm, activation and attention are not counted
        among the multiply-adds, nor attention among the parameters."""
        if self.linear:
            unit = self.bottleneck(nb_bins)
            sizes = [nb_bins, nb_bins] if unit is None else [nb_bins, unit, nb_bins]
            maps = [1] * (len(sizes) - 1)
            if self.conditioned:
                maps[-1 if self.type == "lasaft" else 0] = self.num_tdfs
            weights = [a * b * k for a, b, k in zip(sizes, sizes[1:], maps, strict=False)]
            biases = sum(b * k for b, k in zip(sizes[1:], maps, strict=True)) * self.bias
            norms = 2 * channels * len(maps)
            return Cost(sum(weights) + biases + norms, sum(weights) * channels)
        inputs = [channels] + [channels if self.parallel else self.width] * (
            len(self.dilations) - 1
        )
        weights = self.kernel_size * (sum(inputs) * self.width + self.inner * channels)
        biases = self.width * len(self.dilations) + channels
        norms = 2 * self.width * len(self.dilations)
        return Cost(self.bands * (weights + biases) + norms, weights * nb_bins)


@dataclass(frozen=True)
class Head:
    """What turns decoder features into spectrograms: a mask, or a complex regression."""

    type: Literal["mask", "regression"] = "mask"
    width: int = 16  # channels of the regression's hidden layer


@dataclass(frozen=True)
class UNet:
    """Spleeter's U-Net (Jansson et al., ISMIR 2017).

    ``nb_bins``: frequency bins that it looks at, from 0 Hz up; the estimate is silent above.
    ``level``: RMS of full scale to which each window's mixture is brought before the network,
    and back behind it; null leaves it alone. ``max_gain``: limit of that gain in dB.
    ``shift_average``: compute the deepest level twice, half its stride apart, and take the mean.
    """

    type: Literal["unet"] = "unet"
    nb_bins: int = 1024
    level: Optional[float] = 0.15
    max_gain: float = 40.0
    filters: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    dropout: float = 0.5
    shift_average: bool = False
    frequency: tuple[FrequencyTransformation, ...] = ()
    head: Head = field(default_factory=Head)

    def __post_init__(self) -> None:
        require(self.nb_bins >= 1, f"model.nb_bins must be positive, not {self.nb_bins}")
        require(
            self.level is None or 0 < self.level <= 1,
            f"model.level must be null or an RMS between 0 and 1, not {self.level}",
        )
        require(
            len(self.filters) >= 2 and min(self.filters) >= 1,
            f"model.filters must list two or more positive widths, not {list(self.filters)}",
        )
        for block in self.frequency:
            require(
                not block.conditioned,
                f"frequency transformation: {block.type} follows a condition, which the U-Net "
                'lacks; use it in a model of type "cunet"',
            )
            require(
                block.level <= len(self.filters),
                f"frequency transformation: level {block.level} does not exist, "
                f"the U-Net has {len(self.filters)} levels",
            )
        levels = [block.level for block in self.frequency]
        require(
            len(set(levels)) == len(levels),
            "frequency transformation: a level of the U-Net takes one of them, but they name the "
            f"levels {', '.join(map(str, levels))}",
        )

    @property
    def stride(self) -> int:
        """Frames and bins are padded to a multiple of this."""
        return 2 ** len(self.filters)

    def costs(self, nb_targets: int) -> Cost:
        """All frequency transformations of as many networks, per frame of the STFT."""
        padded_bins = -(-self.nb_bins // self.stride) * self.stride
        parameters = multiply_adds = 0
        for block in self.frequency:
            halved = 2**block.level  # bins, and frames alike
            cost = block.cost(padded_bins // halved, self.filters[block.level - 1])
            parameters += nb_targets * cost.parameters
            multiply_adds += nb_targets * cost.multiply_adds // halved
        return Cost(parameters, multiply_adds)


Activation = Literal["identity", "relu", "leaky_relu", "sigmoid", "tanh"]


@dataclass(frozen=True)
class Conditioning:
    """How the instrument that is asked for steers the conditioned U-Net.

    ``type``: "film" scales and shifts every channel, "pocm" mixes channels, "gpocm" makes a gate
    of the mixed channels. ``where``: which blocks it steers. ``transposed``: "pocm" and "gpocm"
    apply their matrix transposed (the reference's ``naive``). ``norm``: normalise gamma and beta
    over the instruments. ``control_layers``: dense layers from the embedding on, less one.
    """

    type: Literal["film", "pocm", "gpocm"] = "gpocm"
    where: Literal["encoder", "decoder", "full"] = "decoder"
    transposed: bool = False
    norm: bool = True
    gamma_activation: Activation = "identity"
    beta_activation: Activation = "identity"
    embedding: int = 64
    control_layers: int = 4

    def __post_init__(self) -> None:
        require(
            self.embedding >= 1, f"conditioning: embedding must be positive, not {self.embedding}"
        )
        require(
            self.control_layers >= 2,
            f"conditioning: control_layers must be at least 2, not {self.control_layers}",
        )


@dataclass(frozen=True)
class CUNet:
    """LaSAFT's conditioned U-Net: one network for all instruments (Choi et al., ICASSP 2021).

    ``nb_bins``: frequency bins of its STFT; it sees all of them. ``spectrogram``: what it looks
    at. ``estimate``: whether it tells the instrument's spectrogram or a mask. ``blocks``:
    encoders, the middle and as many decoders. ``layers``: convolutions per block.
    ``time_levels``: levels, counted from 0, that halve the number of frames (null: all); every
    level halves the bins.
    """

    type: Literal["cunet"] = "cunet"
    nb_bins: int = 2049
    spectrogram: Literal["complex", "magnitude"] = "complex"
    estimate: Literal["mapping", "masking"] = "mapping"
    blocks: int = 9
    channels: int = 24
    layers: int = 5
    kernel_size: int = 3
    time_levels: Optional[tuple[int, ...]] = None
    activation: Activation = "relu"
    first_activation: Activation = "relu"
    last_activation: Activation = "identity"
    frequency: Optional[FrequencyTransformation] = None
    conditioning: Conditioning = field(default_factory=Conditioning)

    def __post_init__(self) -> None:
        for name in ("channels", "layers"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} must be positive, not {value}")
        require(
            self.blocks >= 3 and self.blocks % 2 == 1,
            f"model.blocks must be an odd number from 3 on, not {self.blocks}",
        )
        require(
            self.kernel_size >= 1 and self.kernel_size % 2 == 1,
            f"model.kernel_size must be odd, not {self.kernel_size}",
        )
        levels = self.time_levels or ()
        require(
            len(set(levels)) == len(levels) and all(0 <= i < self.depth for i in levels),
            f"model.time_levels must be different levels between 0 and {self.depth - 1}, "
            f"not {list(levels)}",
        )
        require(
            self.nb_bins > 2**self.depth and (self.nb_bins - 1) % 2**self.depth == 0,
            f"model.nb_bins must be a multiple of {2**self.depth} plus 1, so that {self.blocks} "
            f"blocks can halve it, not {self.nb_bins}",
        )
        deepest = (self.nb_bins - 1) // 2**self.depth
        bands = self.frequency.bands if self.frequency else 1
        require(
            bands <= deepest,
            f"frequency transformation: the {deepest} bins of the deepest block cannot be cut "
            f"into {bands} bands",
        )

    @property
    def depth(self) -> int:
        """Number of encoders, and of decoders."""
        return self.blocks // 2

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Frames and bins that become one, per level."""
        levels = range(self.depth) if self.time_levels is None else self.time_levels
        return tuple((2 if level in levels else 1, 2) for level in range(self.depth))

    @property
    def stride(self) -> int:
        """The number of frames must be a multiple of this."""
        return math.prod(frames for frames, _ in self.strides)

    def places(self) -> tuple[str, ...]:
        """Names of the blocks, from input to output."""
        numbers = range(1, self.depth + 1)
        encoders = tuple(f"encoder_{number}" for number in numbers)
        return (*encoders, "mid", *(f"decoder_{number}" for number in numbers))

    def costs(self, nb_targets: int) -> Cost:
        """All frequency transformations, for one target whatever their number, per frame."""
        parameters = multiply_adds = 0
        for index in range(self.blocks if self.frequency else 0):
            level = min(index, self.blocks - 1 - index)
            cost = self.frequency.cost((self.nb_bins - 1) >> level, self.channels)
            parameters += cost.parameters
            frames = math.prod(frames for frames, _ in self.strides[:level])
            multiply_adds += cost.multiply_adds // frames
        return Cost(parameters, multiply_adds)

    def conditioned_places(self) -> tuple[str, ...]:
        """Names of the blocks that the condition steers directly, from input to output."""
        where = self.conditioning.where
        return tuple(name for name in self.places() if where == "full" or name.startswith(where))


MODELS = {"unet": UNet, "cunet": CUNet}


@dataclass(frozen=True)
class Card:
    """Facts about an embedded model, as ``spleeter models`` prints them; tested against it."""

    parameters: int


@dataclass(frozen=True)
class Source:
    """Where converted weights come from."""

    project: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Configuration:
    """Everything that a separation needs to know about a model, and how to train it.

    ``targets`` are the instruments that the network estimates, ``residual`` is the instrument
    that is mixture minus the targets, or None. ``weights`` is the folder of the checkpoint.
    ``training`` is left to ``training_options``.
    """

    name: str
    sample_rate: int
    nb_channels: int
    targets: tuple[str, ...]
    residual: Optional[str]
    stft: Stft
    segment: Segment
    model: Union[UNet, CUNet]
    description: str = ""
    weights: Optional[Path] = None
    card: Optional[Card] = None
    source: Optional[Source] = None
    training: Optional[dict[str, Any]] = None

    def __post_init__(self) -> None:
        names = self.instruments
        for name in (self.name, *names):  # they become names of layers and of files
            require(
                re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", name) is not None,
                "name, targets and residual must be made of letters, digits, dots, hyphens and "
                f"underscores, not {name!r}",
            )
        require(len(self.targets) > 0, "targets must name at least one instrument")
        require(
            len(set(names)) == len(names),
            f"targets and residual name an instrument twice: {', '.join(names)}",
        )
        require(self.sample_rate > 0, f"sample_rate must be positive, not {self.sample_rate}")
        require(self.nb_channels in (1, 2), f"nb_channels must be 1 or 2, not {self.nb_channels}")
        useful = (self.segment.nb_frames - 1) * self.stft.frame_step - 2 * self.segment.trim
        require(
            useful > self.stft.frame_length,
            f"segment: {self.segment.nb_frames} frames leave no room beside a trim of "
            f"{self.segment.trim} samples",
        )
        stride = self.model.stride
        require(
            self.segment.nb_frames % stride == 0,
            f"segment.nb_frames must be a multiple of {stride} for this model, "
            f"not {self.segment.nb_frames}",
        )
        require(
            self.model.nb_bins <= self.stft.nb_bins,
            f"model.nb_bins is {self.model.nb_bins}, but the STFT has only "
            f"{self.stft.nb_bins} bins",
        )
        if isinstance(self.model, CUNet):
            self._check_conditions(self.model)

    def _check_conditions(self, model: CUNet) -> None:
        require(
            model.nb_bins == self.stft.nb_bins,
            f"model.nb_bins must be the {self.stft.nb_bins} bins of the STFT, not {model.nb_bins}",
        )
        require(
            len(self.targets) > 1 or not model.conditioning.norm,
            "conditioning.norm needs two or more targets: of a single one, nothing is left",
        )

    @property
    def instruments(self) -> tuple[str, ...]:
        """Targets, then the residual where there is one."""
        return self.targets + ((self.residual,) if self.residual else ())

    @property
    def frequency_cost(self) -> Cost:
        """Frequency transformations: parameters, and multiply-adds per second of audio."""
        cost = self.model.costs(len(self.targets))
        frames_per_second = self.sample_rate / self.stft.frame_step
        return Cost(cost.parameters, round(cost.multiply_adds * frames_per_second))

    @property
    def band(self) -> float:
        """Highest frequency in Hz that the model estimates."""
        return min(self.model.nb_bins / self.stft.frame_length, 0.5) * self.sample_rate


def embedded_names() -> list[str]:
    """Names that may follow ``spleeter_2:``, sorted."""
    return sorted(path.stem for path in RESOURCES.glob("*.json"))


def has_weights(folder: Path | None) -> bool:
    """Whether a folder holds a checkpoint; what is in it shows when it is loaded."""
    return folder is not None and os.path.isfile(folder / f"{CHECKPOINT}.index")


def is_ours(descriptor: str) -> bool:
    """Whether a descriptor is for spleeter-2 rather than for upstream Spleeter.

    Raises:
        SeparationError: a file or folder that does not exist or is not JSON.
    """
    if descriptor.startswith(PREFIX):
        return True
    if descriptor.startswith("spleeter:"):
        return False
    return "spleeter_2" in read_json(_locate(descriptor))


def read_configuration(descriptor: str) -> dict[str, Any]:
    """The JSON object that a descriptor names, complete: laid over its bases.

    Raises:
        SeparationError: a file that does not exist, is not JSON or not ours.
    """
    return _resolve(descriptor, seen=())


def load_configuration(descriptor: str) -> Configuration:
    """Read and validate the configuration that a descriptor names.

    Raises:
        SeparationError: one sentence that names the descriptor and the fault.
    """
    data = read_configuration(descriptor)
    try:
        return parse_configuration(data)
    except SeparationError as error:
        raise SeparationError(f"{descriptor}: {error}") from error


def parse_configuration(data: dict[str, Any]) -> Configuration:
    """Configuration of a JSON object as ``read_configuration`` returns it.

    Raises:
        SeparationError: what is wrong with it.
    """
    data = {key: value for key, value in data.items() if key != "spleeter_2"}
    model = data.get("model")
    if isinstance(model, dict):  # the type says which keys there are
        kind = model.get("type", "unet")
        require(
            isinstance(kind, str) and kind in MODELS,
            f"model.type must be one of {', '.join(MODELS)}, not {kind!r}",
        )
        data = {**data, "model": parse(MODELS[kind], model, "model.")}
    return parse(Configuration, data, "")


def parse(kind: type, data: dict[str, Any], place: str) -> Any:
    """Dataclass of a JSON object; ``place`` stands before the names of its keys."""
    _check(kind, data, place.rstrip("."))
    try:
        return dacite.from_dict(kind, data, dacite.Config(cast=[tuple, Path]))
    except dacite.MissingValueError as error:
        raise SeparationError(
            f"the configuration lacks the key {place}{error.field_path}"
        ) from error
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise SeparationError(f"{place.rstrip('.') or 'the configuration'}: {error}") from error


def _check(kind: Any, data: Any, place: str) -> None:
    """Refuse unknown keys and values of a wrong type, in words that are not Python's."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Union else (kind,)
    chosen = next((choice for choice in choices if _is(choice, data)), None)
    require(chosen is not None, f"{place} must be {' or '.join(map(_told, choices))}, not {data!r}")
    if typing.get_origin(chosen) is tuple:
        for index, value in enumerate(data):
            _check(typing.get_args(chosen)[0], value, f"{place}[{index}]")
    elif is_dataclass(chosen) and isinstance(data, dict):
        kinds = typing.get_type_hints(chosen)
        unknown = sorted(set(data) - set(kinds))
        known = f"; known are {', '.join(kinds)}" if len(kinds) <= 10 else ""
        require(
            not unknown,
            f"{place}{': ' if place else ''}unknown key{'s' if len(unknown) > 1 else ''} "
            f"{', '.join(map(repr, unknown))}{known}",
        )
        for key, value in data.items():
            _check(kinds[key], value, f"{place}{'.' if place else ''}{key}")
    elif typing.get_origin(chosen) is dict:
        for key, value in data.items():
            _check(typing.get_args(chosen)[1], value, f"{place}.{key}")


def _is(kind: Any, data: Any) -> bool:
    """Whether a JSON value, not its contents, has a type; what is parsed already has its own."""
    origin = typing.get_origin(kind) or kind
    if kind is Any or origin is Literal:
        return kind is Any or data in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(data, (int, kind)) and not isinstance(data, bool)
    if origin is tuple:
        return isinstance(data, (list, tuple))
    if kind is Path:
        return isinstance(data, (str, Path))
    return isinstance(data, origin) or (is_dataclass(kind) and isinstance(data, dict))


def _told(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    names |= {str: "a string", Path: "a string", tuple: "a list"}
    return names.get(kind) or names.get(typing.get_origin(kind)) or "an object"


def _locate(descriptor: str) -> Path:
    """File behind a descriptor."""
    if descriptor.startswith(PREFIX):
        name = descriptor[len(PREFIX) :]
        if name not in embedded_names():
            known = ", ".join(PREFIX + known for known in embedded_names())
            raise SeparationError(f"there is no model {descriptor}; known models: {known}")
        return RESOURCES / f"{name}.json"
    path = Path(descriptor)
    if os.path.isdir(path):
        path = path / "config.json"
    if not os.path.isfile(path):  # unlike Path's, false if a folder must not be entered
        raise SeparationError(
            f"there is no configuration {path}; give spleeter_2:NAME (see 'spleeter models'), "
            "a JSON file or a folder with config.json"
        )
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        SeparationError: there is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SeparationError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(data, dict):
        raise SeparationError(f"the configuration {path} must be a JSON object")
    return data


def _resolve(descriptor: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    """JSON of a descriptor laid over its bases; relative paths become absolute ones."""
    path = _locate(descriptor).resolve()
    if path in seen:
        raise SeparationError(f"the configuration {path} is its own base")
    return complete(read_json(path), path, seen)


def complete(data: dict[str, Any], path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A JSON object that stands in the file ``path``, laid over its bases.

    Raises:
        SeparationError: it is not ours, or its base is not there.
    """
    if data.get("spleeter_2") != FORMAT:
        raise SeparationError(
            f"{path} is not a spleeter-2 configuration of format {FORMAT}: "
            f'it must say "spleeter_2": {FORMAT}'
        )
    data = anchored(data, path.parent)
    base = data.pop("base", None)
    if base is None:
        if isinstance(data.get("model"), dict):
            data["model"].setdefault("type", "unet")
        return data
    if not isinstance(base, str):
        raise SeparationError(f"{path}: base must be a descriptor, not {base!r}")
    if not base.startswith(PREFIX):
        base = str(path.parent / base)
    return merge(_resolve(base, (*seen, path)), data)


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A JSON object whose weights, and models to train with, do not depend on its place.

    Args:
        folder: what its relative paths are relative to.
    """
    if isinstance(data.get("weights"), str):
        data = {**data, "weights": str(folder / data["weights"])}
    return with_models(data, lambda model: os.path.normpath(folder / model))


def with_models(data: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A JSON object with ``change`` of every path in ``training.start`` and ``training.teachers``.

    Names of models (``spleeter_2:NAME``, ``spleeter:NAME``) and what is no descriptor stay.
    """

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        is_path = isinstance(value, str) and not value.startswith((PREFIX, "spleeter:"))
        return change(value) if is_path else value

    training = data.get("training")
    if not isinstance(training, dict):
        return dict(data)
    models = {key: changed(training[key]) for key in ("start", "teachers") if key in training}
    return {**data, "training": {**training, **models}}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``; objects merge unless their types differ, all else replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        alike = both and value.get("type", old.get("type")) == old.get("type", value.get("type"))
        merged[key] = merge(old, value) if alike else value
    return merged


def differences(one: Mapping[str, Any], two: Mapping[str, Any], place: str = "") -> list[str]:
    """Keys whose values differ, sorted: ``training.loss.spectrogram``, where both have objects."""
    found = []
    for key in sorted({*one, *two}):
        old, new = one.get(key), two.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{place}{key}.")
        elif old != new:
            found.append(f"{place}{key}")
    return found
