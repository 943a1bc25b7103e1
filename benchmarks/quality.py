"""Whole-track SDR of models on songs with stems.

    python benchmarks/quality.py                                   # stempeg's public excerpt
    python benchmarks/quality.py --songs FOLDER                    # FOLDER/SONG/{vocals,...}.*
    python benchmarks/quality.py spleeter_2:mask spleeter:2stems configs/mask_16khz.json

The mixture is the sum of vocals and accompaniment.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from evaluation.metrics import sdr
from spleeter_2.audio.mixing import with_channels
from spleeter_2.audio.reader import AudioReader
from spleeter_2.separation.separator import Separator

RATE = 44100
STEMS = ("vocals", "accompaniment")


def songs(folder: Path | None, seconds: float | None):
    """Yield the name and ``{stem: float32 [S, 2]}`` of each song."""
    if folder is None:
        import stempeg

        stems, _ = stempeg.read_stems(stempeg.example_stem_path())
        # mixture, drums, bass, other, vocals
        yield (
            "stempeg excerpt",
            {"vocals": stems[4].astype("f4"), "accompaniment": stems[1:4].sum(0).astype("f4")},
        )
        return
    for song in sorted(path for path in folder.iterdir() if path.is_dir()):
        stems = {}
        for stem in STEMS:
            (path,) = song.glob(f"{stem}.*")
            with AudioReader(path, RATE, duration=seconds) as reader:
                stems[stem] = with_channels(np.concatenate(list(reader.blocks())), 2)
        length = min(map(len, stems.values()))
        yield song.name, {stem: waveform[:length] for stem, waveform in stems.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "models",
        nargs="*",
        default=["spleeter_2:grouped", "spleeter_2:mask"],
        help="descriptors of models",
    )
    parser.add_argument("--songs", type=Path, help="folder of songs (default: stempeg's excerpt)")
    parser.add_argument("--seconds", type=float, help="seconds of each song (default: all)")
    parser.add_argument("--overlap", type=float, help="overlap of the windows, 0 to 0.5")
    parser.add_argument("--shifts", type=int, default=1, help="passes of the network")
    parser.add_argument("--gain", type=float, default=0.0, help="gain of the mixture in dB")
    options = parser.parse_args()
    gain = 10 ** (options.gain / 20)
    print(f"{'song':24} {'model':34} {'vocals':>8} {'accomp.':>8} {'seconds':>8}")
    scores: dict[str, list] = {model: [] for model in options.models}
    separators = {
        model: Separator(model, overlap=options.overlap, shifts=options.shifts)
        for model in options.models
    }
    for name, stems in songs(options.songs, options.seconds):
        for model, separator in separators.items():
            start = time.perf_counter()
            estimates = separator.separate(gain * sum(stems.values()))
            took = time.perf_counter() - start
            row = [sdr(stems[stem], estimates[stem] / gain) for stem in STEMS] + [took]
            scores[model].append(row)
            print(f"{name:24} {model:34} {row[0]:8.3f} {row[1]:8.3f} {row[2]:8.1f}", flush=True)
    for model, rows in scores.items():
        mean = np.mean(rows, axis=0)
        print(f"{'mean':24} {model:34} {mean[0]:8.3f} {mean[1]:8.3f} {mean[2]:8.1f}")


if __name__ == "__main__":
    main()
