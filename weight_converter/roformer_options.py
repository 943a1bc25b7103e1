"""Options of a RoFormer: the YAML file beside its checkpoint, as MSST reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.config.loading import FORMAT, parse_configuration
from spleeter_2.config.networks import RoFormer
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.files import reason_of

from .roformer_sizes import Sizes

MAX_BYTES = 2**20  # of a YAML file
TUPLE = "tag:yaml.org,2002:python/tuple"
SECTIONS = ("audio", "model", "training", "inference")
RATE = 44100  # Hz
USUAL_BANDS = {True: 60, False: 62}  # of published networks, Mel-Band and BS-RoFormer
# options of variants that are not computed, and the value of networks without them
WITHOUT = {"use_pope": False, "add_value_residual": False, "num_residual_streams": 1}
# options that change the result and do not follow from the shapes, and MSST's defaults
DEFAULTS: dict[str, Any] = {
    "stft_n_fft": 2048,
    "stft_hop_length": 512,
    "stft_normalized": False,
    "zero_dc": True,
    "skip_connection": False,
    "match_input_audio_length": False,
    "mlp_expansion_factor": 4,
    "sample_rate": RATE,
}
# MSST's defaults of those that follow from the shapes
USUAL_SIZES = {
    **{"num_stems": 1, "linear_transformer_depth": 0, "num_bands": 60, "heads": 8, "dim_head": 64},
    **{"time_transformer_depth": 2, "freq_transformer_depth": 2, "mlp_expansion_factor": 4},
}
# options without effect on a separation
NEUTRAL = re.compile(
    "attn_dropout|ff_dropout|flash_attn|sage_attention|dim_freqs_in|use_torch_checkpoint|multi_stft_.*"
)
BOUND = 10**6  # exclusive upper bound of numbers


@dataclass
class Options:
    """Contents of a YAML file; sections that it lacks are empty."""

    audio: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)

    def configuration(self, found: Sizes, notes: list[str]) -> dict[str, Any]:
        """The JSON object of a configuration, with the sizes of a state dict.

        Args:
            found: replaces what the file lacks, and has to agree with the rest.
            notes: sentences for the report are appended.

        Raises:
            SeparationError: options that disagree with the sizes, are missing or not supported.
        """
        self._check_family(found)
        options = self._merged(found, notes)
        nb_bins = options["stft_n_fft"] // 2 + 1
        nb_channels, bands = self._bands(found, options, nb_bins)
        targets, residual = self._instruments(options["num_stems"])
        family = found.family
        return {
            "spleeter_2": FORMAT,
            "name": re.sub("[- ]", "_", family.lower()),
            "description": f"{family}, converted from PyTorch",
            "sample_rate": _whole(self.audio.get("sample_rate", RATE), "audio.sample_rate"),
            "nb_channels": nb_channels,
            "targets": targets,
            "residual": residual,
            "stft": {
                "frame_length": options["stft_n_fft"],
                "frame_step": options["stft_hop_length"],
            },
            "segment": self._segment(found, options, notes),
            "model": {
                "type": "roformer",
                "nb_bins": nb_bins,
                **bands,
                "dim": options["dim"],
                "depth": options["depth"],
                "linear_layers": options["linear_transformer_depth"],
                "time_layers": options["time_transformer_depth"],
                "frequency_layers": options["freq_transformer_depth"],
                "heads": options["heads"],
                "head_size": options["dim_head"],
                "output_norm": found.is_mel,
                "skip_connection": options["skip_connection"],
                "mask_layers": options["mask_estimator_depth"] - (0 if found.is_mel else 1),
                "mask_expansion": options["mlp_expansion_factor"],
                "zero_dc": options["zero_dc"],
                "normalized": options["stft_normalized"],
            },
        }

    def window(self) -> np.ndarray | None:
        """Hann window, centred in the frame if it is shorter; None if it is not."""
        frame = self.model.get("stft_n_fft", DEFAULTS["stft_n_fft"])
        length = _whole(self.model.get("stft_win_length", min(frame, 2048)), "stft_win_length")
        if length > frame:
            raise SeparationError(
                f"stft_win_length must be at most stft_n_fft, {frame}, not {length}"
            )
        if length == frame:
            return None
        window = np.zeros(frame, np.float32)
        start = (frame - length) // 2
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        window[start : start + length] = hann
        return window

    def _check_family(self, found: Sizes) -> None:
        named = [name for name in ("num_bands", "freqs_per_bands") if name in self.model]
        if named and (named[0] == "num_bands") != found.is_mel:
            other = "BS-RoFormer" if found.is_mel else "Mel-Band RoFormer"
            raise SeparationError(
                f"the YAML file describes a {other} ({named[0]}), but the checkpoint holds a "
                f"{found.family}: give its own YAML file"
            )
        for name, value in WITHOUT.items():
            if self.model.get(name, value) != value:
                raise SeparationError(
                    f"{name} must be {str(value).lower()}, not {self.model[name]!r}: spleeter-2 "
                    "computes MSST's standard networks only"
                )

    def _merged(self, found: Sizes, notes: list[str]) -> dict[str, Any]:
        """All options of the network; those of the file have to agree with the shapes."""
        for name, value in found.values.items():
            given = self.model.get(name, value)
            if given != value or isinstance(given, bool):
                raise SeparationError(
                    f"the YAML file and the checkpoint disagree: {name} is {given!r} in the file, "
                    f"{value} by the shapes in the checkpoint"
                )
        defaults = {**USUAL_SIZES, "mask_estimator_depth": 1 if found.is_mel else 2}
        lacking = [
            f"{name} {value}"
            for name, value in found.values.items()
            if name not in self.model and value != defaults.get(name)
        ]
        if lacking:
            notes.append(f"taken from the shapes, not from the options: {', '.join(lacking)}")
        known = {*found.values, *DEFAULTS, *WITHOUT, "stereo", "num_bands", "freqs_per_bands"}
        known.add("stft_win_length")
        ignored = [name for name in self.model if name not in known and not _is_neutral(name)]
        if ignored:
            notes.append(f"unknown options of the YAML file are ignored: {', '.join(ignored)}")
        options = {**DEFAULTS, **self.model, **found.values}
        for name, default in DEFAULTS.items():
            if isinstance(default, bool):
                if not isinstance(options[name], bool):
                    raise SeparationError(f"{name} must be true or false, not {options[name]!r}")
            else:
                _whole(options[name], name)
        if not {"heads", "dim_head"} <= options.keys():
            raise SeparationError("heads and dim_head are missing in the YAML file")
        for name in ("heads", "dim_head"):
            _whole(options[name], name)
        return options

    def _bands(
        self, found: Sizes, options: Mapping[str, Any], nb_bins: int
    ) -> tuple[int, dict[str, Any]]:
        """Audio channels, and the options of the configuration for the bands."""
        if found.is_mel:
            bands = {"mel_bands": options["num_bands"], "mel_rate": options["sample_rate"]}
            try:
                edges = RoFormer(nb_bins=nb_bins, **bands).bands
            except ValueError as error:
                raise SeparationError(f"the YAML file does not fit: {error}") from error
            widths = [end - start for start, end in edges]
        else:
            widths = self._widths(found, nb_bins)
            bands = {"band_widths": widths}
        nb_channels = self._channels(found, widths)
        fitting = [2 * nb_channels * width for width in widths]
        if fitting != list(found.features):
            raise SeparationError(
                f"the bands of {nb_bins} bins and {nb_channels} channels by the YAML file "
                f"(stft_n_fft, stereo, {'num_bands' if found.is_mel else 'freqs_per_bands'}) have "
                f"{_few(fitting)} features, those of the checkpoint {_few(found.features)}"
            )
        return nb_channels, bands

    def _widths(self, found: Sizes, nb_bins: int) -> list[int]:
        """Bins of the bands of a BS-RoFormer."""
        given = self.model.get("freqs_per_bands")
        if given is None:
            per_bin = sum(found.features) // nb_bins or 1
            return [size // per_bin for size in found.features]
        if not isinstance(given, list | tuple) or not given:
            raise SeparationError(f"freqs_per_bands must be a list of numbers, not {given!r}")
        widths = [_whole(width, "freqs_per_bands") for width in given]
        if sum(widths) != nb_bins:
            raise SeparationError(
                f"freqs_per_bands has {sum(widths)} bins in all, stft_n_fft has {nb_bins}"
            )
        return widths

    def _channels(self, found: Sizes, widths: list[int]) -> int:
        stereo = self.model.get("stereo")
        if stereo is None:
            return 2 if found.features[0] == 4 * widths[0] else 1
        if not isinstance(stereo, bool):
            raise SeparationError(f"stereo must be true or false, not {stereo!r}")
        return 2 if stereo else 1

    def _instruments(self, nb_stems: int) -> tuple[list[str], str | None]:
        """Targets in the order of the stems, and the residual."""
        listed, target = self.training.get("instruments"), self.training.get("target_instrument")
        if listed is None and target is None:
            raise SeparationError(
                "training.instruments is missing: the YAML file has to name the stems"
            )
        listed = [target] if listed is None else listed
        if not isinstance(listed, list | tuple) or not all(isinstance(x, str) for x in listed):
            raise SeparationError(f"training.instruments must be a list of names, not {listed!r}")
        if target is not None and not isinstance(target, str):
            raise SeparationError(f"training.target_instrument must be a name, not {target!r}")
        targets = list(listed) if target is None else [target]
        if len(targets) != nb_stems:
            raise SeparationError(
                f"the YAML file names {len(targets)} stems ({', '.join(targets)}; "
                f"training.target_instrument, or else training.instruments), the checkpoint has "
                f"{nb_stems}"
            )
        targets = [_as_name(name) for name in targets]
        if len(targets) > 1:
            return targets, None
        others = [name for name in map(_as_name, listed) if name != targets[0]]
        if targets[0] == "vocals" or len(others) != 1:
            return targets, "accompaniment" if targets[0] == "vocals" else "residual"
        return targets, others[0]

    def _segment(
        self, found: Sizes, options: Mapping[str, Any], notes: list[str]
    ) -> dict[str, Any]:
        """The reference's windows."""
        length = self.inference.get("chunk_size", self.audio.get("chunk_size"))
        if length is None:
            raise SeparationError("audio.chunk_size is missing in the YAML file")
        length = _whole(length, "chunk_size", 10**8)
        number = _whole(self.inference.get("num_overlap", 2), "inference.num_overlap", 51)
        step = options["stft_hop_length"]
        if length % step and found.is_mel and not options["match_input_audio_length"]:
            notes.append(
                f"chunk_size {length} is no multiple of stft_hop_length {step}: estimates have "
                "the whole length, as with match_input_audio_length"
            )
        if self.inference.get("normalize"):
            notes.append("inference.normalize is ignored: the network normalises its input")
        return {
            "nb_frames": 1 + length // step,
            "extra": length % step,
            "trim": 0,
            "overlap": 1 - 1 / number,
            "join": "reflect",
        }


