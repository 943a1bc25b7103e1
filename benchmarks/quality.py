"""Whole-track SDR of models on songs with stems.

    python benchmarks/quality.py                                   # stempeg's public excerpt
    python benchmarks/quality.py --songs FOLDER                    # FOLDER/SONG/{vocals,...}.*
    python benchmarks/quality.py spleeter_2:mask spleeter:2stems configs/mask_16khz.json
    python benchmarks/quality.py --songs FOLDER --starts 3         # a fairer comparison
    python benchmarks/quality.py --songs FOLDER --above 11025      # the band above 11 kHz only

The mixture is the sum of vocals and accompaniment. A network with strides scores differently where
a song begins a few frames later: ``--starts`` takes the mean over several beginnings. The last
lines are the differences to the first model, with a 95 % interval of the mean over songs
(bootstrap, 10,000 draws).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import scipy.signal
from scipy import stats

from evaluation.metrics import sdr
from spleeter_2.audio.mixing import with_channels
from spleeter_2.audio.reader import AudioReader
from spleeter_2.separation.separator import Separator

RATE = 44100
STRIDE = 64 * 1024  # samples of the deepest level of Spleeter's U-Net
DRAWS = 10000  # of the bootstrap
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


def score(separator: Separator, stems: dict[str, np.ndarray], options) -> tuple[list[float], float]:
    """SDR of each stem in dB, mean over the starts, and the seconds of one separation."""
    gain, rows = 10 ** (options.gain / 20), []
    mixture = gain * sum(stems.values())
    seconds = 0.0
    for index in range(options.starts):
        silence = np.zeros((index * STRIDE // options.starts, 2), np.float32)
        started = time.perf_counter()
        estimates = separator.separate(np.concatenate([silence, mixture]))
        seconds += (time.perf_counter() - started) / options.starts
        found = {name: estimate[len(silence) :] / gain for name, estimate in estimates.items()}
        rows.append(
            [sdr(*(above(x[name], options.above) for x in (stems, found))) for name in STEMS]
        )
    return list(np.mean(rows, axis=0)), seconds


def above(waveform: np.ndarray, frequency: float | None) -> np.ndarray:
    """The part of a waveform ``[S, C]`` above a frequency in Hz (None: all of it)."""
    if frequency is None:
        return waveform
    filter_ = scipy.signal.butter(8, frequency, "highpass", fs=RATE, output="sos")
    return scipy.signal.sosfiltfilt(filter_, waveform, axis=0)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Limits of the 95 % interval of the mean over songs."""
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=DRAWS,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return found.low, found.high


def report(scores: dict[str, np.ndarray]) -> None:
    """Print the means, and the differences to the first model; ``scores`` are ``[songs, 3]``."""
    first, *others = scores
    for model, rows in scores.items():
        mean = rows.mean(axis=0)
        print(f"{'mean':24} {model:34} {mean[0]:8.3f} {mean[1]:8.3f} {mean[2]:8.1f}")
    if len(scores[first]) == 1:
        return
    for model in others:
        for index, stem in enumerate(STEMS):
            gains = (scores[first] - scores[model])[:, index]
            low, high = interval(gains)
            print(
                f"{first} - {model}, {stem}: {gains.mean():+.2f} dB "
                f"({low:+.2f} to {high:+.2f}), per song {gains.min():+.2f} to {gains.max():+.2f}"
            )


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
    parser.add_argument("--starts", type=int, default=1, help="beginnings to take the mean over")
    parser.add_argument("--above", type=float, help="score the band above so many Hz only")
    parser.add_argument("--gain", type=float, default=0.0, help="gain of the mixture in dB")
    options = parser.parse_args()
    if options.starts < 1:
        parser.error("--starts must be 1 or more")
    print(f"{'song':24} {'model':34} {'vocals':>8} {'accomp.':>8} {'seconds':>8}")
    scores: dict[str, list] = {model: [] for model in options.models}
    separators = {
        model: Separator(model, overlap=options.overlap, shifts=options.shifts)
        for model in options.models
    }
    for name, stems in songs(options.songs, options.seconds):
        for model, separator in separators.items():
            found, took = score(separator, stems, options)
            row = [*found, took]
            scores[model].append(row)
            print(f"{name:24} {model:34} {row[0]:8.3f} {row[1]:8.3f} {row[2]:8.1f}", flush=True)
    report({model: np.array(rows) for model, rows in scores.items()})


if __name__ == "__main__":
    main()
