"""Small data sets in all layouts, made from the real stem file that stempeg ships."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 44100
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
NAMES = ("Anna - Été", "Bob & Co. - [Live], 100 %", "Čeněk – Ж 日本")


def excerpt(start: float, seconds: float) -> dict[str, np.ndarray]:
    """Float32 ``[S, 2]`` of each stream; the mixture is the sum of the stems."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("stempeg needs ffmpeg and ffprobe: apt-get install ffmpeg")
    import stempeg

    streams, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    part = streams[:, round(start * RATE) : round((start + seconds) * RATE)] / 4
    stems = dict(zip(STREAMS, part.astype(np.float32), strict=True))
    stems["mixture"] = sum(stems[name] for name in STREAMS[1:])
    return stems


def write_folder(folder: Path, stems: dict[str, np.ndarray], rate: int = RATE) -> None:
    """One 16-bit WAV file per stem."""
    folder.mkdir(parents=True)
    for name, waveform in stems.items():
        soundfile.write(folder / f"{name}.wav", waveform, rate)


def write_stem_file(path: Path, stems: dict[str, np.ndarray]) -> None:
    """A ``.stem.mp4`` with five AAC streams."""
    import stempeg

    data = np.stack([stems[name] for name in STREAMS])
    writer = stempeg.StreamsWriter(codec="aac", bitrate=256000, stem_names=list(STREAMS))
    stempeg.write_stems(str(path), data, sample_rate=RATE, writer=writer)


def two(stems: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mixture, vocals and accompaniment."""
    accompaniment = stems["drums"] + stems["bass"] + stems["other"]
    return {
        "mixture": stems["mixture"],
        "vocals": stems["vocals"],
        "accompaniment": accompaniment,
    }


@pytest.fixture(scope="session")
def musdb18(tmp_path_factory) -> Path:
    """Three tracks of 3 s in ``test``, one of them stempeg's own in full, and one in ``train``."""
    import stempeg

    root = tmp_path_factory.mktemp("musdb18")
    (root / "train").mkdir()
    write_stem_file(root / "train" / "Training.stem.mp4", excerpt(0, 2))
    (root / "test").mkdir()
    for index, name in enumerate(NAMES[:2]):
        write_stem_file(root / "test" / f"{name}.stem.mp4", excerpt(index, 3))
    shutil.copy(stempeg.example_stem_path(), root / "test" / f"{NAMES[2]}.stem.mp4")
    return root


@pytest.fixture(scope="session")
def musdb18_hq(tmp_path_factory) -> Path:
    """Three tracks of 3 s in ``test``, four stems each."""
    root = tmp_path_factory.mktemp("musdb18-hq")
    for index, name in enumerate(NAMES):
        write_folder(root / "test" / name, excerpt(index, 3))
    return root


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """Three songs of 3 s, vocals and accompaniment only."""
    root = tmp_path_factory.mktemp("plain")
    for index, name in enumerate(NAMES):
        write_folder(root / name, two(excerpt(index, 3)))
    return root
