"""The ``model`` object of a configuration: the networks and their parts."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import force_setattr

from .validation import NonNegative, Options, Positive, Probability, require

Activation = Literal["identity", "relu", "leaky_relu", "sigmoid", "tanh"]
UNetActivation = Literal["leaky_relu", "relu", "elu"]


class FrequencyTransformation(Options):
    """A residual block along frequency; formulas are in ``models/frequency.py``.

    ``level`` is the U-Net's encoder stage that it follows; the conditioned U-Net has one in every
    block. Each type uses only some of the other keys:

    - "conv", "dilated", "grouped": ``kernel_size`` in bins, inner ``width`` in channels,
      ``dilations`` (one convolution each, in sequence or ``parallel``), ``bands`` with separate
      kernels. A plain convolution has one band and one dilation.
    - "fc", "lasaft", "lightsaft": ``bn_factor`` and ``min_bn_units`` set the bottleneck's units
      (null: no bottleneck), ``bias`` adds a bias to the linear maps.
    - "lasaft", "lightsaft": ``num_tdfs`` maps, weighted by attention with keys of size ``dk``.
    """

    type: Literal["fc", "conv", "dilated", "grouped", "lasaft", "lightsaft"] = "grouped"
    level: Positive = 6
    bands: Positive | None = None  # default: 4 if grouped, else 1
    kernel_size: Positive = 3
    # default: 1, 2, 4, 8 if dilated, else 1
    dilations: Annotated[tuple[Positive, ...], Meta(min_length=1)] | None = None
    parallel: bool = False
    width: Positive = 128
    bn_factor: Positive | None = 16
    min_bn_units: Positive = 16
    bias: bool = False
    num_tdfs: Positive = 6
    dk: Positive = 32

    def __post_init__(self) -> None:
        if self.bands is None:
            force_setattr(self, "bands", 4 if self.type == "grouped" else 1)
        if self.dilations is None:
            dilations = (1, 2, 4, 8) if self.type == "dilated" else (1,)
            force_setattr(self, "dilations", dilations)
        require(self.kernel_size % 2 == 1, f"kernel_size must be odd, not {self.kernel_size}")
        require(
            self.type == "grouped" or self.bands == 1,
            f"bands must be 1 for type {self.type}, not {self.bands}: only type grouped has bands",
        )
        require(
            self.type in ("grouped", "dilated") or self.dilations == (1,),
            f"dilations must be [1] for type {self.type}, not {list(self.dilations)}: only the "
            "types grouped and dilated have dilations",
        )
        require(
            self.type != "lightsaft" or self.bn_factor is not None,
            "bn_factor must not be null for type lightsaft, which needs a bottleneck",
        )

    @property
    def conditioned(self) -> bool:
        """True if the result depends on the target instrument."""
        return self.type in ("lasaft", "lightsaft")

    @property
    def linear(self) -> bool:
        """True for linear maps over all bins, False for convolutions."""
        return self.conditioned or self.type == "fc"

    def bottleneck(self, nb_bins: int) -> int | None:
        """Bottleneck units for ``nb_bins`` bins, or None without a bottleneck."""
        if self.bn_factor is None:
            return None
        size = nb_bins * self.num_tdfs if self.type == "lasaft" else nb_bins
        return max(size // self.bn_factor, self.min_bn_units)

    @property
    def inner(self) -> int:
        """Input channels of the last convolution."""
        return self.width * (len(self.dilations) if self.parallel else 1)

    def last_kernel(self, channels: int) -> tuple[int, ...]:
        """Shape of the last convolution's kernel, for ``channels`` output channels."""
        return (self.bands, self.kernel_size, self.inner, channels)


class Head(Options):
    """Decoder features -> spectrogram.

    "mask" is a mask of its own for each target, "softmax" masks of all targets that sum to one,
    "regression" a mask and a complex correction.
    """

    type: Literal["mask", "softmax", "regression"] = "mask"
    width: Positive = 16  # channels of the regression's hidden layer


