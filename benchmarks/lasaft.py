"""Speed and memory of the large LaSAFT network, compared with PyTorch.

    TORCH_PYTHON=/path/to/python python benchmarks/lasaft.py    # an interpreter that has torch
    python benchmarks/lasaft.py --repeat 9 --seconds 30 --songs 3
    python benchmarks/lasaft.py                                 # without TORCH_PYTHON: ours only

The network is the published one (543 tensors, 31.5 M parameters) with seeded random weights. Each
side is a separate process; they run in turn, so that other load of the machine affects both: a
window of 128 frames for one target and for four, a song at overlap 0.5, a matrix product, and
reading the checkpoint. The tables have medians; ratios are medians of the ratios per turn. PyTorch
computes several targets one after the other, as its users do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the repository's packages, installed or not

from side import Side, peak_memory

from spleeter_2.config.loading import load_configuration
from weight_converter import lasaft
from weight_converter.mapping import source_shape
from weight_converter.torch_checkpoint import read_checkpoint

HYPER_PARAMETERS = HERE.parent / "tests/data/lasaft/large_cfg.json"
TORCH_SIDE = HERE / "lasaft_torch.py"
RATE = 44100
ONE, FOUR = "ours, one target", "ours, four targets"
FRAMES = 128  # of a window
MATRIX = 2048  # size of the matrix product


def large_state(seed: int = 0) -> dict[str, np.ndarray]:
    """State dict of the published large model, with PyTorch's names and random weights.

    Kernels are scaled so that activations have a similar size in all layers; BatchNorm statistics
    and affine parameters are random too.
    """
    configuration = load_configuration("spleeter_2:lasaft")
    rng = np.random.default_rng(seed)
    n_fft = configuration.stft.frame_length
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    state = {"stft.stft.window": window.astype(np.float32)}
    for source, variable, rule, shape in lasaft._expected(configuration):
        shape = source_shape(rule, shape)
        if source.endswith("running_var") or variable.endswith("gamma"):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = 0.1 * rng.standard_normal(shape)
        else:
            fan_in = np.prod(shape[:1] if "upsamplings" in source else shape[1:])
            values = rng.standard_normal(shape) / np.sqrt(fan_in)
        state[f"spec2spec.{source}"] = values.astype(np.float32)
        if source.endswith("running_var"):
            counter = source.replace("running_var", "num_batches_tracked")
            state[f"spec2spec.{counter}"] = np.array(1000)
    return state


def multiply_adds(model) -> int:
    """Multiply-adds of a network's convolutions and frequency transformations for one window."""
    import tensorflow as tf

    from spleeter_2.models.frequency import FrequencyLinear
    from spleeter_2.models.layers import ConvNorm, DenseConvNorm, UpsampleNorm

    counted = (ConvNorm, DenseConvNorm, FrequencyLinear)
    layers = [layer for layer in model.layers if isinstance(layer, counted)]
    probe = tf.keras.Model(model.input, [layer.output for layer in layers])
    mixture = tf.zeros((1, FRAMES, *model.input_shape[2:]), tf.complex64)
    total = 0
    for layer, output in zip(layers, probe(mixture, training=False), strict=True):
        shape = output.shape[1:] if isinstance(layer, FrequencyLinear) else output.shape[:-1]
        patch = int(np.prod(layer.kernel_size)) if isinstance(layer, UpsampleNorm) else 1
        for part in getattr(layer, "convolutions", [layer]):
            total += int(np.prod(part.kernel.shape)) * int(np.prod(shape)) // patch
    return total


def prepare(folder: Path) -> int:
    """Write the weights for both sides: ``state.npz``, and a converted model for ``-p``.

    Returns:
        Multiply-adds of one window and target.
    """
    from spleeter_2.models import build_model
    from spleeter_2.runtime.export import write_model_file
    from spleeter_2.weights import checkpoint as weights

    state = large_state()
    np.savez(folder / "state.npz", **state)
    plan = lasaft.plan(state, json.loads(HYPER_PARAMETERS.read_text()))
    weights.write_checkpoint(plan.values, folder)
    (folder / "config.json").write_text(json.dumps({**plan.configuration, "weights": "."}))
    write_model_file(load_configuration(str(folder)))
    return multiply_adds(build_model(load_configuration(str(folder)), ["vocals"]))


