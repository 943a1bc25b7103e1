"""Speed and memory of the models of one framework, and of a RoFormer in PyTorch.

    TORCH_PYTHON=/path/to/python python benchmarks/models.py    # an interpreter that has torch
    python benchmarks/models.py --repeat 1 --models roformer,grouped

The RoFormer is a Mel-Band RoFormer of the published size (228 M parameters; Kim's sizes), MDX-Net
one of kuielab's for vocals (7.4 M), both with seeded random weights and converted by the command
line; the time and the peak memory of that are printed too. Each model separates a window of noise
of its own length in a process of its own: seconds per second of audio without overlap, and the peak
memory of the process. PyTorch computes the same window with the same weights
(``roformer_torch.py``) in turn with ours. The matrix product of the same turn is the peak that the
RoFormer's speed is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the repository's packages, installed or not

import mdx_network
from side import Side, peak_memory

from spleeter_2.config.loading import parse_configuration
from spleeter_2.config.schema import Configuration
from weight_converter.mapping import source_shape

TORCH_SIDE = HERE / "roformer_torch.py"
RATE = 44100  # Hz
MATRIX = 4096  # size of the matrix product
KIM = {
    "name": "mel_band_roformer",
    "sample_rate": RATE,
    "nb_channels": 2,
    "targets": ["vocals"],
    "residual": "accompaniment",
    "stft": {"frame_length": 2048, "frame_step": 441},
    "segment": {"nb_frames": 801, "trim": 0, "overlap": 0.5, "join": "reflect"},
    "model": {"type": "roformer", "mel_bands": 60},
}
MODELS = {
    "roformer": "Mel-Band RoFormer",
    "mdx": "MDX-Net",
    "lasaft": "LaSAFT, large",
    "grouped": "spleeter_2:grouped",
    "2stems": "spleeter:2stems",
}
# files to convert, and options of the converter
CONVERSIONS = {
    "roformer": ("model.safetensors", ["--from", "roformer"]),
    "mdx": (
        "network.onnx",
        ["--from", "mdx", "--n-fft", mdx_network.N_FFT, "--stem", mdx_network.STEM],
    ),
}


def random_state(configuration: Configuration, seed: int = 0) -> dict[str, np.ndarray]:
    """State dict of a RoFormer, with the reference's names and random weights."""
    from weight_converter.roformer import expected_tensors

    rng = np.random.default_rng(seed)
    state = {}
    for name, _, rule, shape in expected_tensors(configuration, {}):
        shape = source_shape(rule, shape)
        if name.endswith("freqs"):
            values = 10000 ** (-np.arange(shape[0]) / shape[0])
        elif name.endswith("gamma"):
            values = 1 + 0.25 * rng.standard_normal(shape, np.float32)
        elif len(shape) == 1:
            values = 0.2 * rng.standard_normal(shape, np.float32)
        else:
            values = rng.standard_normal(shape, np.float32) / np.sqrt(shape[1])
        state[name] = np.asarray(values, np.float32)
    return state


def multiply_adds(configuration: Configuration) -> int:
    """Multiply-adds of a RoFormer for one window: matrix products, attention included."""
    model, frames = configuration.model, configuration.segment.nb_frames
    bands = [end - start for start, end in model.bands]
    dim, inner, nb_bands = model.dim, model.heads * model.head_size, len(bands)
    tokens = frames * nb_bands
    layer = tokens * (4 * inner * dim + model.heads * dim + 8 * dim * dim)
    time = model.time_layers * (layer + 2 * inner * tokens * frames)
    frequency = model.frequency_layers * (layer + 2 * inner * tokens * nb_bands)
    width = dim * model.mask_expansion
    features = 2 * configuration.nb_channels * sum(bands)
    hidden = dim * width + (model.mask_layers - 1) * width**2
    masks = len(configuration.targets) * frames * (nb_bands * hidden + 2 * features * width)
    return model.depth * (time + frequency) + frames * features * dim + masks


def prepare(kind: str, folder: Path) -> dict:
    """Write the file to convert, or of LaSAFT a model for ``-p``; of the RoFormer, also an npz."""
    if kind == "lasaft":
        import lasaft

        return {"gmac": 4e-9 * lasaft.prepare(folder)}  # four targets
    source = folder / CONVERSIONS[kind][0]
    if kind == "mdx":
        return {"gmac": 1e-9 * mdx_network.write_network(source)}
    from safetensors.numpy import save_file

    configuration = parse_configuration(KIM)
    state = random_state(configuration)
    save_file(state, source)
    np.savez(folder / "state.npz", **state)
    return {"gmac": 1e-9 * multiply_adds(configuration)}


