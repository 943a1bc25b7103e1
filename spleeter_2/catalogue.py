"""``spleeter models``: what the embedded models are."""

from __future__ import annotations

from .configuration import (
    PREFIX,
    RESOURCES,
    Cost,
    embedded_names,
    has_weights,
    load_configuration,
)
from .errors import SeparationError


def table() -> str:
    """One line per embedded model."""
    header = (
        "model",
        "parameters",
        "along frequency",  # parameters and multiply-adds per second of audio and target
        "band",
        "weights",
        "instruments",
        "description",
    )
    rows = [header]
    for name in embedded_names():
        model = load_configuration(PREFIX + name)
        rows.append(
            (
                PREFIX + name,
                f"{model.card.parameters / 1e6:.1f} M" if model.card else "?",
                _cost(model.frequency_cost),
                f"{model.band / 1000:.1f} kHz",
                "yes" if has_weights(model.weights) else "no",
                ", ".join(model.instruments),
                model.description,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cost(cost: Cost) -> str:
    """Parameters and multiply-adds per second of audio."""
    if not cost.parameters:
        return "-"
    return f"{cost.parameters / 1e6:.1f} M, {cost.multiply_adds / 1e6:.0f} MMAC/s"


def card(name: str) -> str:
    """The card of an embedded model.

    Raises:
        SeparationError: an unknown name.
    """
    name = name.removeprefix(PREFIX)
    load_configuration(PREFIX + name)
    path = RESOURCES / f"{name}.md"
    if not path.is_file():
        raise SeparationError(f"{PREFIX}{name} has no card")
    return path.read_text(encoding="utf-8").rstrip()
