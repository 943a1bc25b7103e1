"""An MDX-Net (TFC-TDF U-Net) of published size with seeded random weights, as an ONNX file.

M. Kim, W. Choi, J. Chung, D. Lee, S. Jung, "KUIELab-MDX-Net: a two-stream neural network for music
demixing", 2021. Tensors are ``[1, channels, T, F]`` between the two transpositions. BatchNorm
behind a convolution is folded into it, as PyTorch's exporter does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

N_FFT, STEM = 6144, "Vocals"
NB_BINS, NB_FRAMES = 2048, 256
GROWTH, BLOCKS, LAYERS, KERNEL, BOTTLENECK = 32, 11, 3, 3, 8
PLANES = 4  # real and imaginary part of two channels
EPSILON = 1e-5


class Builder:
    """Nodes and weights; each method takes and returns the name of a tensor.

    Attributes:
        multiply_adds: of a window.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes, self.tensors = [], []
        self.multiply_adds = 0

    def weight(self, values: np.ndarray) -> str:
        name = f"weight_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def kernel(self, shape: tuple[int, ...], inputs: int) -> str:
        return self.weight(self.rng.standard_normal(shape) * np.sqrt(2 / inputs))

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        output = f"tensor_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [output], **attributes))
        return output

    def norm(self, x: str, channels: int) -> str:
        gamma, deviation = 1 + 0.1 * self.rng.standard_normal((2, channels))
        beta, mean = 0.1 * self.rng.standard_normal((2, channels))
        names = [self.weight(values) for values in (gamma, beta, mean, deviation**2)]
        return self.node("Relu", self.node("BatchNormalization", x, *names, epsilon=EPSILON))

    def convolution(self, x: str, ends: tuple[int, int], size: int, places: int, **options) -> str:
        """Convolution of a square kernel, at so many places."""
        inputs, outputs = ends
        self.multiply_adds += places * inputs * outputs * size**2
        kernel = self.kernel((outputs, inputs, size, size), inputs * size**2)
        bias = self.weight(0.1 * self.rng.standard_normal(outputs))
        return self.node("Conv", x, kernel, bias, kernel_shape=[size, size], **options)

    def upsampled(self, x: str, ends: tuple[int, int], places: int) -> str:
        inputs, outputs = ends
        self.multiply_adds += 4 * places * inputs * outputs
        kernel = self.kernel((inputs, outputs, 2, 2), inputs)
        bias = self.weight(0.1 * self.rng.standard_normal(outputs))
        options = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return self.norm(self.node("ConvTranspose", x, kernel, bias, **options), outputs)

    def block(self, x: str, channels: int, nb_frames: int, nb_bins: int) -> str:
        """Convolutions (TFC), then two linear maps of all bins (TDF), added."""
        places, pads = nb_frames * nb_bins, [KERNEL // 2] * 4
        for _ in range(LAYERS):
            x = self.convolution(x, (channels, channels), KERNEL, places, pads=pads)
            x = self.node("Relu", x)
        units, y = nb_bins // BOTTLENECK, x
        for inputs, outputs in ((nb_bins, units), (units, nb_bins)):
            self.multiply_adds += channels * nb_frames * inputs * outputs
            y = self.node("MatMul", y, self.kernel((inputs, outputs), inputs))
            y = self.norm(y, channels)
        return self.node("Add", x, y)


def write_network(path: Path) -> int:
    """Write the network; return its multiply-adds for a window."""
    net, channels = Builder(), GROWTH
    nb_frames, nb_bins = NB_FRAMES, NB_BINS
    x = net.convolution("input", (PLANES, channels), 1, nb_frames * nb_bins)
    x = net.node("Transpose", net.node("Relu", x), perm=[0, 1, 3, 2])
    skips = []
    for _ in range(BLOCKS // 2):
        x = net.block(x, channels, nb_frames, nb_bins)
        skips.append(x)
        nb_frames, nb_bins = nb_frames // 2, nb_bins // 2
        ends, places = (channels, channels + GROWTH), nb_frames * nb_bins
        x = net.node("Relu", net.convolution(x, ends, 2, places, strides=[2, 2]))
        channels += GROWTH
    x = net.block(x, channels, nb_frames, nb_bins)
    for skip in reversed(skips):
        x = net.upsampled(x, (channels, channels - GROWTH), nb_frames * nb_bins)
        channels -= GROWTH
        nb_frames, nb_bins = 2 * nb_frames, 2 * nb_bins
        x = net.block(net.node("Mul", x, skip), channels, nb_frames, nb_bins)
    x = net.node("Transpose", x, perm=[0, 1, 3, 2])
    x = net.convolution(x, (GROWTH, PLANES), 1, NB_FRAMES * NB_BINS)
    net.nodes[-1].output[0] = "output"
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, PLANES, NB_BINS, NB_FRAMES])]
        for name in ("input", "output")
    ]
    graph = helper.make_graph(net.nodes, "mdx_net", *ends, net.tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return net.multiply_adds
