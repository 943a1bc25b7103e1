"""The exported network of a model: ``model.onnx`` beside its checkpoint.

Its metadata has what surrounds the network, and digests of the checkpoint and of the configuration
that it was exported from, so that a file that is older than its checkpoint is noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec.structs import replace

from spleeter_2.config.loading import ONNX_FILE, PRESETS
from spleeter_2.config.networks import UNet
from spleeter_2.config.schema import Configuration
from spleeter_2.files import user_cache
from spleeter_2.weights.bundle import latest_checkpoint

NAME = ONNX_FILE
VERSION = 2  # of exported graphs: files of another one are exported again
INPUT = "mixture"  # planes [1, T, F, 2C]; each output has the name of its target and this shape
INSTRUMENTS = "loop/instruments"  # optional input of conditioned networks; see ``instrument_loop``
# keys of the metadata; TARGETS in the order of the configuration
DIGEST, WINDOW, DIFFERENCE = "spleeter_2_digest", "stft_window", "difference"
TARGETS = "targets"
GRAPHS = PRESETS / "graphs"  # networks without weights, by architecture


def architecture(configuration: Configuration) -> str:
    """Digest of all that determines a network, apart from its weights and names."""
    model = configuration.model
    if isinstance(model, UNet):
        model = replace(model, dropout=UNet().dropout)  # which a trained network does not have
    facts = (
        VERSION,
        len(configuration.targets),
        configuration.nb_channels,
        configuration.stft,
        configuration.segment.nb_frames,
        model,
    )
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]


def digest(configuration: Configuration) -> str:
    """Digests of all that determines the exported network, of its architecture and its weights."""
    # the index holds the CRC of every tensor
    index = Path(f"{latest_checkpoint(configuration.weights)}.index")
    weights = hashlib.sha256(index.read_bytes()).hexdigest()[:32]
    return f"{architecture(configuration)}-{weights}"


def has_same_architecture(one: str, other: str) -> bool:
    """Compare two digests."""
    return one.partition("-")[0] == other.partition("-")[0]


def path_of(configuration: Configuration, is_variant: bool = False) -> Path:
    """Path of a model's exported network.

    Args:
        is_variant: ``model.onnx`` is another architecture's with the same weights, as for a
            configuration that changes the segment of its base.
    """
    name = f"model-{architecture(configuration)[:12]}.onnx" if is_variant else NAME
    return Path(configuration.weights) / name


def anonymous(configuration: Configuration) -> Configuration:
    """The configuration with numbered targets: its network is the same for any instruments."""
    numbers = range(1, len(configuration.targets) + 1)
    return replace(configuration, targets=tuple(f"instrument_{number}" for number in numbers))


def ships(configuration: Configuration) -> bool:
    """True if the network of a configuration ships without weights."""
    return _shipped(configuration).is_file()


def graph_path(configuration: Configuration) -> Path:
    """Path of a network without weights, one that ships or else one in the user's cache.

    Raises:
        SeparationError: it does not ship, and the user has no home.
    """
    shipped = _shipped(configuration)
    if shipped.is_file():
        return shipped
    return user_cache("graphs", "exported networks: name one in XDG_CACHE_HOME") / shipped.name


def _shipped(configuration: Configuration) -> Path:
    return GRAPHS / f"{architecture(configuration)[:12]}.onnx"
