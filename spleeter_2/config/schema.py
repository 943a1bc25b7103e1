"""The configuration of a model and its training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from spleeter_2.errors import SeparationError

from .networks import CUNet, Mdx, RoFormer, UNet
from .training import Training
from .validation import NonNegative, Options, Positive, require


class Stft(Options):
    """Short-time Fourier transform: periodic Hann window, lengths in samples."""

    frame_length: Annotated[int, Meta(ge=4)] = 4096
    frame_step: Positive = 1024

    def __post_init__(self) -> None:
        require(
            self.frame_length % 2 == 0,
            f"frame_length must be an even number of samples, not {self.frame_length}",
        )
        require(
            self.frame_step <= self.frame_length // 2,
            f"frame_step must be at most half of frame_length, not {self.frame_step}",
        )

    @property
    def nb_bins(self) -> int:
        """Frequency bins of a frame."""
        return self.frame_length // 2 + 1


class Segment(Options):
    """Windows into which a song is cut for the network.

    Attributes:
        nb_frames: STFT frames per window.
        trim: samples of context on either side of a window; their estimates are dropped.
        overlap: share of the rest that is computed twice, at most ``most_overlap``; null, with join
            "hann" only: as much as an STFT frame.
        join: "linear" cross-fades neighbours, over at least one STFT frame; "equal" averages them
            where they overlap; "frames" overlap-adds the STFT frames of neighbours, as Spleeter
            does, and with an overlap cross-fades them; "hann" weights whole windows with a
            symmetric Hann window, as MDX-Net's programs do, and without overlap not at all;
            "reflect" extends a song by reflection and fades over a tenth of a window, as MSST does.
        extra: further samples of a window, less than a frame step; only with join "reflect".
    """

    nb_frames: Annotated[int, Meta(ge=2)] = 512
    trim: NonNegative = 2048
    overlap: Annotated[float, Meta(ge=0)] | None = 0.0
    join: Literal["linear", "equal", "frames", "hann", "reflect"] = "linear"
    extra: NonNegative = 0

    def __post_init__(self) -> None:
        require(
            self.join in ("linear", "equal") or self.trim == 0,
            f'trim must be 0 with join "{self.join}", not {self.trim}',
        )
        require(
            self.overlap is not None or self.join == "hann",
            f'overlap must be a number with join "{self.join}", not null',
        )
        require(
            self.overlap is None or self.overlap <= self.most_overlap,
            f"overlap must be a number <= {self.most_overlap}, not {self.overlap}",
        )
        require(
            self.join == "reflect" or self.extra == 0,
            f'extra must be 0 without join "reflect", not {self.extra}',
        )

    @property
    def most_overlap(self) -> float:
        """Largest overlap: two linear cross-fades of a window must not meet."""
        return {"hann": 0.99, "reflect": 0.98}.get(self.join, 0.5)


class RatioMask(Options):
    """Masks of Spleeter: each estimate's share of the sum of all targets' estimates.

    Attributes:
        exponent: of the magnitudes; 2 are powers.
        extension: mask above the model's ``nb_bins``: 0, or the mean mask of the bins below.
    """

    exponent: Annotated[float, Meta(gt=0)] = 2.0
    extension: Literal["zeros", "average"] = "zeros"


class Card(Options):
    """Facts about an embedded model that ``spleeter models`` prints."""

    parameters: int


class Source(Options):
    """Origin of converted weights."""

    project: str
    file: str
    sha256: str


class Configuration(Options):
    """A model and its training.

    Attributes:
        targets: instruments that the network estimates.
        residual: instrument that is the mixture minus the targets, or None.
        ratio_mask: in separation, share the mixture among the targets; None: estimates as they are.
        extension: in separation, estimates above ``model.nb_bins``: "zeros", or the mixture scaled
            by each frame's share of "power" just below (``separation.filters.extended_by_power``).
        stem_format: sample rate and channels of stems are those of the "song" or of the "model".
        weights: folder of the checkpoint, or None.
        model_dir: folder of weights as Spleeter's configurations name it; found or fetched.
    """

    name: str
    sample_rate: Positive
    nb_channels: Literal[1, 2]
    targets: Annotated[tuple[str, ...], Meta(min_length=1)]
    residual: str | None
    stft: Stft
    segment: Segment
    model: UNet | CUNet | RoFormer | Mdx
    description: str = ""
    ratio_mask: RatioMask | None = None
    extension: Literal["zeros", "power"] = "zeros"
    stem_format: Literal["song", "model"] = "song"
    weights: Path | None = None
    model_dir: str | None = None
    card: Card | None = None
    source: Source | None = None
    training: Training = Training()

    def __post_init__(self) -> None:
        self._check_names()
        self._check_frames()
        self._check_bins()
        self._check_masks()
        if isinstance(self.model, CUNet):
            require(
                len(self.targets) > 1 or not self.model.conditioning.norm,
                "model.conditioning.norm needs two or more targets: normalising over a single "
                "target zeroes gamma and beta",
            )
        if isinstance(self.model, Mdx):
            require(
                len(self.targets) == 1 and self.nb_channels == 2,
                "targets must be one instrument, and nb_channels 2, for a model of type mdx",
            )

    def _check_names(self) -> None:
        names = self.instruments
        for name in (self.name, *names):  # they become names of layers and of files
            require(
                re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", name) is not None,
                "name, targets and residual must be made of letters, digits, dots, hyphens and "
                f"underscores, not {name!r}",
            )
        require(
            len(set(names)) == len(names),
            f"targets and residual name an instrument twice: {', '.join(names)}",
        )
        require(
            "mixture" not in names,
            "targets and residual must not contain mixture, which is the name of a network's input",
        )

    def _check_frames(self) -> None:
        segment, stride = self.segment, self.model.stride
        useful = (segment.nb_frames - 1) * self.stft.frame_step - 2 * segment.trim
        require(
            useful > self.stft.frame_length,
            f"segment.nb_frames: {segment.nb_frames} frames leave no room beside a trim of "
            f"{segment.trim} samples",
        )
        for place, nb_frames in (
            ("segment", segment.nb_frames),
            ("training", self.crop_frames),
        ):
            require(
                nb_frames % stride == 0,
                f"{place}.nb_frames must be a multiple of {stride} for this model, not {nb_frames}",
            )

    def _check_bins(self) -> None:
        nb_bins, available = self.model.nb_bins, self.stft.nb_bins
        require(
            nb_bins <= available,
            f"model.nb_bins is {nb_bins}, but the STFT has only {available} bins",
        )
        require(
            nb_bins == available or not isinstance(self.model, (CUNet, RoFormer)),
            f"model.nb_bins must be the {available} bins of the STFT, not {nb_bins}",
        )

    def _check_masks(self) -> None:
        require(
            self.ratio_mask is None or self.residual is None,
            "residual must be null beside ratio_mask, whose stems sum to the mixture",
        )
        require(
            self.ratio_mask is None or self.extension == "zeros",
            "extension must be zeros beside ratio_mask, which has an extension of its own",
        )
        require(
            not self.is_joint or len(self.targets) > 1,
            "targets must be two or more for masks that sum to one",
        )

    @property
    def is_joint(self) -> bool:
        """True if every estimate depends on the estimates of all targets."""
        softmax = isinstance(self.model, UNet) and self.model.head.type == "softmax"
        return softmax or self.ratio_mask is not None

    @property
    def instruments(self) -> tuple[str, ...]:
        """Targets, then the residual where there is one."""
        return self.targets + ((self.residual,) if self.residual else ())

    def targets_needed(self, instruments: Iterable[str] | None = None) -> tuple[str, ...]:
        """Targets to estimate for some instruments (default: all).

        The residual and masks that sum to one require all.

        Raises:
            SeparationError: an unknown instrument.
        """
        requested = self.instruments if instruments is None else tuple(instruments)
        for instrument in requested:
            if instrument not in self.instruments:
                raise SeparationError(
                    f"{self.name} does not separate {instrument!r}; its instruments are "
                    f"{', '.join(self.instruments)}"
                )
        if self.residual in requested or self.is_joint:
            return self.targets
        return tuple(target for target in self.targets if target in requested)

    @property
    def shift_frames(self) -> int:
        """Frames over which the passes of a separation with shifts are spread.

        The stride of the network's deepest level. A RoFormer has none; passes differ by the place
        of the windows' borders.
        """
        if isinstance(self.model, RoFormer):
            return max(self.segment.nb_frames // 8, 1)
        return self.model.stride

    @property
    def crop_frames(self) -> int:
        """STFT frames of a training example."""
        return self.training.nb_frames or self.segment.nb_frames

    @property
    def band(self) -> float:
        """Highest frequency in Hz that the model estimates."""
        return min(self.model.nb_bins / self.stft.frame_length, 0.5) * self.sample_rate
