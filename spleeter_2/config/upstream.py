"""Configurations of Spleeter, read as configurations of spleeter-2.

The keys are those of Spleeter 2.4.2 (``spleeter/resources/*.json``), the defaults those of its
code. The network, its masks and the way in which a song is cut are the same; of the training, what
our trainer has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from spleeter_2.errors import SeparationError

from .validation import Positive, parse, require

KEY = "instrument_list"  # required in Spleeter's configurations, unknown in ours
TYPES = {"unet.unet": "mask", "unet.softmax_unet": "softmax"}  # head of each model type
NB_FILTERS = 6  # levels of the U-Net
# what our trainer lacks, and what it has; any other optimizer stands for Adam
NOT_TRAINED = {
    "optimizer": (("Adadelta", "SGD"), "Adam"),
    "loss_type": (("weighted_L1_mask",), "L1_mask"),
}
ACTIVATIONS = {"ReLU": "relu", "ELU": "elu", "LeakyReLU": "leaky_relu"}


class Model(msgspec.Struct, frozen=True):
    """The ``model`` object; ``params`` may have keys that no network reads."""

    type: str = "unet.unet"
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require(
            self.type in TYPES,
            f"type {self.type} is not supported: known are {' and '.join(TYPES)}",
        )
        filters = self.filters
        require(
            filters is None
            or (isinstance(filters, list) and len(filters) >= NB_FILTERS)
            and all(type(number) is int and number > 0 for number in filters),
            f"params.conv_n_filters must hold {NB_FILTERS} whole numbers, not {filters!r}",
        )

    @property
    def filters(self) -> Any:
        """Filters of the levels, or None for the default."""
        return (self.params or {}).get("conv_n_filters")


class Upstream(msgspec.Struct, frozen=True):
    """Keys for separation and training; others are ignored."""

    instrument_list: Annotated[tuple[str, ...], Meta(min_length=1)]
    model_dir: str
    sample_rate: Positive = 44100
    frame_length: Positive = 4096
    frame_step: Positive = 1024
    T: Positive = 512
    F: Positive = 1024
    n_channels: Literal[1, 2] = 2
    separation_exponent: Annotated[float, Meta(gt=0)] = 2
    mask_extension: Literal["zeros", "average"] = "zeros"
    model: Model = Model()
    batch_size: Positive = 8
    learning_rate: float = 1e-4
    train_max_steps: Positive = 100_000
    save_checkpoints_steps: Positive = 300
    random_seed: int = 0
    loss_type: Literal["L1_mask", "weighted_L1_mask"] = "L1_mask"
    optimizer: str | None = None
    train_csv: str | None = None
    validation_csv: str | None = None

    def __post_init__(self) -> None:
        stride, available = 2**NB_FILTERS, self.frame_length // 2 + 1
        for name in ("T", "F"):
            value = getattr(self, name)
            require(value % stride == 0, f"{name} must be a multiple of {stride}, not {value}")
        require(self.F <= available, f"F is {self.F}, but the STFT has only {available} bins")


def is_upstream(data: Mapping[str, Any]) -> bool:
    """True for the JSON object of a configuration of Spleeter."""
    return "spleeter_2" not in data and KEY in data


def parse_upstream(data: Mapping[str, Any], path: str | Path) -> Upstream:
    """Validate the JSON object of a configuration of Spleeter.

    Raises:
        SeparationError: a missing or invalid key, or an unknown network.
    """
    try:
        return parse(Upstream, dict(data))
    except SeparationError as error:
        raise SeparationError(f"{path} is not a configuration of Spleeter: {error}") from error


def check_trainable(given: Upstream, path: str | Path) -> None:
    """Raise SeparationError for a training that our trainer does not have."""
    for key, (values, ours) in NOT_TRAINED.items():
        value = getattr(given, key)
        if value in values:
            raise SeparationError(
                f"{path}: the trainer has no {key} {value}: remove the key to train with {ours}"
            )


def unused_keys(data: Mapping[str, Any]) -> list[str]:
    """Keys of a configuration of Spleeter that have no effect on a training of ours."""
    used = {field.name for field in msgspec.structs.fields(Upstream)} - {"model_dir"}
    return [key for key in data if key not in used]


def from_upstream(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The JSON object of a configuration of spleeter-2 with the same network.

    Args:
        data: JSON object of a configuration of Spleeter.
        path: of its file, which gives the name.

    Raises:
        SeparationError: a missing or invalid key, or an unknown network.
    """
    given = parse_upstream(data, path)
    return {
        "spleeter_2": 1,
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-_") or "spleeter",
        "sample_rate": given.sample_rate,
        "nb_channels": given.n_channels,
        "targets": list(given.instrument_list),
        "residual": None,
        "stft": {"frame_length": given.frame_length, "frame_step": given.frame_step},
        "segment": {"nb_frames": given.T, "trim": 0, "join": "frames"},
        "model": _network(given),
        "ratio_mask": {"exponent": given.separation_exponent, "extension": given.mask_extension},
        "stem_format": "model",
        "model_dir": given.model_dir,
        "training": _training(given),
    }


def _network(given: Upstream) -> dict[str, Any]:
    params = given.model.params or {}
    network = {
        "type": "unet",
        "nb_bins": given.F,
        "level": None,
        # an unknown activation is no error of Spleeter's, which then takes its default
        "encoder_activation": ACTIVATIONS.get(str(params.get("conv_activation")), "leaky_relu"),
        "decoder_activation": ACTIVATIONS.get(str(params.get("deconv_activation")), "relu"),
        "dropout": 0.0,  # Spleeter's trainer never turns it on
        "head": {"type": TYPES[given.model.type]},
    }
    if given.model.filters is not None:
        network["filters"] = given.model.filters[:NB_FILTERS]
    return network


def _training(given: Upstream) -> dict[str, Any]:
    steps = min(given.save_checkpoints_steps, given.train_max_steps)
    return {
        "loss": {"spectrogram": "magnitude_l1"},
        "augmentation": {},
        "batch_size": given.batch_size,
        "learning_rate": given.learning_rate,
        "steps_per_epoch": steps,
        "epochs": -(-given.train_max_steps // steps),
        "seed": max(given.random_seed, 0),
        "clip_norm": None,
        "freeze_statistics": True,  # Spleeter's trainer never updates them
    }
