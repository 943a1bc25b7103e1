"""Make the training songs of the shipped weights.

    python scripts/training_songs.py MATERIAL OUT

MATERIAL has ``train/SONG/{vocals,accompaniment}.*`` (songs with stems), ``voices/*`` (solo
singing) and ``backing/*`` (music without vocals); see docs/training.md for the recordings and
their licences. OUT has a folder per song, for ``spleeter train -d OUT``:

- the songs with stems, unchanged;
- voices over backing. Their combination is arbitrary, since the remix of ``spleeter train`` draws
  each stem separately. Solo voices get a synthetic reverberation, since they were recorded dry;
- band arrangements, which add drums, basses and harmonies: random chords, arranged by MMA and
  played by FluidSynth (``apt-get install mma fluidsynth fluid-soundfont-gm``);
- with ``--medleys`` also pieces of the songs' vocals and solo voices in random order, each at
  another speed and level, over other backing: for ``scripts/teacher_songs.py``, which keeps their
  mixtures.

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
import soxr

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
MEDLEYS = {  # song: singers, backing
    "medley-1": (
        {"EIF-Hydrogen", "EIF-Lithium", "vocadito_1", "carnatic"},
        {
            "opengameart-CrashedShip_CC-BY-3.0", "opengameart-Futuristic_junk_CC-BY-3.0",
            "opengameart-The_9th_Circle_V2_CC0-1.0", "opengameart-low_fi_CC-BY-3.0",
            "opensurge-allegro_CC0-1.0", "opensurge-citychill_CC-BY-3.0",
            "opensurge-drowning_CC-BY-4.0", "opensurge-options_CC-BY-3.0",
            "opensurge-speed_CC-BY-4.0", "opensurge-waterworks_CC0-1.0",
        },
    ),
    "medley-2": (
        {"EIF-Potassium", "EIF-Rubidium", "vocadito_10", "vignesh", "soprano-E4"},
        {
            "opengameart-A_Really_Tense_Moment_FULL_CC-BY-3.0", "opengameart-Epic_Fall_CC-BY-3.0",
            "opengameart-Party_Sector_CC0-1.0", "opengameart-red_doors2_CC-BY-3.0",
            "opengameart-space_0_CC-BY-3.0", "opengameart-space_dimensions_8bit_CC-BY-3.0",
            "opensurge-gimacian_CC-BY-3.0", "opensurge-sunshine_CC-BY-3.0",
            "opensurge-title_CC-BY-4.0",
        },
    ),
}  # fmt: skip
PIECE = 20 * RATE  # samples of a singer's piece in a medley, at most
MEDLEY_SPEED, MEDLEY_DB = (0.89, 1.12), (-6.0, 4.0)
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


def medley(material: Path, singers: set[str], backing: set[str], rng) -> dict[str, np.ndarray]:
    """Song of singers' pieces over backing, ``{stem: [S, 2]}``; every draw is random."""
    accompaniment = np.concatenate([levelled(read(p)) for p in find(material / "backing", backing)])
    pieces = []
    for singer in sorted(singers):
        song = material / "train" / singer
        if not song.is_dir():
            (path,) = find(material / "voices", {singer})
            pieces.append(reverberated(read(path), rng))
            continue
        (path,) = song.glob("vocals.*")
        voice = read(path)
        pieces += [voice[start : start + PIECE] for start in range(0, len(voice), PIECE)]
    loudest = max(np.abs(piece).max() for piece in pieces)
    pieces = [levelled(piece) for piece in pieces if np.abs(piece).max() > 0.05 * loudest]
    parts, length = [], 0
    while length < len(accompaniment):
        piece = pieces[rng.integers(len(pieces))]
        piece = soxr.resample(piece, RATE * rng.uniform(*MEDLEY_SPEED), RATE)
        parts.append(piece * 10 ** (rng.uniform(*MEDLEY_DB) / 20))
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
    parser.add_argument("--medleys", action="store_true", help="of the second training")
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
    for name, (singers, backing) in MEDLEYS.items() if options.medleys else ():
        write(options.out / name, medley(options.material, singers, backing, rng))


if __name__ == "__main__":
    main()
