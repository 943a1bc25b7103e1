"""Plot of losses and scores over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spleeter_2.runtime.matplotlib_import import import_matplotlib


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses and SDR over the epochs as a PNG file."""
    import_matplotlib(path.parent)
    from matplotlib.figure import Figure

    epochs = np.arange(1, len(history) + 1)
    scores = sorted({name for epoch in history for name in epoch if name.startswith("val_sdr_")})
    figure = Figure(figsize=(10, 4))
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)
    curves = [(axes[0][0], "loss", ["loss", "val_loss"])]
    if scores:
        curves.append((axes[0][1], "SDR of the validation songs in dB", scores))
    for axis, label, names in curves:
        for name in names:
            values = [epoch.get(name, np.nan) for epoch in history]
            axis.plot(epochs, values, marker=".", label=name.removeprefix("val_sdr_"))
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
