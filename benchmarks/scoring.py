"""Time and memory of scores by us and by museval, and of Spleeter's ``evaluate``.

    python benchmarks/scoring.py                # 4 tracks of 60 s, made from stempeg's excerpt
    python benchmarks/scoring.py --seconds 240 --tracks 2 --sources 2 4
    UPSTREAM_PYTHON=... python benchmarks/scoring.py --upstream

UPSTREAM_PYTHON names an interpreter with spleeter 2.4.2, musdb and museval.

First BSSEval alone: CPU seconds of one thread, by both in turn; then whole evaluations. Each of
these is a new process; peak memory is that of its largest process. Upstream's command raises
KeyError: 'accompaniment' for two stems after the last score; its time until then is printed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy is imported
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import numpy as np
import soundfile
import stempeg
from support.spleeter_models import write_deezers_model

from evaluation.results import read_run
from evaluation.scores import FRAMEWISE, SCORERS, bss_eval, round_to_16_bits
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


def track(index: int, seconds: int) -> np.ndarray:
    """Streams ``[5, S, 2]`` of a track: the repeated excerpt, each track with another start."""
    streams, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    repeats = -(-seconds * RATE // streams.shape[1])
    rolled = np.roll(streams, -index * RATE // 2, axis=1)
    return np.tile(rolled, (1, repeats, 1))[:, : seconds * RATE] / 4


def make_data(root: Path, nb_tracks: int, seconds: int) -> None:
    """Write tracks in the layout of MUSDB18-HQ."""
    for index in range(nb_tracks):
        folder = root / "test" / f"Track {index + 1}"
        folder.mkdir(parents=True)
        for name, waveform in zip(STREAMS, track(index, seconds), strict=True):
            soundfile.write(folder / f"{name}.wav", waveform, RATE)


def measure(*command: object, python: str = sys.executable) -> tuple[float, float]:
    """Run a command; return its wall seconds and the peak MB of its largest process."""
    words = [sys.executable, "-c", LAUNCHER, python, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=sys.path[0])
    wall, memory, status = map(float, done.stdout.split())
    if status and "KeyError: 'accompaniment'" not in done.stderr:
        raise SystemExit(done.stderr)
    return wall, memory


def compare_with_museval(nb_sources: int, seconds: int, repeat: int) -> None:
    """Print CPU times of both scorers for the same arrays, and their largest difference."""
    streams = track(0, seconds)
    two = np.stack([streams[4], streams[1:4].sum(axis=0)])
    references = round_to_16_bits(two if nb_sources == 2 else streams[[4, 1, 2, 3]])
    noise = np.random.default_rng(0).normal(scale=0.003, size=references.shape)
    estimates = round_to_16_bits(0.8 * references + 0.1 * references.sum(axis=0) + noise)
    times: dict[str, list[float]] = {name: [] for name in (*SCORERS, "next")}
    for _ in range(repeat):
        found = {}
        for scorer in SCORERS:
            started = time.process_time()
            scores = bss_eval(references, RATE, scorer)
            found[scorer] = scores(estimates)
            times[scorer].append(time.process_time() - started)
            if scorer == SCORERS[0]:
                started = time.process_time()
                scores(estimates)
                times["next"].append(time.process_time() - started)
    ours, theirs = (found[scorer] for scorer in SCORERS)
    largest = max(np.nanmax(np.abs(ours[metric] - theirs[metric])) for metric in FRAMEWISE)
    first, museval, following = (statistics.median(times[name]) for name in (*SCORERS, "next"))
    print(
        f"{nb_sources} sources, {seconds} s: museval {museval:.1f} s, ours {first:.2f} s "
        f"({museval / first:.1f} times faster), {following:.2f} s for a further model; "
        f"largest difference {largest:.1e} dB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="duration of a track")
    parser.add_argument("--tracks", type=int, default=4, help="number of tracks")
    parser.add_argument("--sources", type=int, nargs="+", default=[2, 4], help="2, 4 or both")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of BSSEval alone")
    parser.add_argument("--upstream", action="store_true", help="run Spleeter's evaluate as well")
    options = parser.parse_args()
    if options.upstream and not os.environ.get("UPSTREAM_PYTHON"):
        parser.error("--upstream needs UPSTREAM_PYTHON, an interpreter with spleeter 2.4.2")
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}; {options.tracks} tracks of {options.seconds} s"
    )
    for nb_sources in options.sources:
        compare_with_museval(nb_sources, options.seconds, options.repeat)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        make_data(data, options.tracks, options.seconds)
        benchmark(data, folder, options)


def benchmark(data: Path, folder: Path, options: argparse.Namespace) -> None:
    """Print the table: both scorers, one and two processes, without and with a model; upstream."""
    minutes = options.tracks * options.seconds / 60
    print(
        "\nmodel                sources  scorer      jobs  wall s  peak MB  "
        "separation, scoring: s per minute"
    )
    rows = [("mixture", sources) for sources in options.sources] + [("spleeter_2:grouped", 2)]
    if options.upstream:
        rows.append(("spleeter:2stems", 2))
    for (model, sources), scorer in itertools.product(rows, SCORERS):
        walls = []
        for jobs in (1, 2):
            output = folder / f"{model.replace(':', '-')}-{sources}-{scorer}-{jobs}"
            command = ["-m", "evaluation", "run", "-p", model, "--mus_dir", data, "-o", output]
            command += ["--scorer", scorer]
            wall, memory = measure(*command, "--sources", sources, "--jobs", jobs)
            scores = read_run(next(output.iterdir())).scores()
            parts = [
                sum(track.seconds[key] for track in scores) / minutes
                for key in ("separation", "scoring")
            ]
            walls.append(wall)
            print(
                f"{model:20} {sources:7}  {scorer:10} {jobs:5} {wall:7.1f} {memory:8.0f} "
                f"{parts[0]:12.2f} {parts[1]:8.2f}",
                flush=True,
            )
        print(f"{'':20} speed-up with two processes: {walls[0] / walls[1]:.2f}")
    if options.upstream:
        write_deezers_model(folder / "models/2stems")
        os.environ["MODEL_PATH"] = str(folder / "models")
        python = os.environ["UPSTREAM_PYTHON"]
        wall, memory = measure("-c", UPSTREAM, data, folder / "upstream", python=python)
        print(f"upstream's evaluate, spleeter:2stems: {wall:.1f} s, {memory:.0f} MB, then KeyError")


if __name__ == "__main__":
    main()