def load(path: Path) -> dict[str, float]:
    """Read a checkpoint with our reader and sum all values."""
    start = time.perf_counter()
    arrays = read_checkpoint(path).arrays
    total = sum(float(array.sum(dtype=np.float64)) for array in arrays.values())
    return {"seconds": time.perf_counter() - start, "sum": total, "peak": peak_memory()}


def serve(folder: Path, targets: list[str]) -> None:
    """Run the tasks on standard input, one JSON object per line, and print a result for each."""
    from spleeter_2.runtime.onnxruntime_import import import_onnxruntime

    onnxruntime = import_onnxruntime()

    from spleeter_2 import Separator

    separator = Separator(str(folder), targets)
    separator.load()
    rng = np.random.default_rng(0)
    mixture = rng.standard_normal((2, FRAMES, separator.configuration.stft.nb_bins, 2))
    mixture = (mixture[0] + 1j * mixture[1]).astype(np.complex64)
    matrix = rng.standard_normal((MATRIX, MATRIX)).astype(np.float32)
    print(json.dumps({"version": onnxruntime.__version__}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        start = time.perf_counter()
        if task["task"] == "window":
            separator._network.estimate(mixture)
        elif task["task"] == "song":
            stems = separator.separate(np.load(task["song"]))
        elif task["task"] == "matrix":
            matrix @ matrix
        answer = {"seconds": time.perf_counter() - start, "peak": peak_memory()}
        if task.get("output"):
            np.save(task["output"], np.stack([stems[name] for name in targets]))
        print(json.dumps(answer), flush=True)


def turns(task: str, sides: dict[str, Side], repeat: int, **options) -> dict[str, list[float]]:
    """Run a task on each side in turn; return the seconds per turn, without the warm-up turn."""
    seconds = {name: [] for name in sides}
    for turn in range(repeat + 1):
        for name, side in sides.items():
            taken = side.ask(task=task, **options)["seconds"]
            if turn:
                seconds[name].append(taken)
    return seconds


def ratio(above: list[float], below: list[float], factor: float = 1) -> str:
    """Median and range of the ratios per turn."""
    ratios = [factor * a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def report_windows(sides: dict[str, Side], repeat: int, gflop: float) -> None:
    """Print the table of windows: one and four targets, speed relative to a matrix product."""
    matrix = turns("matrix", sides, max(repeat, 7))
    seconds = turns("window", sides, repeat)
    print(f"\nA window of {FRAMES} frames ({gflop:.0f} GFLOP for one target)")
    print("program              median s   best s   GFLOP/s   matrix product   peak MB")
    for name, taken in seconds.items():
        median, best = statistics.median(taken), min(taken)
        speed = " " * 8 if name == FOUR else f"{gflop / median:8.0f}"
        product = 2e-9 * MATRIX**3 / min(matrix[name])
        print(
            f"{name:20} {median:8.2f} {best:8.2f}  {speed} {product:16.0f} {sides[name].peak:9.0f}"
        )
    one, four = seconds[ONE], seconds[FOUR]
    print(f"four targets take {ratio(four, one)} times as long as one")
    if "PyTorch" in seconds:
        theirs = seconds["PyTorch"]
        print(f"ours is {ratio(theirs, one)} times as fast as PyTorch for one target")
        print(f"and {ratio(theirs, four, 4)} times for four, one after the other in PyTorch")


def report_song(sides: dict[str, Side], options: argparse.Namespace, folder: Path) -> None:
    """Print the table of a song of noise, and the difference between the sides' estimates."""
    length = options.seconds * RATE
    song = 0.1 * np.random.default_rng(1).standard_normal((length, 2))
    np.save(folder / "song.npy", song.astype(np.float32))
    seconds = {name: [] for name in sides}
    for _ in range(options.songs):
        for number, (name, side) in enumerate(sides.items()):
            output = str(folder / f"estimates_{number}.npy")
            task = {"task": "song", "song": str(folder / "song.npy"), "output": output}
            seconds[name].append(side.ask(**task)["seconds"])
    print(f"\nA song of {options.seconds} s at overlap 0.5")
    print("program              median s   s per second of audio and target   peak MB")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        share = median / options.seconds / (len(lasaft.INSTRUMENTS) if name == FOUR else 1)
        print(f"{name:20} {median:8.1f} {share:24.2f} {sides[name].peak:19.0f}")
    one, four = seconds[ONE], seconds[FOUR]
    print(f"four targets take {ratio(four, one)} times as long as one")
    if "PyTorch" in seconds:
        print(f"ours is {ratio(seconds['PyTorch'], one)} times as fast as PyTorch for one target")
        found, expected = (
            np.load(folder / f"estimates_{list(sides).index(name)}.npy")
            for name in (ONE, "PyTorch")
        )
        error = np.abs(found - expected).max() / np.abs(expected).max()
        print(f"largest difference between the estimates: {error:.1e} of the maximum")


def report_loading(torch: str, folder: Path, repeat: int) -> None:
    """Print the table of reading the checkpoint, each time in a new process."""
    path = folder / "large.ckpt"
    subprocess.run(
        [torch, TORCH_SIDE, "save", folder / "state.npz", HYPER_PARAMETERS, path], check=True
    )
    commands = {
        "ours": [sys.executable, __file__, "--load", path],
        "torch.load": [torch, TORCH_SIDE, "load", path],
    }
    rows: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(repeat + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rows[name].append(
                {**json.loads(done.stdout), "process": time.perf_counter() - start}
            )  # fmt: skip
    print(f"\nReading the checkpoint ({path.stat().st_size / 1e6:.0f} MB), every value summed")
    print("program       seconds   including process start    peak MB")
    for name, (_, *taken) in rows.items():
        seconds, process, peak = (
            statistics.median(row[key] for row in taken) for key in ("seconds", "process", "peak")
        )
        print(f"{name:12} {seconds:8.2f} {process:26.2f} {peak:9.0f}")
    report_conversion(path, folder / "converted")


def report_conversion(path: Path, output: Path) -> None:
    """Print time and memory of the conversion command, including its check with noise."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "weight_converter", path, "-o", output]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=HERE.parent)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the conversion failed")
    seconds, peak = time.perf_counter() - start, usage.ru_maxrss / 1024
    print(f"conversion, with its check by a window of noise: {seconds:.0f} s, peak {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="turns with a window")
    parser.add_argument("--seconds", type=int, default=10, help="duration of the song")
    parser.add_argument("--songs", type=int, default=1, help="turns with the song, 0 for none")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(Path(options.serve[0]), options.serve[1:])
    if options.prepare:
        return print(prepare(options.prepare))
    if options.load:
        return print(json.dumps(load(options.load)))
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run all measurements and print the tables."""
    torch = os.environ.get("TORCH_PYTHON")
    ours = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run([*ours, "--prepare", folder], stdout=subprocess.PIPE, check=True)
        gflop = 2e-9 * int(done.stdout)  # of one window and target
        sides = {
            ONE: Side([*ours, "--serve", folder, "vocals"]),
            FOUR: Side([*ours, "--serve", folder, *lasaft.INSTRUMENTS]),
        }
        versions = f"ONNX Runtime {sides[ONE].facts['version']}"
        if torch:
            report_loading(torch, folder, options.repeat)
            command = [torch, TORCH_SIDE, "serve", folder / "large.ckpt", "vocals"]
            sides["PyTorch"] = Side(command)
            versions += f", PyTorch {sides['PyTorch'].facts['version']}"
        print(
            f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
            f"Python {platform.python_version()}, {versions}"
        )
        report_windows(sides, options.repeat, gflop)
        if options.songs:
            report_song(sides, options, folder)
        for side in sides.values():
            side.close()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
