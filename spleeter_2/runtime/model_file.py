"""The exported network of a model: ``model.onnx`` beside its checkpoint.

Its metadata has what surrounds the network, and digests of the checkpoint and of the configuration
that it was exported from, so that a file that is older than its checkpoint is noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from spleeter_2.config.loading import CHECKPOINT
from spleeter_2.config.schema import Configuration

NAME = "model.onnx"
INPUT = "mixture"  # planes [1, T, F, 2C]; each output has the name of its target and this shape
INSTRUMENTS = "loop/instruments"  # optional input of conditioned networks; see ``instrument_loop``
DIGEST, WINDOW, DIFFERENCE = "spleeter_2_digest", "stft_window", "difference"  # metadata


def digest(configuration: Configuration) -> str:
    """Digests of all that determines the exported network, of its architecture and its weights."""
    facts = (
        configuration.targets,
        configuration.nb_channels,
        configuration.stft,
        configuration.segment.nb_frames,
        configuration.model,
    )
    architecture = hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]
    # the index holds the CRC of every tensor
    index = Path(configuration.weights) / f"{CHECKPOINT}.index"
    weights = hashlib.sha256(index.read_bytes() if index.is_file() else b"").hexdigest()[:32]
    return f"{architecture}-{weights}"


def has_same_architecture(one: str, other: str) -> bool:
    """Compare two digests."""
    return one.partition("-")[0] == other.partition("-")[0]


def path_of(configuration: Configuration, is_variant: bool = False) -> Path:
    """Path of a model's exported network.

    Args:
        is_variant: ``model.onnx`` is another architecture's with the same weights, as for a
            configuration that changes the segment of its base.
    """
    name = NAME
    if is_variant:
        name = f"model-{digest(configuration).partition('-')[0][:12]}.onnx"
    return Path(configuration.weights) / name
