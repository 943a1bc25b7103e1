"""The JSON objects of a configuration as validated dataclasses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, Union

from spleeter_2.errors import SeparationError


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