def converted(kind: str, folder: Path) -> Path:
    """Convert the file of ``prepare`` by the command line; print the time and the peak memory."""
    name, options = CONVERSIONS[kind]
    source, output = folder / name, folder / "converted"
    command = [sys.executable, "-m", "weight_converter", *options, source, "-o", output]
    start = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, cwd=HERE.parent)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the conversion of {source} failed")
    size, peak = source.stat().st_size / 2**20, usage.ru_maxrss / 1024
    print(
        f"{MODELS[kind]}: {size:.0f} MB are converted in {seconds:.0f} s and {peak:.0f} MB, "
        f"{peak / size:.2f} times the file's size",
        flush=True,
    )
    return output


def serve(descriptor: str) -> None:
    """For each line on standard input compute a window and a matrix product; print the seconds."""
    from spleeter_2 import Separator

    separator = Separator(descriptor)
    separator.load()
    configuration = separator.configuration
    stft, nb_frames = configuration.stft, configuration.segment.nb_frames
    nb_samples = (nb_frames - 1) * stft.frame_step
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal((nb_samples, 2))).astype(np.float32)
    mixture = separator._transform.forward(waveform)
    if len(mixture) < nb_frames:  # frames that are not centred
        mixture = np.pad(mixture, ((0, nb_frames - len(mixture)), (0, 0), (0, 0)))
    mixture = mixture[:nb_frames, : configuration.model.nb_bins]
    print(json.dumps({"audio": nb_samples / configuration.sample_rate}), flush=True)
    for line in sys.stdin:
        seconds = _seconds(lambda: separator._network.estimate(mixture))
        answer = {"seconds": seconds, "peak": peak_memory()}
        if json.loads(line)["matrix"]:
            answer["matrix"] = _seconds(_matrix_product)
        print(json.dumps(answer), flush=True)


def _matrix_product() -> np.ndarray:
    matrix = np.full((MATRIX, MATRIX), 0.5, np.float32)
    return matrix @ matrix


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def measured(kind: str, folder: Path, options: argparse.Namespace) -> None:
    """Print the rows of a model, of the RoFormer also PyTorch's."""
    ours = [sys.executable, __file__]
    descriptor, gmac = MODELS[kind], None
    if kind in ("lasaft", *CONVERSIONS):
        command = [*ours, "--prepare", kind, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        gmac, descriptor = json.loads(done.stdout.splitlines()[-1])["gmac"], folder
    if kind in CONVERSIONS:
        descriptor = converted(kind, folder)
    sides = {MODELS[kind]: Side([*ours, "--serve", descriptor])}
    torch = os.environ.get("TORCH_PYTHON")
    if torch and kind == "roformer":
        sides["the same in PyTorch"] = Side([torch, TORCH_SIDE, folder / "state.npz"])
    answers = {name: [] for name in sides}
    for _ in range(options.repeat):
        for name, side in sides.items():
            answers[name].append(side.ask(matrix=name == MODELS[kind]))
    seconds = {name: [each["seconds"] for each in rows] for name, rows in answers.items()}
    for name, side in sides.items():
        side.close()
        median, audio = statistics.median(seconds[name]), side.facts["audio"]
        row = f"{name:22} {audio:8.1f} {median:10.2f} {median / audio:12.3f}"
        row += f" {side.peak:9.0f}"
        print(row + (f" {gmac / median:9.1f}" if gmac else ""), flush=True)
    if len(sides) == 2:
        ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
        print(f"ours is {statistics.median(ratios):.2f} times as fast as PyTorch")
    if kind == "roformer":
        ours = MODELS[kind]
        peak = 1e-9 * MATRIX**3 / min(each["matrix"] for each in answers[ours])
        share = gmac / statistics.median(seconds[ours]) / peak
        print(f"a matrix product reaches {peak:.1f} GMAC/s, the RoFormer {100 * share:.0f} % of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="turns with a window")
    parser.add_argument("--models", default=",".join(MODELS), help="of " + ", ".join(MODELS))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    if options.prepare:
        return print(json.dumps(prepare(options.prepare[0], Path(options.prepare[1]))))
    print("model                  window s   median s   s per s     peak MB    GMAC/s")
    for kind in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            measured(kind, Path(folder), options)


if __name__ == "__main__":
    main()
