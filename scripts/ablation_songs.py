"""Make the data set of the published ablation.

    python scripts/ablation_songs.py MATERIAL OUT [--start SECOND]

MATERIAL has ``train/SONG/{vocals,accompaniment}.*``, the five songs of docs/training.md. Four of
them are linked in OUT/train; OUT/test has one minute of the fifth, and stempeg's excerpt (which
requires ffmpeg).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import stempeg

from spleeter_2.audio.reader import AudioReader

RATE = 44100
STEMS = ("vocals", "accompaniment")
SCORED, SECONDS = "EIF-Caesium", 60.0
GAIN = 0.25  # stempeg's excerpt exceeds full scale


def minute(song: Path, start: float) -> dict[str, np.ndarray]:
    """One minute of a song from ``start`` in seconds, ``{stem: float32 [S, C]}``."""
    stems = {}
    for stem in STEMS:
        (path,) = song.glob(f"{stem}.*")
        with AudioReader(path, RATE, start, SECONDS) as reader:
            stems[stem] = np.concatenate(list(reader.blocks()))
    return stems


def excerpt() -> dict[str, np.ndarray]:
    """Stempeg's excerpt, ``{stem: float [S, C]}``."""
    streams, _ = stempeg.read_stems(stempeg.example_stem_path())  # mixture, drums, bass, other, ...
    return {"vocals": GAIN * streams[4], "accompaniment": GAIN * streams[1:4].sum(axis=0)}


def write(folder: Path, stems: dict[str, np.ndarray]) -> None:
    """Write the stems, rounded to 16 bits, and their sum as the mixture."""
    folder.mkdir(parents=True)
    rounded = {stem: np.round(waveform * 32768) / 32768 for stem, waveform in stems.items()}
    rounded["mixture"] = sum(rounded.values())
    for name, waveform in rounded.items():
        soundfile.write(folder / f"{name}.flac", waveform, RATE, subtype="PCM_24")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("material", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--start",
        type=float,
        default=165.0,
        help="start of the minute in seconds; from 165 on, most of the minute has vocals",
    )
    options = parser.parse_args()
    if not (options.material / "train").is_dir():
        parser.error(f"there is no folder {options.material / 'train'}")
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another folder")
    train = options.out / "train"
    train.mkdir(parents=True)
    for song in sorted((options.material / "train").iterdir()):
        if song.name != SCORED:
            (train / song.name).symlink_to(song.resolve())
    write(options.out / "test" / SCORED, minute(options.material / "train" / SCORED, options.start))
    write(options.out / "test" / "stempeg-excerpt", excerpt())


if __name__ == "__main__":
    main()
