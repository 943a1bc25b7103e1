"""Time and memory of ``python -m evaluation run``, and against upstream's ``spleeter evaluate``.

    python benchmarks/scoring.py                      # 4 tracks of 60 s made from stempeg's
    python benchmarks/scoring.py --seconds 240 --tracks 2 --sources 2 4
    python benchmarks/scoring.py --upstream           # wants MODEL_PATH, with Deezer's 2stems

Each run is a fresh process; peak memory is that of its largest process. Upstream's command fails on
two stems when all is computed (KeyError: 'accompaniment'): its time until then is given.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[0] = str(Path(__file__).resolve().parent.parent)  # else this file is 'evaluation'

import museval
import numpy as np
import soundfile
import stempeg

from evaluation.results import read_run
from evaluation.scores import FRAMEWISE, bss_eval, round_to_16_bits
from spleeter_2.data.songs import STREAMS

RATE = 44100
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, usage.ru_maxrss / 1024, done.returncode)
print(done.stderr, file=sys.stderr)
"""
UPSTREAM = """
import sys
from spleeter.__main__ import evaluate
from spleeter.audio.adapter import AudioAdapter
evaluate(adapter="spleeter.audio.ffmpeg.FFMPEGProcessAudioAdapter", output_path=sys.argv[2],
         params_filename="spleeter:2stems", mus_dir=sys.argv[1], mwf=False, verbose=False)
"""


def make_data(root: Path, nb_tracks: int, seconds: int) -> None:
    """Tracks of the excerpt, each beginning elsewhere, in the layout of MUSDB18-HQ."""
    streams, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    repeats = -(-seconds * RATE // streams.shape[1])
    for index in range(nb_tracks):
        folder = root / "test" / f"Track {index + 1}"
        folder.mkdir(parents=True)
        rolled = np.roll(streams, -index * RATE // 2, axis=1)
        whole = np.tile(rolled, (1, repeats, 1))[:, : seconds * RATE] / 4
        for name, waveform in zip(STREAMS, whole, strict=True):
            soundfile.write(folder / f"{name}.wav", waveform, RATE)


def measure(*command: object) -> tuple[float, float]:
    """Wall seconds and peak MB of a command's largest process."""
    words = [sys.executable, "-c", LAUNCHER, sys.executable, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=sys.path[0])
    wall, memory, status = map(float, done.stdout.split())
    if status and "KeyError: 'accompaniment'" not in done.stderr:
        raise SystemExit(done.stderr)
    return wall, memory


def compare_with_museval() -> None:
    """The greatest difference between our scores and museval's, on the same arrays."""
    streams, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    for true in (np.stack([streams[4], streams[1:4].sum(axis=0)]), streams[[4, 1, 2, 3]]):
        said = round_to_16_bits(0.8 * true + 0.1 * true.sum(axis=0))
        true = round_to_16_bits(true)
        ours = bss_eval(true, said, RATE)
        theirs = dict(zip(("SDR", "ISR", "SIR", "SAR"), museval.evaluate(true, said), strict=True))
        worst = max(np.nanmax(np.abs(ours[metric] - theirs[metric])) for metric in FRAMEWISE)
        print(f"{len(true)} sources: at most {worst:.1e} dB from museval's own scores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="length of a track")
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--sources", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--upstream", action="store_true", help="its evaluate on the same tracks")
    options = parser.parse_args()
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}; {options.tracks} tracks of {options.seconds} s"
    )
    compare_with_museval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        make_data(data, options.tracks, options.seconds)
        benchmark(data, folder, options)


def benchmark(data: Path, folder: Path, options: argparse.Namespace) -> None:
    """One and two processes, with a model and with scoring alone; then upstream."""
    minutes = options.tracks * options.seconds / 60
    print(
        "\nmodel                sources  jobs  wall s  peak MB  separation, scoring: s per minute"
    )
    rows = [("mixture", sources) for sources in options.sources] + [("spleeter_2:grouped", 2)]
    if options.upstream:
        rows.append(("spleeter:2stems", 2))
    for model, sources in rows:
        walls = []
        for jobs in (1, 2):
            output = folder / f"{model.replace(':', '-')}-{sources}-{jobs}"
            command = ["-m", "evaluation", "run", "-p", model, "--mus_dir", data, "-o", output]
            wall, memory = measure(*command, "--sources", sources, "--jobs", jobs)
            scores = read_run(next(output.iterdir())).scores()
            parts = [
                sum(track.seconds[key] for track in scores) / minutes
                for key in ("separation", "scoring")
            ]
            walls.append(wall)
            print(
                f"{model:20} {sources:7} {jobs:5} {wall:7.1f} {memory:8.0f} "
                f"{parts[0]:12.2f} {parts[1]:8.2f}",
                flush=True,
            )
        print(f"{'':20} two processes are {walls[0] / walls[1]:.2f} times faster")
    if options.upstream:
        wall, memory = measure("-c", UPSTREAM, data, folder / "upstream")
        print(f"upstream's evaluate, spleeter:2stems: {wall:.1f} s, {memory:.0f} MB, then KeyError")


if __name__ == "__main__":
    main()