def parse_configuration_of(data: Mapping[str, Any]) -> Configuration:
    """The configuration of a JSON object.

    Raises:
        SeparationError: the sizes make no configuration.
    """
    try:
        return parse_configuration(data)
    except SeparationError as error:
        raise SeparationError(f"the sizes make no configuration: {error}") from error


def read_options(path: Path) -> Options:
    """Read a YAML file; no object but tuples is made from its tags.

    Raises:
        SeparationError: it cannot be read, or is no such file.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe loader that knows tuples."""

    Loader.add_constructor(TUPLE, lambda loader, node: tuple(loader.construct_sequence(node)))
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SeparationError(f"{path} is too large for a YAML file of options")
        data = yaml.load(content, Loader)
    except OSError as error:
        raise SeparationError(f"cannot read {path}: {reason_of(error)}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SeparationError(f"{path} is no YAML file of options: {reason}") from error
    if not isinstance(data, dict) or "model" not in data:
        raise SeparationError(f"{path} is no YAML file of a RoFormer: it lacks the section model")
    sections = {name: data.get(name) or {} for name in SECTIONS}
    for name, section in sections.items():
        if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
            raise SeparationError(f"{path}: the section {name} must hold options by name")
    return Options(**sections)


def _is_neutral(name: str) -> bool:
    return NEUTRAL.fullmatch(name) is not None


def _whole(value: Any, name: str, bound: int = BOUND) -> int:
    if type(value) is not int or not 0 < value < bound:
        raise SeparationError(f"{name} must be a whole number from 1 to {bound - 1}, not {value!r}")
    return value


def _as_name(name: str) -> str:
    """A name for files: other characters become underscores."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _few(numbers: list[int] | tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:4]))
    return f"{shown}, ... ({len(numbers)} bands)"


@dataclass(frozen=True)
class Published:
    """A published model of known sizes.

    Attributes:
        sizes: dim, depth and stems.
        hop, chunk: of the STFT and of the windows, in samples.
        overlap: number of windows that hold a sample.
        instrument: of the only stem; None if there are several, whose order is not known.
    """

    name: str
    is_mel: bool
    sizes: tuple[int, int, int]
    hop: int
    chunk: int
    overlap: int
    instrument: str | None = "vocals"


PUBLISHED = (
    Published("Kim's Mel-Band RoFormer", True, (384, 6, 1), 441, 352800, 2),
    Published("viperx's Mel-Band RoFormer ep_3005", True, (384, 12, 1), 441, 352800, 2),
    Published("viperx's BS-RoFormer ep_317", False, (512, 12, 1), 441, 352800, 2),
    Published("viperx's BS-RoFormer ep_937", False, (384, 12, 1), 512, 131584, 2, "other"),
    Published("MSST's BS-RoFormer for vocals", False, (192, 6, 1), 512, 131584, 4),
    Published("MSST's Mel-Band RoFormer for vocals", True, (192, 8, 1), 512, 131584, 4),
    Published("MSST's BS-RoFormer 384_8_2", False, (384, 8, 4), 441, 485100, 2, None),
    Published("MSST's Mel-Band RoFormer of 4 stems", True, (384, 6, 4), 441, 352800, 2, None),
)


def published(found: Sizes, notes: list[str]) -> Options:
    """Options of the published model of some sizes.

    Args:
        notes: a sentence that names the model is appended.

    Raises:
        SeparationError: there is none, or its stems are not known.
    """
    values = found.values
    sizes = (values["dim"], values["depth"], values["num_stems"])
    width = len(found.features)
    is_usual = width == USUAL_BANDS[found.is_mel] and values.get("heads") == 8
    model = next((x for x in PUBLISHED if (x.is_mel, x.sizes) == (found.is_mel, sizes)), None)
    if model is None or not is_usual:
        raise SeparationError(
            f"a {found.family} of these sizes (dim {sizes[0]}, depth {sizes[1]}, {sizes[2]} stems, "
            f"{width} bands) is not known: give its YAML file by --config"
        )
    if model.instrument is None:
        raise SeparationError(
            f"these are the sizes of {model.name}, but the order of its stems is in its YAML file "
            "only: give it by --config"
        )
    notes.append(
        f"these are the sizes of {model.name}: its STFT and windows are used; give the "
        "checkpoint's own YAML file by --config if it has others"
    )
    other = "vocals" if model.instrument == "other" else "other"
    return Options(
        audio={"chunk_size": model.chunk, "sample_rate": RATE},
        model={"stft_hop_length": model.hop, "stereo": True},
        training={
            "instruments": [model.instrument, other],
            "target_instrument": model.instrument,
        },
        inference={"num_overlap": model.overlap},
    )
