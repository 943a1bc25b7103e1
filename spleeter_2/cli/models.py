"""``spleeter models``: table of the embedded models, their model cards, and downloads ahead."""

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

UPSTREAM = "spleeter:"


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


def download(name: str) -> str:
    """Fetch one of upstream's models, unless it is there; return the line to print.

    Raises:
        SeparationError: an unknown name, or it cannot be fetched.
    """
    from spleeter_2.weights.download import find_or_fetch
    from spleeter_2.weights.folders import MODEL_FOLDERS

    name = name.removeprefix(UPSTREAM)
    if name not in MODEL_FOLDERS:
        known = ", ".join(UPSTREAM + each for each in MODEL_FOLDERS)
        raise SeparationError(f"there is no model {name} to download; known models: {known}")
    return f"{UPSTREAM}{name} is in {find_or_fetch(MODEL_FOLDERS[name])}"


def models(
    name: Optional[str] = typer.Argument(None, help="Model whose card is printed."),
    fetched: Optional[str] = typer.Option(
        None,
        "--download",
        metavar="MODEL",
        help="Download a model of Spleeter, such as spleeter:4stems, into the folder MODEL_PATH or "
        "the user's cache.",
    ),
    verbose: bool = VerboseOption,
) -> None:
    """List the models of spleeter-2, print the card of one, or download one of Spleeter's."""
    if fetched is not None:
        if name is not None:
            raise SeparationError("--download and a card are two commands: give one of them")
        typer.echo(download(fetched))
        return
    typer.echo(card(name) if name else table())
