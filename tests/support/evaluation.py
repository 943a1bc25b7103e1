"""Small data sets in all layouts, made from the real stem file that stempeg ships."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_file

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


def misbehave(task: str) -> str:
    """For a worker: answer, complain, fail, or die."""
    if task == "complain":
        raise SeparationError("this cannot be done")
    if task == "fail":
        raise ZeroDivisionError("oops")
    if task == "crowd":
        raise RuntimeError("can't start new thread")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{task} by {os.getpid()} with {os.environ['OMP_NUM_THREADS']} thread(s)"


def blocked(task: object) -> bool:
    """For a worker: whether it is spared Ctrl-C."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def stubborn(path: Path) -> None:
    """For a worker: ignore SIGTERM; "long" takes long, another waits until it has begun."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path.touch()
    if path.name == "long":
        time.sleep(60)
    while not path.with_name("long").exists():
        time.sleep(0.05)


def half_written(path: Path) -> None:
    """For a worker: "long" writes a file and takes long, another waits until it has begun."""
    if path.name == "long":
        with atomic_file(path):
            time.sleep(60)
    while not list(path.parent.glob(".spleeter-2-*-long")):
        time.sleep(0.05)


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
