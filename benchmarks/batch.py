"""Many songs: one process, processes of this machine, and a scheduler with workers.

    python benchmarks/batch.py                                # 40 songs of 30 s, two workers
    python benchmarks/batch.py --songs 4 --seconds 5 --repeat 1
    python benchmarks/batch.py --rows 1000000                 # only the lists of so many songs

The songs are the demo song, each from another place on and at another level, as 16-bit WAV files.
The ways alternate; each run is a new process of ``spleeter separate`` with a table of results,
which writes WAV files to an empty folder, once half of the songs and once all of them. The
scheduler and its workers run before the clock starts, as those of a cluster do, but have loaded no
model; ``--jobs`` starts its processes while the clock runs. Medians over the runs:

    wall s      of the whole command with all songs; songs and hours of audio per hour are over it
    times       faster than one process, and than one on one worker's share of the cores (medians
                of the turns' ratios)
    start s     what a run takes apart from its songs: 2 * wall of the half - wall of all
    s/song      of a further song: (wall of all - wall of the half) / half of the songs
    CPU s       of the command and its children; workers of a cluster are not among them
    in song s   the table's seconds from the start of a song to its end, in its process

After them: CPU seconds that reading a song and writing a stem take by themselves, ffmpeg included,
and the bytes of a file, for several formats.

With ``--rows`` nothing is separated: time and memory of the check of a manifest with URLs, and of a
table of results that is written without waiting for the disk, and read.

The last lines compare ``--jobs 1`` with one process, which has as many threads: the difference of
s/song is what Dask costs per song; and the workers with one process by s/song, without the start.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
SONG = HERE.parent / "demo" / "lets-go-fishin.ogg"
ALONE, SHARE = "one process", "its share"  # the latter on as many cores as a worker has
SPLEETER = [sys.executable, "-m", "spleeter_2", "separate"]
# the launcher is small: it measures its children
LAUNCHER = """
import os, resource, subprocess, sys, time
cores = int(sys.argv.pop(1))
if cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ["OMP_NUM_THREADS"] = str(cores)
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stderr=sys.stderr).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, status)
"""


def write_songs(folder: Path, nb_songs: int, seconds: float) -> None:
    """Write the songs: the demo song repeated, from places and at levels of a seeded generator."""
    waveform, rate = soundfile.read(SONG, dtype="float32")
    generator = np.random.default_rng(0)
    nb_samples = round(seconds * rate)
    folder.mkdir()
    for number in range(nb_songs):
        places = np.arange(nb_samples) + generator.integers(len(waveform))
        level = generator.uniform(0.3, 0.9)
        path = folder / f"{number:04d}.wav"
        soundfile.write(path, level * np.take(waveform, places, axis=0, mode="wrap"), rate)


@contextlib.contextmanager
def cluster(folder: Path, nb_workers: int, threads: int) -> Iterator[str]:
    """A scheduler and its workers, each a process of its own; yields the scheduler file."""
    from distributed import Client

    file = folder / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    environment = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical"}

    def start(what: str, *more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options, *more]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    running = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    try:
        while not file.exists():
            time.sleep(0.1)
        more = ["--nthreads", str(threads), "--local-directory", str(folder)]
        running += [start("worker", *more) for _ in range(nb_workers)]
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(nb_workers, timeout=60)
        yield str(file)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()


def run(
    way: list[str], songs: list[Path], folder: Path, model: str, cores: int = 0
) -> dict[str, float]:
    """Separate songs once, on so many cores (0: all); numbers of the run by name."""
    table, out = folder / "table.csv", folder / "out"
    table.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    command = [*SPLEETER, "-p", model, "--table", table, "-o", out, *way, *songs]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(cores), *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
    )
    wall, cpu, status = map(float, done.stdout.split()[-3:])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if status or [row["status"] for row in rows] != ["done"] * len(songs):
        raise SystemExit(f"{' '.join(way)} failed:\n{done.stderr}")
    return {
        "wall": wall,
        "cpu": cpu,
        "audio": sum(float(row["seconds"]) for row in rows),
        "elapsed": statistics.median(float(row["elapsed"]) for row in rows),
    }


def run_twice(
    way: list[str], songs: list[Path], folder: Path, model: str, cores: int = 0
) -> dict[str, float]:
    """Separate half of the songs, then all; numbers of the latter, and those of the difference."""
    nb_half = len(songs) // 2
    half = run(way, songs[:nb_half], folder, model, cores)
    whole = run(way, songs, folder, model, cores)
    each = (whole["wall"] - half["wall"]) / (len(songs) - nb_half)
    return {**whole, "each": each, "start": half["wall"] - nb_half * each}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Runs of each way, in turns; the processes of a cluster are there for its own runs only."""
    songs = sorted((folder / "songs").iterdir())
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.repeat):
        for name in (ALONE, SHARE, "--jobs 1", f"--jobs {options.workers}"):
            way = name.split() if name.startswith("--") else []
            cores = threads if name == SHARE else 0
            result = run_twice(way, songs, folder, options.model, cores)
            rows.setdefault(name, []).append(result)
        with tempfile.TemporaryDirectory(dir=folder) as own:
            with cluster(Path(own), options.workers, threads) as file:
                result = run_twice(["--cluster", file], songs, folder, options.model)
        rows.setdefault("--cluster", []).append(result)
    return rows