class UNet(Options, tag_field="type", tag="unet"):
    """Spleeter's U-Net (Jansson et al., ISMIR 2017).

    Attributes:
        nb_bins: lowest frequency bins, the network's input; above them its estimate is silent.
        level: RMS, relative to full scale, to which each window's magnitude is scaled as input of
            the network (null: no scaling). Masks and corrections apply to the unscaled mixture.
        max_gain: limit of that gain in dB.
        encoder_activation: behind the BatchNorm of an encoder stage; the slope of "leaky_relu" is
            0.2.
        decoder_activation: in front of the BatchNorm of a decoder stage.
        shift_average: compute the deepest level twice, half its stride apart, and average.
    """

    nb_bins: Positive = 1024
    level: Annotated[float, Meta(gt=0, le=1)] | None = 0.15
    max_gain: float = 40.0
    filters: Annotated[tuple[Positive, ...], Meta(min_length=2)] = (16, 32, 64, 128, 256, 512)
    encoder_activation: UNetActivation = "leaky_relu"
    decoder_activation: UNetActivation = "relu"
    dropout: Probability = 0.5
    shift_average: bool = False
    frequency: tuple[FrequencyTransformation, ...] = ()
    head: Head = Head()

    def __post_init__(self) -> None:
        for index, block in enumerate(self.frequency):
            require(
                not block.conditioned,
                f"frequency[{index}].type {block.type} needs a condition, which the U-Net lacks: "
                "use it in a model of type cunet",
            )
            require(
                block.level <= len(self.filters),
                f"frequency[{index}].level {block.level} does not exist, the U-Net has "
                f"{len(self.filters)} levels",
            )
        levels = [block.level for block in self.frequency]
        require(
            len(set(levels)) == len(levels),
            "frequency must have at most one block per level, not blocks at the levels "
            f"{', '.join(map(str, levels))}",
        )

    @property
    def stride(self) -> int:
        """Frames and bins are padded to a multiple of this."""
        return 2 ** len(self.filters)


class Mdx(Options, tag_field="type", tag="mdx"):
    """MDX-Net, ``model.onnx`` in the folder of the weights; there is no such model in Keras.

    Attributes:
        nb_bins: lowest frequency bins, the network's input; above them its estimate is silent.
        nb_zeroed: lowest bins that are zero in the input; the estimate of them is used.
        compensate: factor of the estimate.
        denoise: half the difference of the estimates of the mixture and of its negative, in place
            of the estimate: twice the time.
        stride: frames by which the strides of all levels together advance; spreads ``--shifts``.
    """

    nb_bins: Positive = 2048
    nb_zeroed: NonNegative = 3
    compensate: Annotated[float, Meta(gt=0, le=10)] = 1.0
    denoise: bool = False
    stride: Positive = 1


class Conditioning(Options):
    """Conditioning of the U-Net on the target instrument.

    Attributes:
        type: "film" scales and shifts every channel, "pocm" mixes channels, "gpocm" computes a
            gate from the mixed channels.
        where: the blocks that are conditioned.
        transposed: "pocm" and "gpocm" transpose their matrix (the reference's ``naive``).
        norm: normalise gamma and beta over the instruments.
        control_layers: dense layers between embedding and gamma, plus one.
    """

    type: Literal["film", "pocm", "gpocm"] = "gpocm"
    where: Literal["encoder", "decoder", "full"] = "decoder"
    transposed: bool = False
    norm: bool = True
    gamma_activation: Activation = "identity"
    beta_activation: Activation = "identity"
    embedding: Positive = 64
    control_layers: Annotated[int, Meta(ge=2)] = 4


