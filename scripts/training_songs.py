"""Make the training songs of the shipped weights.

    python scripts/training_songs.py MATERIAL OUT

MATERIAL has ``train/SONG/{vocals,accompaniment}.*`` (songs with stems), ``voices/*`` (solo
singing) and ``backing/*`` (music without vocals); see docs/training.md for the recordings and
their licences. OUT has a folder per song, for ``spleeter train -d OUT``:

- the songs with stems, unchanged;
- voices over backing. Their combination is arbitrary, since the remix of ``spleeter train`` draws
  each stem separately. Voices get a synthetic reverberation, since they were recorded dry;
- band arrangements, which add drums, basses and harmonies: random chords, arranged by MMA and
  played by FluidSynth (``apt-get install mma fluidsynth fluid-soundfont-gm``).

All random numbers have one seed. The song ``held``, for validation, shares no voice or backing
with the other songs.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

from spleeter_2.audio.mixing import with_channels
from spleeter_2.audio.reader import AudioReader

RATE = 44100
LEVEL = 0.12  # RMS of normalised recordings
SOUNDFONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
MIXES = {  # song: voices, backing
    "voices-1": ({"vocadito_1", "carnatic"}, {"sectoid-Escape_from_chaosland", "sectoid-Feelings"}),
    "voices-2": (
        {"vocadito_10", "vignesh", "soprano-E4"},
        {
            "sectoid-Metal_madness", "librosa-brahms_PD", "librosa-nutcracker_CC-BY-3.0",
            "librosa-trumpet_CC-BY-3.0",
        },
    ),
    "held": (
        {"vocadito_14", "singing-female"},
        {"sectoid-War_of_freedom", "librosa-vibeace_CC-BY-3.0"},
    ),
}  # fmt: skip
GROOVES = (
    "50sRock 60sRock 8Beat Ballad BasicRock Blues BossaNova BubbleRock Calypso CountryBlues "
    "FolkRock Funk1 BVFunk GuitarBallad JazzRock LFusion ModernJazz PopBallad R&B Rock128 "
    "RockBallad Salsa Samba ShuffleBoggie Ska SlowBlues SoftRock Strut Swing Trance Twist"
).split()
PROGRESSIONS = (
    "C G Am F", "Am F C G", "Dm7 G7 CM7 Am7", "C Am Dm G", "Em C G D", "C7 F7 C7 G7", "Am G F E7",
    "F G Em Am", "CM7 FM7 Bm7b5 E7", "Am Dm G C",
)  # fmt: skip
BARS, BANDS = 16, 30
SINGERS = ("EIF-Lithium", "EIF-Hydrogen")


def read(path: Path) -> np.ndarray:
    """A file as float32 ``[S, 2]``."""
    with AudioReader(path, RATE) as reader:
        return with_channels(np.concatenate(list(reader.blocks())), 2)


def levelled(waveform: np.ndarray) -> np.ndarray:
    """Normalise a waveform to an RMS of ``LEVEL``."""
    return waveform * (LEVEL / np.sqrt(np.mean(np.square(waveform)) + 1e-12))


def reverberated(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add reverberation: 5 to 25 %, decaying noise per channel, 0.3 to 1.5 s to -60 dB.

    Returns:
        float ``[S', 2]``, longer than the voice ``[S, 2]``.
    """
    seconds = rng.uniform(0.3, 1.5)
    time = np.arange(int(seconds * RATE)) / RATE
    impulse = rng.normal(size=(len(time), 2)) * 10 ** (-3 * time / seconds)[:, np.newaxis]
    impulse /= np.sqrt(np.sum(impulse**2, axis=0))
    wet = scipy.signal.fftconvolve(voice, impulse, axes=0)
    dry = np.pad(voice, ((0, len(wet) - len(voice)), (0, 0)))
    return dry + rng.uniform(0.05, 0.25) * wet


def find(folder: Path, names: set[str]) -> list[Path]:
    """Files of a folder by name without suffix; exits if one is missing."""
    found = sorted(path for path in folder.iterdir() if path.stem in names)
    if len(found) != len(names):
        raise SystemExit(f"{folder} must have {', '.join(sorted(names))}")
    return found


def mixed(material: Path, voices: set[str], backing: set[str], rng) -> dict[str, np.ndarray]:
    """Song of voices in turn over backing, ``{stem: [S, 2]}``; reverberation is drawn each time."""
    accompaniment = np.concatenate([levelled(read(p)) for p in find(material / "backing", backing)])
    sung = [levelled(read(path)) for path in find(material / "voices", voices)]
    parts, length = [], 0
    while length < len(accompaniment):
        for voice in sung:
            parts.append(reverberated(voice, rng))
            length += len(parts[-1])
    return {
        "vocals": np.concatenate(parts)[: len(accompaniment)],
        "accompaniment": accompaniment,
    }


def band(rng: np.random.Generator) -> np.ndarray:
    """Arrangement of random chords, ``[S, 2]``."""
    groove = GROOVES[rng.integers(len(GROOVES))]
    tempo, transpose = rng.integers(72, 150), rng.integers(-5, 7)
    lines = [f"Tempo {tempo}", f"Groove {groove}", f"Transpose {transpose}"]
    number = 1
    for _ in range(BARS // 4):
        for chord in PROGRESSIONS[rng.integers(len(PROGRESSIONS))].split():
            lines.append(f"{number} {chord}")
            number += 1
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder, "song.mma")
        song.write_text("\n".join(lines) + "\n")
        run("mma", song)
        sound = song.with_suffix(".wav")
        run("fluidsynth", "-ni", "-r", RATE, "-F", sound, SOUNDFONT, song.with_suffix(".mid"))
        return levelled(read(sound))


def run(*command: object) -> None:
    """Run a command; exits with its output if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout or done.stderr}")


def write(folder: Path, stems: dict[str, np.ndarray]) -> None:
    """Write stems as FLAC, scaled down where they exceed full scale."""
    folder.mkdir(parents=True)
    for name, waveform in stems.items():
        waveform = waveform / max(1.0, np.abs(waveform).max() / 0.99)
        soundfile.write(folder / f"{name}.flac", waveform, RATE)
    print(f"{folder}: {len(waveform) / RATE:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("material", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    if not (options.material / "train").is_dir():
        parser.error(f"there is no folder {options.material / 'train'}")
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another folder")
    rng = np.random.default_rng(0)
    for song in sorted((options.material / "train").iterdir()):
        (options.out / song.name).mkdir(parents=True)
        for stem in ("vocals", "accompaniment"):
            (path,) = song.glob(f"{stem}.*")
            (options.out / song.name / path.name).symlink_to(path.resolve())
    for name, (voices, backing) in MIXES.items():
        write(options.out / name, mixed(options.material, voices, backing, rng))
    bands = np.concatenate([band(rng) for _ in range(BANDS)])
    # with vocals of the songs, or a network could learn that bands have no vocals
    halves = np.array_split(bands, len(SINGERS))
    for number, (singer, half) in enumerate(zip(SINGERS, halves, strict=True), start=1):
        (path,) = (options.material / "train" / singer).glob("vocals.*")
        stems = {"vocals": np.resize(read(path), half.shape), "accompaniment": half}
        write(options.out / f"bands-{number}", stems)


if __name__ == "__main__":
    main()
