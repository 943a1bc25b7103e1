"""``spleeter models``: table of the embedded models, their model cards, and downloads ahead."""

from __future__ import annotations

from typing import Optional

import typer

from spleeter_2.config.loading import (
    FOLDERS,
    PREFIX,
    PREFIXES,
    UPSTREAM_PREFIX,
    embedded_models,
    load_configuration,
)
from spleeter_2.config.schema import Configuration
from spleeter_2.console import VerboseOption
from spleeter_2.errors import SeparationError
from spleeter_2.weights.resolve import is_there, with_weights


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
    for name in embedded_models():
        model = load_configuration(name)
        rows.append(
            (
                name,
                f"{model.card.parameters / 1e6:.1f} M" if model.card else "?",
                f"{model.band / 1000:.1f} kHz",
                _weights(model),
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
    descriptor = name if name.startswith(PREFIXES) else PREFIX + name
    load_configuration(descriptor)
    prefix, _, name = descriptor.partition(":")
    folder = FOLDERS[f"{prefix}:"]
    for path in (folder / f"{name}.md", folder / "card.md"):  # of one model, of all in the folder
        if path.is_file():
            return path.read_text(encoding="utf-8").rstrip()
    raise SeparationError(f"{descriptor} has no card")


def _weights(model: Configuration) -> str:
    """Entry of the column "weights"."""
    if is_there(model):
        return "yes"
    return "no" if model.model_dir is None else "at first use"


def download(descriptor: str) -> str:
    """Fetch the weights of one of Spleeter's models ahead; return the line to print.

    Raises:
        SeparationError: an unknown name, another kind of model, or it cannot be fetched.
    """
    if ":" not in descriptor:
        descriptor = UPSTREAM_PREFIX + descriptor
    configuration = load_configuration(descriptor)
    if configuration.model_dir is None:
        raise SeparationError(f"{descriptor} is no model of Spleeter, whose weights are fetched")
    return f"{descriptor} is in {with_weights(descriptor, configuration).weights}"


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
