"""LaSAFT's network in PyTorch, for comparison; requires an interpreter that has torch.

    python benchmarks/lasaft_torch.py save STATE.npz HYPER.json MODEL.ckpt
    python benchmarks/lasaft_torch.py golden MODEL.ckpt GOLDEN.npz    # prints the largest errors
    python benchmarks/lasaft_torch.py load MODEL.ckpt                 # prints time and memory
    python benchmarks/lasaft_torch.py serve MODEL.ckpt                # see ``lasaft.py``

The GPoCM network with LaSAFT in evaluation mode, computed layer by layer as published. It has no
``torch.nn.Module``: tensors are looked up by name in the state dict.
"""

from __future__ import annotations

import json
import math
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

INSTRUMENTS = ("vocals", "drums", "bass", "other")
ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class Network:
    """Conditioned U-Net: planes of the mixture -> planes of one instrument.

    Args:
        state: state dict without prefixes.
        options: hyper-parameters of the checkpoint.
    """

    def __init__(self, state: dict[str, torch.Tensor], options: dict) -> None:
        self.state = state
        self.options = options
        self.channels = options["internal_channels"]
        self.levels = options["n_blocks"] // 2
        self.activate = ACTIVATIONS[options["tfc_tdf_activation"]]
        listed = options["t_down_layers"]
        self.time_levels = range(self.levels) if listed is None else json.loads(listed)

    def __call__(self, x: torch.Tensor, condition: int) -> torch.Tensor:
        """Planes of the mixture ``[B, P, T, F]`` -> planes of the instrument, same shape."""
        embedding = self.state["embedding.weight"][condition][None]
        modulations = self.modulations(embedding)
        x = self.norm(F.conv2d(x, *self.weights("first_conv.0")), "first_conv.1")
        x = ACTIVATIONS[self.options["first_conv_activation"]](x)
        skips = []
        for i in range(self.levels):
            x = self.block(x, f"encoders.{i}", embedding, modulations)
            skips.append(x)
            x = F.conv2d(x, *self.weights(f"downsamplings.{i}.0"), stride=self.stride(i))
            x = self.norm(x, f"downsamplings.{i}.1")
        x = self.block(x, "mid_block", embedding, modulations)
        for i in range(self.levels):
            stride = self.stride(self.levels - 1 - i)
            x = F.conv_transpose2d(x, *self.weights(f"upsamplings.{i}.0"), stride=stride)
            x = torch.cat([self.norm(x, f"upsamplings.{i}.1"), skips.pop()], 1)
            x = self.block(x, f"decoders.{i}", embedding, modulations)
        x = F.conv2d(x, *self.weights("last_conv.0"), padding=(0, 1))
        return ACTIVATIONS[self.options["last_activation"]](x)

    def weights(self, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.state[f"{name}.weight"], self.state.get(f"{name}.bias")

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = (self.state[f"{name}.running_{what}"] for what in ("mean", "var"))
        weight, bias = (self.state.get(f"{name}.{what}") for what in ("weight", "bias"))
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def stride(self, level: int) -> tuple[int, int]:
        return (2, 2) if level in self.time_levels else (1, 2)

    def block(self, x, name, embedding, modulations):
        """Dense convolutions, modulation, frequency transformation."""
        padding = self.options["kernel_size_t"] // 2, self.options["kernel_size_f"] // 2
        for i in range(self.options["n_internal_layers"]):
            y = F.conv2d(x, *self.weights(f"{name}.tfc.H.{i}.0"), padding=padding)
            y = self.activate(self.norm(y, f"{name}.tfc.H.{i}.1"))
            x = torch.cat([y, x], 1)  # the newest first
        if name in modulations:
            gamma, beta = modulations[name]
            mixed = torch.einsum("bitf,ij->bjtf", y, gamma) + beta[:, None, None]
            y = torch.sigmoid(mixed) * y
        return y + self.transformed(y, name, embedding)

    def transformed(self, x, name, embedding):
        """LaSAFT: several linear maps of all bins, weighted by the instrument's attention."""
        keys = self.state[f"{name}.keys"]
        query = F.linear(embedding, *self.weights(f"{name}.linear_query"))
        attention = torch.softmax(query @ keys / math.sqrt(keys.shape[0]), -1)[0]
        shape = x.shape
        for i in (0, 3):
            if f"{name}.tdfs.tdf.{i}.weight" in self.state:
                x = F.linear(x, *self.weights(f"{name}.tdfs.tdf.{i}"))
                x = self.activate(self.norm(x, f"{name}.tdfs.tdf.{i + 1}"))
        return x.reshape(*shape, -1) @ attention

    def modulations(self, embedding):
        """``{block: (gamma [C, C], beta [C])}`` of the conditioned blocks."""
        prefix = "condition_generator."
        x = embedding
        for n in range(1, self.options["control_n_layer"]):
            i = 0 if n == 1 else 4 * n - 6
            x = F.relu(F.linear(x, *self.weights(f"{prefix}dense_control_block.linear.{i}")))
            if n > 1:
                x = self.norm(x, f"{prefix}dense_control_block.linear.{i + 3}")
        vectors = []
        for name in ("linear_gamma", "linear_beta"):
            vector = F.linear(x, *self.weights(f"{prefix}{name}.0"))
            if self.options.get("pocm_norm") == "batch_norm":
                vector = self.norm(vector, f"{prefix}{name}.2")
            vectors.append(vector[0])
        encoders = [f"encoders.{i}" for i in range(self.levels)]
        decoders = [f"decoders.{i}" for i in range(self.levels)]
        conditioned = {"full": [*encoders, "mid_block", *decoders], "encoder": encoders}
        blocks = conditioned.get(self.options["condition_to"], decoders)
        gammas = vectors[0].reshape(len(blocks), self.channels, self.channels)
        if self.options["pocm_type"] == "naive":
            gammas = gammas.transpose(1, 2)
        betas = vectors[1].reshape(len(blocks), self.channels)
        return dict(zip(blocks, zip(gammas, betas)))  # noqa: B905

    def window(self, waveform: torch.Tensor, condition: int) -> torch.Tensor:
        """Mixture ``[2, L]`` -> instrument ``[2, L]``: STFT, network (mapping), inverse STFT."""
        n_fft, hop = self.options["n_fft"], self.options["hop_length"]
        window = self.state["stft.stft.window"]
        spectrum = torch.stft(waveform, n_fft, hop, window=window, return_complex=True)
        planes = torch.cat([spectrum.real, spectrum.imag])[None].transpose(2, 3)
        planes = self(planes, condition)[0].transpose(1, 2)
        return torch.istft(
            torch.complex(*planes.contiguous().chunk(2)), n_fft, hop, window=window,
            length=waveform.shape[1],
        )  # fmt: skip

    def song(self, waveform: torch.Tensor, condition: int, overlap: float = 0.5) -> torch.Tensor:
        """Mixture ``[2, S]`` -> instrument ``[2, S]``; the mean of overlapping windows."""
        hop, samples = self.options["hop_length"], waveform.shape[1]
        trim = -(-5000 // hop) * hop
        true = hop * (self.options["num_frame"] - 1) - 2 * trim
        step = int(true * (1 - overlap))
        windows = max(1, -(-(samples - true) // step) + 1)
        padded = F.pad(waveform, (trim, trim + (windows - 1) * step + true - samples))
        estimate = torch.zeros(2, (windows - 1) * step + true)
        for i in range(windows):
            part = self.window(padded[:, i * step : i * step + true + 2 * trim], condition)
            part = part[:, trim:-trim].clone()
            if i > 0:
                part[:, : true - step] *= 0.5
            if i < windows - 1:
                part[:, step:] *= 0.5
            estimate[:, i * step : i * step + true] += part
        return estimate[:, :samples]


def load(path: str) -> Network:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = {k.removeprefix("spec2spec."): v for k, v in checkpoint["state_dict"].items()}
    return Network(state, checkpoint["hyper_parameters"])


def save(source: str, hyper_parameters: str, target: str) -> None:
    """Write arrays and hyper-parameters as a checkpoint of PyTorch Lightning."""
    with open(hyper_parameters) as file:
        options = json.load(file)
    arrays = np.load(source)
    state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    torch.save({"epoch": 0, "state_dict": state, "hyper_parameters": options}, target)


def golden(path: str, expected: str) -> dict[str, float]:
    """Largest errors relative to the maximum, of ``spec_out`` and, if complex, ``wave_out``."""
    network, arrays = load(path), np.load(expected)
    given = torch.from_numpy(arrays["spec_in"])
    conditions = arrays["cond_ids"].tolist()
    pairs = {"spec_out": [network(given, condition) for condition in conditions]}
    if network.options["spec_type"] == "complex":
        wave = torch.from_numpy(arrays["wave_in"])[0].T
        pairs["wave_out"] = [network.window(wave, condition).T[None] for condition in conditions]
    return {
        name: float(np.abs(torch.stack(found).numpy() - arrays[name]).max())
        / float(np.abs(arrays[name]).max())
        for name, found in pairs.items()
    }


def timed_load(path: str) -> dict[str, float]:
    start = time.perf_counter()
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    total = sum(float(tensor.double().sum()) for tensor in state.values())  # reads all pages
    return {"seconds": time.perf_counter() - start, "sum": total, "peak": peak_memory()}


def peak_memory() -> float:
    """Peak memory of this process in MB, on Linux (``getrusage`` includes the parent's at fork)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def serve(path: str, *targets: str) -> None:
    """Run the tasks on standard input, one JSON object per line, and print a result for each."""
    network = load(path)
    options = network.options
    planes = torch.randn(1, 4, options["num_frame"], options["n_fft"] // 2 + 1)
    matrix = torch.randn(2048, 2048)
    conditions = [INSTRUMENTS.index(name) for name in targets]
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        start = time.perf_counter()
        if task["task"] == "window":
            for condition in conditions:
                network(planes, condition)
        elif task["task"] == "song":
            waveform = torch.from_numpy(np.load(task["song"])).T
            estimates = [network.song(waveform, condition) for condition in conditions]
        else:
            matrix @ matrix
        answer = {"seconds": time.perf_counter() - start, "peak": peak_memory()}
        if task.get("output"):
            np.save(task["output"], torch.stack(estimates).transpose(1, 2).numpy())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    torch.set_num_threads(2)
    torch.manual_seed(0)
    with torch.inference_mode():
        result = {
            "save": save, "golden": golden, "load": timed_load, "serve": serve
        }[command](*arguments)  # fmt: skip
    if result is not None:
        print(json.dumps(result))
