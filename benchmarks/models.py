"""Speed and memory of the models of one framework, and of a RoFormer in PyTorch.

    TORCH_PYTHON=/path/to/python python benchmarks/models.py    # an interpreter that has torch
    python benchmarks/models.py --repeat 1 --models roformer,grouped

The RoFormer is a Mel-Band RoFormer of the published size (228 M parameters; Kim's sizes) with
seeded random weights. Each model separates a window of noise of its own length in a process of its
own: seconds per second of audio without overlap, and the peak memory of the process. PyTorch
computes the same window with the same weights (``roformer_torch.py``) in turn with ours. The
matrix product of the same turn is the peak that the RoFormer's speed is compared with.
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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the repository's packages, installed or not

from spleeter_2.config.loading import parse_configuration
from spleeter_2.config.schema import Configuration
from spleeter_2.files import write_json
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
    "lasaft": "LaSAFT, large",
    "grouped": "spleeter_2:grouped",
    "2stems": "spleeter:2stems",
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
    """Write a model of random weights for ``-p``; of the RoFormer, ``state.npz`` too."""
    if kind == "lasaft":
        import lasaft

        return {"gmac": 4e-9 * lasaft.prepare(folder)}  # four targets
    from spleeter_2.config.loading import load_configuration
    from spleeter_2.runtime.export import write_model_file
    from spleeter_2.weights.checkpoint import write_checkpoint
    from weight_converter.mapping import Row
    from weight_converter.placement import value_of
    from weight_converter.roformer import expected_tensors

    configuration = parse_configuration(KIM)
    state = random_state(configuration)
    np.savez(folder / "state.npz", **state)
    rows = [
        Row(n, None, v, shape, rule) for n, v, rule, shape in expected_tensors(configuration, {})
    ]
    write_checkpoint({row.variable: value_of(state.pop(row.source), row) for row in rows}, folder)
    write_json(folder / "config.json", {"spleeter_2": 1, **KIM, "weights": "."})
    write_model_file(load_configuration(str(folder)))
    return {"gmac": 1e-9 * multiply_adds(configuration)}


def peak_memory() -> float:
    """Peak memory of this process in MB, on Linux."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


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
        peak = peak_memory()
        answer = {"seconds": seconds, "peak": peak}
        if line.strip() == "matrix":
            answer["matrix"] = _seconds(_matrix_product)
        print(json.dumps(answer), flush=True)


def _matrix_product() -> np.ndarray:
    matrix = np.full((MATRIX, MATRIX), 0.5, np.float32)
    return matrix @ matrix


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


class Side:
    """A process that answers each line with a line of JSON."""

    def __init__(self, command: list) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.audio = self._answer()["audio"]
        self.seconds: list[float] = []
        self.matrix: list[float] = []
        self.peak = 0.0

    def turn(self, message: str = "") -> None:
        self.process.stdin.write(f"{message}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.peak = answer["peak"]
        self.matrix += [answer["matrix"]] if "matrix" in answer else []

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended: {self.process.args}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measured(kind: str, folder: Path, options: argparse.Namespace) -> None:
    """Print the rows of a model, of the RoFormer also PyTorch's."""
    ours = [sys.executable, __file__]
    descriptor, gmac = MODELS[kind], None
    if kind in ("roformer", "lasaft"):
        command = [*ours, "--prepare", kind, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        gmac, descriptor = json.loads(done.stdout.splitlines()[-1])["gmac"], folder
    sides = {MODELS[kind]: Side([*ours, "--serve", descriptor])}
    torch = os.environ.get("TORCH_PYTHON")
    if torch and kind == "roformer":
        sides["the same in PyTorch"] = Side([torch, TORCH_SIDE, folder / "state.npz"])
    for _ in range(options.repeat):
        for name, side in sides.items():
            side.turn("matrix" if name == MODELS[kind] else "")
    for name, side in sides.items():
        side.close()
        median = statistics.median(side.seconds)
        row = f"{name:22} {side.audio:8.1f} {median:10.2f} {median / side.audio:12.3f}"
        row += f" {side.peak:9.0f}"
        print(row + (f" {gmac / median:9.1f}" if gmac else ""), flush=True)
    if len(sides) == 2:
        one, two = (side.seconds for side in sides.values())
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        print(f"ours is {statistics.median(ratios):.2f} times as fast as PyTorch")
    if kind == "roformer":
        first = next(iter(sides.values()))
        peak = 1e-9 * MATRIX**3 / min(first.matrix)
        share = gmac / statistics.median(first.seconds) / peak
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
