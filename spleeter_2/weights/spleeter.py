"""Names of the tensors in Spleeter's checkpoints (TensorFlow 1).

Keras numbered the layers of all instruments consecutively: ``conv2d`` to ``conv2d_6`` belong to the
first instrument, ``conv2d_7`` to ``conv2d_13`` to the second. ``TABLE`` has the numbers of the
first; each further one adds the number of layers per instrument. Axes are those of our variables.
"""

from __future__ import annotations

from collections.abc import Sequence

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
