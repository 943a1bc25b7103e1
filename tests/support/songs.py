"""Data sets for the tests of the song finder, the stem cache and the examples."""

from pathlib import Path

import numpy as np
import soundfile

from spleeter_2.data.cache import StemCache
from spleeter_2.data.songs import Songs, training_songs

from .common import RATE

TWO = ("vocals", "accompaniment")
FOUR = ("vocals", "drums", "bass", "other")


def write(path: Path, waveform, rate=RATE, **options) -> Path:
    """Write an audio file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, **options)
    return path


def synthetic(folder: Path, lengths) -> Songs:
    """Cached songs; the left channel encodes song and instrument, the right one the position."""
    for number, nb_samples in enumerate(lengths):
        for column, instrument in enumerate(TWO):
            samples = np.full((nb_samples, 2), 100 * (number + 1) + column, np.int16)
            samples[:, 1] = np.arange(nb_samples) + 1
            write(folder / "ramps" / f"song{number}" / f"{instrument}.wav", samples)
    return StemCache(folder / "cache").decode(training_songs(folder / "ramps", TWO))


def names_of(songs) -> list[str]:
    return [song.name for song in songs]


def details(songs: Songs, what: str) -> dict[str, str]:
    """Details of the notes of one kind, by song."""
    return {note.song: note.detail for note in songs.notes if note.what.startswith(what)}
