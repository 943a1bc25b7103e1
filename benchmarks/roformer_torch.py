"""PyTorch's side of ``benchmarks/models.py``: a Mel-Band RoFormer of one stem, one window.

    python benchmarks/roformer_torch.py state.npz    # then a line on standard input per window

Written from the formulas in ``spleeter_2/models/roformer.py``, with PyTorch's fused attention.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

RATE, N_FFT, HOP, NB_FRAMES, NB_BANDS = 44100, 2048, 441, 801, 60
HEADS, SIZE = 8, 64


def bands() -> list[tuple[int, int]]:
    """First bin and end of the mel bands (Slaney's scale)."""
    step = math.log(6.4) / 27
    top = 15 + math.log(RATE / 2000) / step

    def bin_of(point: int) -> float:
        mel = top * point / (NB_BANDS + 1)
        hertz = mel * 200 / 3 if mel < 15 else 1000 * math.exp(step * (mel - 15))
        return hertz * N_FFT / RATE

    edges = [bin_of(point) for point in range(NB_BANDS + 2)]
    starts = [0, *(math.floor(edge) + 1 for edge in edges[1:-2])]
    ends = [*(math.ceil(edge) for edge in edges[2:-1]), N_FFT // 2 + 1]
    return list(zip(starts, ends, strict=True))


class Network:
    """The network, from its state dict.

    Args:
        state: tensors by the reference's names.
    """

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state
        self.bands = bands()
        self.depth = 1 + max(int(name.split(".")[1]) for name in state if name[:7] == "layers.")
        counts = torch.zeros(N_FFT // 2 + 1)
        for start, end in self.bands:
            counts[start:end] += 1
        self.counts = counts[:, None, None]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.normalize(x, dim=-1) * math.sqrt(x.shape[-1]) * self.state[f"{name}gamma"]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def attention(self, x: torch.Tensor, name: str, table: torch.Tensor) -> torch.Tensor:
        x = self.norm(x, f"{name}.norm.")
        qkv = self.linear(x, f"{name}.to_qkv").unflatten(-1, (3, HEADS, SIZE))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        angles = torch.arange(x.shape[1])[:, None] * table
        query, key = (self.rotated(part, angles) for part in (query, key))
        heads = F.scaled_dot_product_attention(query, key, value)
        gates = self.linear(x, f"{name}.to_gates").sigmoid().transpose(1, 2)
        heads = (heads * gates[..., None]).transpose(1, 2).flatten(2)
        return self.linear(heads, f"{name}.to_out.0")

    def rotated(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        one, two = x[..., 0::2], x[..., 1::2]
        cosine, sine = angles.cos(), angles.sin()
        pairs = (one * cosine - two * sine, two * cosine + one * sine)
        return torch.stack(pairs, -1).flatten(-2)

    def transformer(self, x: torch.Tensor, name: str, table: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, f"{name}.layers.0.0", table)
        inner = f"{name}.layers.0.1.net"
        hidden = F.gelu(self.linear(self.norm(x, f"{inner}.0."), f"{inner}.1"))
        x = x + self.linear(hidden, f"{inner}.4")
        return self.norm(x, f"{name}.norm.")

    def __call__(self, stft: torch.Tensor) -> torch.Tensor:
        """STFT of a window ``[C, F, T]`` -> that of the estimate."""
        features = torch.view_as_real(stft).permute(2, 1, 0, 3)  # [T, F, C, 2]
        split = "band_split.to_features"
        x = torch.stack(
            [
                self.linear(
                    self.norm(features[:, start:end].flatten(1), f"{split}.{i}.0."),
                    f"{split}.{i}.1",
                )
                for i, (start, end) in enumerate(self.bands)
            ]
        )  # [bands, T, D]
        times, frequencies = (
            self.state[f"layers.0.{k}.layers.0.0.rotary_embed.freqs"] for k in (0, 1)
        )
        for block in range(self.depth):
            x = self.transformer(x, f"layers.{block}.0", times).transpose(0, 1)
            x = self.transformer(x, f"layers.{block}.1", frequencies).transpose(0, 1)
        masks = torch.zeros_like(features)
        for i, (start, end) in enumerate(self.bands):
            name = f"mask_estimators.0.to_freqs.{i}.0"
            hidden = self.linear(x[i], f"{name}.0").tanh()
            hidden = self.linear(self.linear(hidden, f"{name}.2").tanh(), f"{name}.4")
            masks[:, start:end] += F.glu(hidden, -1).view(len(hidden), end - start, -1, 2)
        masks = torch.view_as_complex(masks / self.counts).permute(2, 1, 0)
        return stft * masks


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        network = Network({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    length = HOP * (NB_FRAMES - 1)
    waveform = 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(N_FFT)
    stft = torch.stft(waveform, N_FFT, HOP, window=window, return_complex=True)
    print(json.dumps({"audio": length / RATE}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            network(stft)
        seconds = time.perf_counter() - start
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
