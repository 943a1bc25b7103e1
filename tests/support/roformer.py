"""Golden RoFormers: small ones in the repository, all of them in the folder ROFORMER_GOLDEN."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL_SET = ROOT / "tests/data/roformer"
GOLDEN = Path(os.environ.get("ROFORMER_GOLDEN", SMALL_SET))

# an option of each kind that the golden networks lack too
TINY = {
    "type": "roformer",
    "nb_bins": 65,
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "head_size": 4,
    "mask_expansion": 1,
    "mask_layers": 1,
}
MEL = {**TINY, "mel_bands": 5, "mel_rate": 8000}
BS = {**TINY, "band_widths": [5, 20, 40], "output_norm": False}


def golden(name: str) -> Path:
    """A golden file, in the repository or in the folder that ROFORMER_GOLDEN names."""
    for folder in (SMALL_SET, GOLDEN):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"golden file {name} is not here: set ROFORMER_GOLDEN to its folder")
