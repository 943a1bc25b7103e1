"""Golden checkpoints and PyTorch's outputs for them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL_SET = ROOT / "tests/data/lasaft"
GOLDEN = Path(os.environ.get("LASAFT_GOLDEN", ROOT.parent / "shared/lasaft/golden"))


def golden(name: str) -> Path:
    """A golden file, of the whole set or of the small one in the repository."""
    for folder in (GOLDEN, SMALL_SET):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"golden file {name} is not here: set LASAFT_GOLDEN to its folder")
