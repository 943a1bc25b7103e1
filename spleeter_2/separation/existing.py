"""Check stems that an earlier run has left, for ``--skip-existing``."""

from __future__ import annotations

from collections.abc import Iterable

from spleeter_2.audio.reader import AudioReader
from spleeter_2.errors import SeparationError

LOSSY_TOLERANCE = 4096  # samples: a lossy codec may add or lose a frame or two


def fault_of_stems(paths: Iterable[str], song: AudioReader, is_exact: bool) -> str:
    """Decode stems and the song, and compare their lengths.

    Sample rates, bits, bit rates and models are not compared.

    Args:
        song: opened as it would be to separate it.
        is_exact: stems at the song's sample rate have exactly as many samples as the song.

    Returns:
        The first fault as a sentence; empty if all stems are readable and as long as the song.

    Raises:
        SeparationError: the song cannot be read.
    """
    lengths = {}
    for path in paths:
        try:
            with AudioReader(path) as stem:
                lengths[path] = (_nb_samples(stem), stem.sample_rate)
                if stem.faults:
                    return stem.faults[0]
        except SeparationError as error:
            return str(error)
    expected = _nb_samples(song) / song.sample_rate
    for path, (nb_samples, rate) in lengths.items():
        tolerance = 0.5 if is_exact and rate == song.sample_rate else LOSSY_TOLERANCE  # samples
        if abs(nb_samples / rate - expected) > tolerance / min(rate, song.sample_rate):
            return f"{path} lasts {nb_samples / rate:.3f} s, not {expected:.3f} s"
    return ""


def _nb_samples(reader: AudioReader) -> int:
    return sum(map(len, reader.blocks()))
