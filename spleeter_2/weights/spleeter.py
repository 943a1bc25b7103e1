"""Names of the tensors in Spleeter's checkpoints (TensorFlow 1).

Keras numbered the layers of all instruments consecutively: ``conv2d`` to ``conv2d_6`` belong to the
first instrument, ``conv2d_7`` to ``conv2d_13`` to the second. ``TABLE`` has the numbers of the
first; each further one adds the number of layers per instrument. Axes are those of our variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CONV = ("bias", "kernel")
NORM = ("beta", "gamma", "moving_mean", "moving_variance")
# kind of TF1 layer, its tensors, number of layers per instrument, {index: our layer}
TABLE = (
    ("conv2d", CONV, 7, {**{i: f"encoder_{i + 1}_conv" for i in range(6)}, 6: "mask_conv"}),
    ("conv2d_transpose", CONV, 6, {i: f"decoder_{i + 1}_conv" for i in range(6)}),
    (
        "batch_normalization",
        NORM,
        12,
        # 5, the BatchNorm of the deepest encoder, is stored but not used by the network
        {
            **{i: f"encoder_{i + 1}_norm" for i in range(5)},
            **{i + 6: f"decoder_{i + 1}_norm" for i in range(6)},
        },
    ),
)
FIRST = "conv2d/kernel"  # in every checkpoint of Spleeter, in none of ours


def tensor_names(instruments: Sequence[str]) -> dict[str, str]:
    """Spleeter's name of each of our variables: ``{"vocals_encoder_1_conv/kernel": ...}``.

    Args:
        instruments: in the order of Spleeter's ``instrument_list``.
    """
    names = {}
    for rank, instrument in enumerate(instruments):
        for kind, tensors, period, places in TABLE:
            for place, layer in places.items():
                number = place + rank * period
                prefix = f"{kind}_{number}" if number else kind
                for tensor in tensors:
                    names[f"{instrument}_{layer}/{tensor}"] = f"{prefix}/{tensor}"
    return names


def nb_networks(names: Iterable[str]) -> int:
    """Number of networks, one per instrument, in a checkpoint of these tensors; 0 in another."""
    kernels = sum(re.fullmatch(r"conv2d(_\d+)?/kernel", name) is not None for name in names)
    return -(-kernels // TABLE[0][2])


def variable_shapes(
    instruments: Sequence[str], filters: Sequence[int], nb_channels: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables of Spleeter's U-Net, by the names of our variables."""
    kernels = {"mask_conv": (4, 4, 1, nb_channels)}
    widths = {"mask_conv": nb_channels}  # of biases and of BatchNorm
    seen = nb_channels
    for index, width in enumerate(filters, start=1):
        kernels[f"encoder_{index}_conv"] = (5, 5, seen, width)
        widths[f"encoder_{index}_conv"] = widths[f"encoder_{index}_norm"] = seen = width
    del widths[f"encoder_{len(filters)}_norm"]  # see TABLE
    for index, width in enumerate((*filters[-2::-1], 1), start=1):
        kernels[f"decoder_{index}_conv"] = (5, 5, width, seen)  # of a transposed convolution
        widths[f"decoder_{index}_conv"] = widths[f"decoder_{index}_norm"] = width
        seen = 2 * width  # beside the encoder's skip
    shapes = {f"{layer}/kernel": shape for layer, shape in kernels.items()}
    for layer, width in widths.items():
        tensors = NORM if layer.endswith("_norm") else ("bias",)
        shapes |= {f"{layer}/{tensor}": (width,) for tensor in tensors}
    return {f"{name}_{place}": shape for name in instruments for place, shape in shapes.items()}