class CUNet(Options, tag_field="type", tag="cunet"):
    """LaSAFT's conditioned U-Net: one network for all instruments (Choi et al., ICASSP 2021).

    Attributes:
        nb_bins: all frequency bins of the STFT.
        spectrogram: the network's input.
        estimate: "mapping" estimates the spectrogram, "masking" a mask.
        blocks: encoders, one block in the middle, and as many decoders.
        layers: convolutions per block.
        time_levels: levels, counted from 0, that halve the number of frames (null: all); every
            level halves the bins.
    """

    nb_bins: int = 2049
    spectrogram: Literal["complex", "magnitude"] = "complex"
    estimate: Literal["mapping", "masking"] = "mapping"
    blocks: Annotated[int, Meta(ge=3)] = 9
    channels: Positive = 24
    layers: Positive = 5
    kernel_size: Positive = 3
    time_levels: tuple[int, ...] | None = None
    activation: Activation = "relu"
    first_activation: Activation = "relu"
    last_activation: Activation = "identity"
    frequency: FrequencyTransformation | None = None
    conditioning: Conditioning = Conditioning()

    def __post_init__(self) -> None:
        for name in ("blocks", "kernel_size"):
            value = getattr(self, name)
            require(value % 2 == 1, f"{name} must be odd, not {value}")
        levels = self.time_levels or ()
        require(
            len(set(levels)) == len(levels) and all(0 <= i < self.depth for i in levels),
            f"time_levels must be different levels between 0 and {self.depth - 1}, "
            f"not {list(levels)}",
        )
        require(
            self.nb_bins > 2**self.depth and (self.nb_bins - 1) % 2**self.depth == 0,
            f"nb_bins must be a multiple of {2**self.depth} plus 1, so that {self.blocks} blocks "
            f"can halve it, not {self.nb_bins}",
        )
        deepest = (self.nb_bins - 1) // 2**self.depth
        bands = self.frequency.bands if self.frequency else 1
        require(
            bands <= deepest,
            f"frequency.bands must be at most {deepest}, the bins of the deepest block, "
            f"not {bands}",
        )

    @property
    def depth(self) -> int:
        """Number of encoders, and of decoders."""
        return self.blocks // 2

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Strides (frames, bins) per level."""
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

    def conditioned_blocks(self) -> tuple[str, ...]:
        """Names of the conditioned blocks, from input to output."""
        where = self.conditioning.where
        return tuple(name for name in self.places() if where == "full" or name.startswith(where))


class RoFormer(Options, tag_field="type", tag="roformer"):
    """Band-split RoFormer, with bands side by side (BS) or overlapping mel bands (Mel-Band).

    Lu et al., ICASSP 2024; Wang et al., 2023. Formulas are in ``models/roformer.py``.

    Attributes:
        nb_bins: all frequency bins of the STFT.
        band_widths: bins of each band, side by side. Either this or ``mel_bands``.
        mel_bands: number of overlapping bands, equally spaced in mel.
        mel_rate: sample rate in Hz that the mel bands refer to.
        dim: features of a token, one per band and frame.
        depth: number of blocks.
        linear_layers: layers of linear attention over all tokens, at the start of a block.
        time_layers, frequency_layers: layers of a block along time, then along the bands.
        heads, head_size: of the attention.
        output_norm: normalise behind every transformer; otherwise once, behind the last block.
        skip_connection: add the results of all earlier blocks to a block's input.
        mask_layers: hidden layers of the networks that estimate masks.
        mask_expansion: width of these hidden layers, relative to ``dim``.
        zero_dc: set bin 0 of the estimates to zero.
        normalized: divide the network's input by the root of the STFT's frame length.
    """

    nb_bins: Positive = 1025
    band_widths: Annotated[tuple[Positive, ...], Meta(min_length=1)] | None = None
    mel_bands: Positive | None = None
    mel_rate: Positive = 44100
    dim: Positive = 384
    depth: Positive = 6
    linear_layers: NonNegative = 0
    time_layers: NonNegative = 1
    frequency_layers: NonNegative = 1
    heads: Positive = 8
    head_size: Positive = 64
    output_norm: bool = True
    skip_connection: bool = False
    mask_layers: NonNegative = 2
    mask_expansion: Positive = 4
    zero_dc: bool = True
    normalized: bool = False

    def __post_init__(self) -> None:
        require(
            (self.band_widths is None) != (self.mel_bands is None),
            "band_widths or mel_bands must be given, and not both",
        )
        require(self.head_size % 2 == 0, f"head_size must be even, not {self.head_size}")
        if self.band_widths is not None:
            require(
                sum(self.band_widths) == self.nb_bins,
                f"band_widths must sum to nb_bins, {self.nb_bins}, not {sum(self.band_widths)}",
            )
            return
        edges = [0, *(end for _, end in self.bands)]
        starts = [start for start, _ in self.bands]
        require(
            all(start < end for start, end in self.bands)
            and all(start <= max(edges[: i + 1]) for i, start in enumerate(starts))
            and max(edges) == self.nb_bins,
            f"mel_bands: {self.mel_bands} mel bands over {self.nb_bins} bins leave a band or a "
            "bin empty: take fewer",
        )

    @property
    def stride(self) -> int:
        """The number of frames must be a multiple of this."""
        return 1

    @property
    def bands(self) -> tuple[tuple[int, int], ...]:
        """First bin and end of each band, in order."""
        if self.band_widths is None:
            return _mel_bands(self.mel_bands, self.nb_bins, self.mel_rate)
        ends = tuple(itertools.accumulate(self.band_widths))
        return tuple(zip((0, *ends[:-1]), ends, strict=True))


def _mel_bands(nb_bands: int, nb_bins: int, sample_rate: int) -> tuple[tuple[int, int], ...]:
    """First bin and end of overlapping bands on Slaney's mel scale.

    Band b holds the bins between the points b and b + 2 of nb_bands + 2 that are equally spaced in
    mel; the first and the last bin belong to the first and the last band. Slaney's scale is linear
    below 1000 Hz and logarithmic above (Auditory Toolbox, 1998).
    """
    nyquist = sample_rate / 2
    step = math.log(6.4) / 27  # of the logarithmic part
    top = nyquist * 3 / 200 if nyquist < 1000 else 15 + math.log(nyquist / 1000) / step

    def bin_of(point: int) -> float:
        mel = top * point / (nb_bands + 1)
        hertz = mel * 200 / 3 if mel < 15 else 1000 * math.exp(step * (mel - 15))
        return hertz / nyquist * (nb_bins - 1)

    points = [bin_of(point) for point in range(nb_bands + 2)]
    starts = [math.floor(point) + 1 for point in points[:-2]]  # above the point, strictly
    ends = [math.ceil(point) for point in points[2:]]  # below the point, strictly
    return tuple(zip((0, *starts[1:]), (*ends[:-1], nb_bins), strict=True))
