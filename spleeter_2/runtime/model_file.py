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
DIGEST, WINDOW, DIFFERENCE = "spleeter_2_digest", "stft_window", "difference"  # metadata


def digest(configuration: Configuration) -> str:
    """Digest of all that determines the exported network: checkpoint and architecture."""
    facts = (
        configuration.targets,
        configuration.nb_channels,
        configuration.stft,
        configuration.segment.nb_frames,
        configuration.model,
    )
    hashed = hashlib.sha256(msgspec.json.encode(facts))
    # the index holds the CRC of every tensor
    index = path_of(configuration).with_name(f"{CHECKPOINT}.index")
    hashed.update(index.read_bytes() if index.is_file() else b"")
    return hashed.hexdigest()


def path_of(configuration: Configuration) -> Path:
    """Path of a model's exported network."""
    return Path(configuration.weights) / NAME
