"""Speed and memory of ``spleeter separate``, compared with Spleeter's own program.

    UPSTREAM_PYTHON=... python benchmarks/separate.py    # 10 s, 180 s, 600 s; ours also 3,600 s
    UPSTREAM_PYTHON=... python benchmarks/separate.py --seconds 10 180 --repeat 3
    python benchmarks/separate.py                       # without UPSTREAM_PYTHON: ours only
    python benchmarks/separate.py --only grouped

UPSTREAM_PYTHON names an interpreter with spleeter 2.4.2. Upstream and "2stems" separate with
``spleeter:2stems``, "grouped" with ``spleeter_2:grouped``. The programs alternate on the same
file, each run in a new process. Wall and CPU time include child processes (ffmpeg); peak memory is
that of the largest process. The table has medians. Below it: the time to load the network, and the
time of the network and its speed relative to a matrix product on the same machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))
from support.spleeter_models import write_deezers_model

HERE = Path(__file__).parent
SONG = HERE.parent / "demo" / "lets-go-fishin.ogg"
OURS = "from spleeter_2.cli.main import entrypoint; entrypoint()"
UPSTREAM = "from spleeter.__main__ import entrypoint; entrypoint()"
THEIRS = os.environ.get("UPSTREAM_PYTHON")
# interpreter, program and arguments
PROGRAMS = {
    "upstream": [THEIRS, "-c", UPSTREAM, "separate", "-p", "spleeter:2stems", "-d", "36000"],
    "2stems": [sys.executable, "-c", OURS, "separate", "-p", "spleeter:2stems"],
    "grouped": [sys.executable, "-c", OURS, "separate", "-p", "spleeter_2:grouped"],
}
if not THEIRS:
    del PROGRAMS["upstream"]
# the launcher is small: a child's peak memory includes its parent's size at the fork
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, status)
"""
NETWORK = """
import sys, time
import numpy as np
from spleeter_2 import Separator
start = time.perf_counter()
separator = Separator("spleeter_2:grouped")
separator.load()
loaded = time.perf_counter() - start
import onnxruntime
from spleeter_2.runtime.tensorflow_import import import_tensorflow
tf = import_tensorflow()
window = np.random.default_rng(0).normal(size=(separator._windows.length, 2)).astype("f4")
mixture = separator._transform.forward(window)
def best(function, repeat):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
network = best(lambda: separator._network.estimate(mixture), 7)
matrix = tf.random.normal((2048, 2048))
product = tf.function(lambda a: tf.matmul(a, a))
peak = 2 * 2048**3 / best(lambda: product(matrix).numpy(), 7)
transforms = best(lambda: separator._transform.inverse(separator._transform.forward(window),
                                                       len(window)), 5)
print(loaded, network, peak, transforms, separator._windows.step / 44100)
"""


def song_of(seconds: int, folder: Path) -> Path:
    """Write a WAV file of the given duration: the repeated demo song."""
    waveform, rate = soundfile.read(SONG, dtype="int16")
    path = folder / f"{seconds}.wav"
    repeats = -(-seconds * rate // len(waveform))
    with soundfile.SoundFile(path, "w", rate, waveform.shape[1], "PCM_16") as output:
        for _ in range(repeats):
            output.write(waveform[: seconds * rate - output.tell()])
    return path


def run(program: str, path: Path, folder: Path) -> tuple[float, float, float]:
    """Run a program once; return wall seconds, CPU seconds and peak MB."""
    command = [*PROGRAMS[program], "-o", str(folder / program), str(path)]
    environment = dict(os.environ)
    if program == "upstream":
        environment["MODEL_PATH"] = str(folder / "models")
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    wall, cpu, memory, status = map(float, done.stdout.split())
    if status:
        raise SystemExit(f"{program} failed on {path.name}:\n{done.stderr}")
    return wall, cpu, memory


def multiply_adds() -> int:
    """Multiply-adds of the network for one window, summed over the layers."""
    import tensorflow as tf

    from spleeter_2.config.loading import load_configuration
    from spleeter_2.models import build_model
    from spleeter_2.models.inference import without_neutral_parts
    from spleeter_2.weights.checkpoint import read_checkpoint

    configuration = load_configuration("spleeter_2:grouped")
    configuration = without_neutral_parts(configuration, read_checkpoint(configuration.weights))
    model = build_model(configuration)
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    probe = tf.keras.Model(model.input, [(layer.input, layer.output) for layer in layers])
    shape = (1, configuration.segment.nb_frames, *model.input_shape[2:])
    total = 0
    for layer, (before, after) in zip(
        layers, probe(tf.zeros(shape, tf.complex64), training=False), strict=True
    ):
        transposed = "_decoder_" in layer.name
        positions = np.prod((tf.nest.flatten(before)[0] if transposed else after).shape[:3])
        # a band's kernel is applied to its own bins, the polyphase kernel to all components
        share = getattr(layer, "bands", 1) / getattr(layer, "n", 1) ** 2
        total += int(positions * np.prod(layer.kernel.shape) / share)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=int, nargs="+", default=[10, 180, 600, 3600], help="durations of songs"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs per program, up to 180 s")
    parser.add_argument("--only", choices=list(PROGRAMS), help="run one program only")
    options = parser.parse_args()
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
    print(" seconds program      wall s    CPU s  peak MB  wall ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_deezers_model(folder / "models/2stems")
        for seconds in options.seconds:
            compare(seconds, song_of(seconds, folder), folder, options)
    share()


def compare(seconds: int, path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Run the programs alternately on one file and print the medians."""
    programs = [name for name in PROGRAMS if options.only in (None, name)]
    if seconds > 600:  # upstream would require 70 GB
        programs = [name for name in programs if name != "upstream"]
    repeat = options.repeat if seconds <= 180 else 1
    rows = {name: [] for name in programs}
    for _ in range(repeat):
        for name in programs:
            rows[name].append(run(name, path, folder))
    for name in programs:
        wall, cpu, memory = (statistics.median(values) for values in zip(*rows[name], strict=True))
        ratio = ""
        if name != "upstream" and "upstream" in rows:
            turns = zip(rows["upstream"], rows[name], strict=True)
            ratio = f"{statistics.median(theirs[0] / ours[0] for theirs, ours in turns):10.2f}x"
        print(f"{seconds:8} {name:10} {wall:8.1f} {cpu:8.1f} {memory:8.0f} {ratio:>11}", flush=True)


def share() -> None:
    """Print the times of loading, of the network and of the STFTs."""
    done = subprocess.run(
        [sys.executable, "-c", NETWORK], capture_output=True, text=True, check=True
    )
    loaded, network, peak, transforms, step = map(float, done.stdout.split())
    speed = 2 * multiply_adds() / network
    print(f"importing ONNX Runtime and loading the network: {loaded:.2f} s")
    print(
        f"network: {1000 * network:.0f} ms per window of {step:.1f} s, "
        f"{180 / step * network:.1f} s of 180 s of audio; {speed / 1e9:.0f} GFLOP/s, "
        f"{100 * speed / peak:.0f} % of the {peak / 1e9:.0f} GFLOP/s of a matrix product"
    )
    print(f"STFT and inverse STFT: {1000 * transforms:.0f} ms per window")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
