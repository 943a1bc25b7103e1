"""Replace the vocals of songs, in part, by several models' mean estimate.

    python scripts/teacher_songs.py songs taught --teachers spleeter_2:grouped runs/teacher

IN and OUT are folders for ``spleeter train -d``. The vocals of OUT are ``share`` times the mean of
all teachers' estimates, in ``--shifts`` passes each, plus ``1 - share`` times the true vocals; the
accompaniment is the rest of the mixture, which stays the same. So a network can learn in one pass
what several networks and passes know (see ``spleeter_2/training/distillation.py``, which computes
the teachers' estimates anew in every step instead).

A song that is named in ``--keep`` is copied unchanged, to validate with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from training_songs import RATE, read

from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_folder
from spleeter_2.separation.separator import Separator

STEMS = ("vocals", "accompaniment")
OVERLAP = 0.125


def stems_of(song: Path) -> dict[str, np.ndarray]:
    """Both stems of a song, float32 ``[S, 2]`` each."""
    stems = {}
    for stem in STEMS:
        found = list(song.glob(f"{stem}.*"))
        if len(found) != 1:
            raise SeparationError(f"{song} must have one file {stem}.*")
        stems[stem] = read(found[0])
    length = min(map(len, stems.values()))
    return {name: stem[:length] for name, stem in stems.items()}


def taught(
    stems: dict[str, np.ndarray], teachers: list[Separator], share: float
) -> dict[str, np.ndarray]:
    """Stems with the same sum, whose vocals are in part the teachers'."""
    mixture = sum(stems.values())
    estimates = [teacher.separate(mixture)["vocals"] for teacher in teachers]
    vocals = share * sum(estimates) / len(estimates) + (1 - share) * stems["vocals"]
    return {"vocals": vocals, "accompaniment": mixture - vocals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("songs", type=Path, metavar="IN")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--teachers", nargs="+", required=True, help="descriptors of models")
    parser.add_argument("--share", type=float, default=0.7, help="of the teachers (default: 0.7)")
    parser.add_argument("--shifts", type=int, default=3, help="passes of each (default: 3)")
    parser.add_argument("--keep", nargs="*", default=[], help="songs to copy unchanged")
    options = parser.parse_args()
    if not options.songs.is_dir():
        parser.error(f"there is no folder {options.songs}")
    try:
        teach(options)
    except SeparationError as error:
        parser.error(str(error))


def teach(options: argparse.Namespace) -> None:
    """Write the songs that are not there yet.

    Raises:
        SeparationError: a model or a song that cannot be read.
    """
    teachers = [
        Separator(name, stems=["vocals"], overlap=OVERLAP, shifts=options.shifts)
        for name in options.teachers
    ]
    for song in sorted(path for path in options.songs.iterdir() if path.is_dir()):
        if (options.out / song.name).exists():
            continue
        stems = stems_of(song)
        if song.name not in options.keep:
            stems = taught(stems, teachers, options.share)
        scale = min(1.0, 0.99 / max(np.abs(stem).max() for stem in stems.values()))
        options.out.mkdir(parents=True, exist_ok=True)
        with atomic_folder(options.out / song.name) as folder:
            for name, stem in stems.items():
                soundfile.write(folder / f"{name}.flac", scale * stem, RATE)
        print(f"{song.name}: {len(stem) / RATE:.0f} s", flush=True)


if __name__ == "__main__":
    main()
