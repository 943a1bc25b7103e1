"""``spleeter models``: table of the embedded models, and their model cards."""

from __future__ import annotations

from typing import Optional

import typer

from spleeter_2.config.loading import (
    PREFIX,
    PRESETS,
    embedded_names,
    has_weights,
    load_configuration,
)
from spleeter_2.console import VerboseOption
from spleeter_2.errors import SeparationError


def table() -> str:
    """Table with one line per embedded model."""
    header = (
        "model",
        "parameters",
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


def card(name: str) -> str:
    """Model card of an embedded model.

    Raises:
        SeparationError: an unknown name.
    """
    name = name.removeprefix(PREFIX)
    load_configuration(PREFIX + name)
    path = PRESETS / f"{name}.md"
    if not path.is_file():
        raise SeparationError(f"{PREFIX}{name} has no card")
    return path.read_text(encoding="utf-8").rstrip()


def models(
    name: Optional[str] = typer.Argument(None, help="Model whose card is printed."),
    verbose: bool = VerboseOption,
) -> None:
    """List the models of spleeter-2, or print the card of one."""
    typer.echo(card(name) if name else table())
