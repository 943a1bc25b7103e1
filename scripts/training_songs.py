"""Make the songs that the shipped weights were trained with.

    python scripts/training_songs.py MATERIAL OUT

MATERIAL holds ``train/SONG/{vocals,accompaniment}.*`` (songs with stems), ``voices/*`` (solo
singing) and ``backing/*`` (music without vocals); docs/training.md names them and their licences.
OUT gets a folder per song, as ``spleeter train -d OUT`` takes it:

- the songs with stems, as they are;
- voices over backing: the remix of ``spleeter train`` takes each stem on its own, so who stands
  beside whom does not matter. Voices get a synthetic reverberation, for they were recorded dry;
- band arrangements, for more drums, basses and harmonies than the rest has: MMA makes them from
  random chords and FluidSynth plays them (``apt-get install mma fluidsynth fluid-soundfont-gm``).

Everything is drawn from one seed. Voices and backing of the song ``held`` are not in any other: it
is there to validate with.
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
LEVEL = 0.12  # RMS of what has no level of its own
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
    """Float32 ``[S, 2]``."""
    with AudioReader(path, RATE) as reader:
        return with_channels(np.concatenate(list(reader.blocks())), 2)


def levelled(waveform: np.ndarray) -> np.ndarray:
    return waveform * (LEVEL / np.sqrt(np.mean(np.square(waveform)) + 1e-12))


def reverberated(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With 5 to 25 % of exponentially decaying noise, 0.3 to 1.5 s until -60 dB, per channel."""
    seconds = rng.uniform(0.3, 1.5)
    time = np.arange(int(seconds * RATE)) / RATE
    impulse = rng.normal(size=(len(time), 2)) * 10 ** (-3 * time / seconds)[:, np.newaxis]
    impulse /= np.sqrt(np.sum(impulse**2, axis=0))
    wet = scipy.signal.fftconvolve(voice, impulse, axes=0)
    dry = np.pad(voice, ((0, len(wet) - len(voice)), (0, 0)))
    return dry + rng.uniform(0.05, 0.25) * wet


def find(folder: Path, names: set[str]) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.stem in names)
    if len(found) != len(names):
        raise SystemExit(f"{folder} lacks some of {', '.join(sorted(names))}")
    return found


def mixed(material: Path, voices: set[str], backing: set[str], rng) -> dict[str, np.ndarray]:
    """Voices in turn, each with a reverberation of its own every time, over backing."""
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
    """One arrangement of random chords."""
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
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout or done.stderr}")


def write(folder: Path, stems: dict[str, np.ndarray]) -> None:
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
        parser.error(f"{options.out} is there already: name another folder")
    rng = np.random.default_rng(0)
    for song in sorted((options.material / "train").iterdir()):
        (options.out / song.name).mkdir(parents=True)
        for stem in ("vocals", "accompaniment"):
            (path,) = song.glob(f"{stem}.*")
            (options.out / song.name / path.name).symlink_to(path.resolve())
    for name, (voices, backing) in MIXES.items():
        write(options.out / name, mixed(options.material, voices, backing, rng))
    bands = np.concatenate([band(rng) for _ in range(BANDS)])
    # singers of the songs, so that bands do not mean that nobody sings
    halves = np.array_split(bands, len(SINGERS))
    for number, (singer, half) in enumerate(zip(SINGERS, halves, strict=True), start=1):
        (path,) = (options.material / "train" / singer).glob("vocals.*")
        stems = {"vocals": np.resize(read(path), half.shape), "accompaniment": half}
        write(options.out / f"bands-{number}", stems)


if __name__ == "__main__":
    main()