def print_table(rows: dict[str, list[dict[str, float]]], nb_songs: int) -> None:
    """Print the medians, and the comparisons with one process."""

    def ratio(name: str, key: str, base: str = ALONE) -> float:
        turns = zip(rows[base], rows[name], strict=True)
        return statistics.median(one[key] / each[key] for one, each in turns)

    print(
        "way           wall s  songs/h  audio h/h  times        start s  s/song   CPU s  in song s"
    )
    for name, runs in rows.items():
        of = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        print(
            f"{name:12} {of['wall']:7.1f} {3600 * nb_songs / of['wall']:8.0f} "
            f"{of['audio'] / of['wall']:10.1f} {ratio(name, 'wall'):6.2f} "
            f"{ratio(name, 'wall', SHARE):6.2f} {of['start']:8.1f} "
            f"{of['each']:7.3f} {of['cpu']:7.1f} {of['elapsed']:10.2f}"
        )
    overhead = 100 / ratio("--jobs 1", "each") - 100
    print(f"overhead per song of --jobs 1: {overhead:.1f} % of one process's s/song")
    for name in [*rows][3:]:
        print(
            f"{name}: a further song {ratio(name, 'each'):.2f} times faster than in one process, "
            f"{ratio(name, 'each', SHARE):.2f} times faster than on its share of the cores"
        )


def print_formats(song: Path, folder: Path) -> None:
    """Print the CPU time of reading and of writing a file of some formats, and its size."""
    from spleeter_2.audio.codecs import Encoding
    from spleeter_2.audio.reader import AudioReader
    from spleeter_2.audio.writer import AudioWriter

    print("CPU seconds of a song:  reading  writing  MB")
    with AudioReader(song) as reader:
        blocks, rate = list(reader.blocks()), reader.sample_rate
    for codec in ("wav", "flac", "mp3"):
        path = folder / f"format.{codec}"
        begin = cpu_seconds()
        with AudioWriter(path, rate, 2, Encoding(codec)) as writer:
            for block in blocks:
                writer.write(block)
            writer.finish()
            writer.publish()
        written = cpu_seconds()
        with AudioReader(path) as reader:
            for _ in reader.blocks():
                pass
        print(
            f"{codec:23} {cpu_seconds() - written:8.2f} {written - begin:8.2f} "
            f"{path.stat().st_size / 1e6:3.1f}"
        )


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def print_lists(nb_rows: int, folder: Path) -> None:
    """Print the time and memory that the manifest and the table of many songs take."""
    from spleeter_2.audio.codecs import Encoding
    from spleeter_2.separation import table
    from spleeter_2.separation.manifest import Manifest
    from spleeter_2.separation.song import Outcome, Settings, Task

    settings = dict.fromkeys(Settings.__dataclass_fields__)
    settings |= {"filename_format": "{filename}/{instrument}.{codec}", "encoding": Encoding()}
    settings |= {"model": "x", "output_path": "/", "offset": 0.0, "shifts": 1}
    path = folder / "songs.csv"
    with path.open("w") as file:
        file.write("input,output\n")
        for number in range(nb_rows):
            artist = f"artist-{number // 100:05d}"
            file.write(f"s3://archive/{artist}/song-{number:07d}.flac,s3://stems/{artist}\n")
    table.os.fsync = lambda _: None
    begin, before = time.perf_counter(), peak_memory()

    def report(what: str, size: Path) -> None:
        nonlocal begin
        seconds, megabytes = time.perf_counter() - begin, peak_memory() - before
        print(
            f"{what:24} {seconds:7.1f} s, {megabytes:5.0f} MB of memory so far, "
            f"{size.stat().st_size / 1e6:.0f} MB in the file",
            flush=True,
        )
        begin = time.perf_counter()

    manifest = Manifest(str(path), Settings(**settings), ("x", ("vocals", "accompaniment")))
    report("manifest checked", path)
    results = folder / "results.csv"
    with table.Table(str(results)) as written:
        for row in manifest:
            task = Task(row.song, row.settings, digest="0" * 32)
            written.append(task, Outcome("done", [], 200.0, 10.0, 0.5))
    report("read again, table written", results)
    with table.Table(str(results)) as read:
        done = read.done()
    report(f"table of {len(done)} read", results)


def peak_memory() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a song")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--model", default="spleeter_2:grouped")
    parser.add_argument("--rows", type=int, help="of lists, in place of separating")
    options = parser.parse_args()
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}; {options.songs} songs of {options.seconds:g} s, "
        f"{options.model}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.rows:
            print_lists(options.rows, folder)
            return
        write_songs(folder / "songs", options.songs, options.seconds)
        rows = measure(folder, options)
        print_table(rows, options.songs)
        print_formats(folder / "songs" / "0000.wav", folder)


if __name__ == "__main__":
    main()
