"""Songs of 6 s and an empty stem cache."""

from pathlib import Path

import pytest
from support.songs import write

from spleeter_2.data.cache import StemCache


@pytest.fixture
def folder(tmp_path, stems) -> Path:
    """Two valid songs, 16-bit and not clipped, among files and folders that are no songs."""
    for name, gain in (("a song", 0.5), ("b", -0.5)):
        for instrument, stem in stems.items():
            write(tmp_path / "set" / name / f"{instrument}.wav", gain * stem, subtype="PCM_16")
    for other in ("a song/cover.jpg", "list.txt"):
        (tmp_path / "set" / other).touch()
    for other in ("lyrics", ".hidden"):
        (tmp_path / "set" / other).mkdir()
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path) -> StemCache:
    return StemCache(tmp_path / "cache")
