"""The program ``spleeter``.

Commands import what they need when they run: ``--help`` starts fast, and the base installation
lacks the packages of some.
"""

from __future__ import annotations

import contextlib

import typer

from spleeter_2 import __version__
from spleeter_2.console import run

from .evaluate import evaluate
from .export import export
from .models import models
from .separate import separate
from .train import train
from .web import web

application = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Separate songs into stems with the models of spleeter-2 or Spleeter.",
)
application.command(no_args_is_help=True)(separate)
application.command(no_args_is_help=True)(train)
application.command(no_args_is_help=True)(evaluate)
application.command(no_args_is_help=True)(export)
application.command()(models)
application.command()(web)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import PackageNotFoundError, version

        found = []
        for name in ("onnxruntime", "tensorflow", "spleeter"):
            with contextlib.suppress(PackageNotFoundError):
                found.append(f"{name} {version(name)}")
        typer.echo(f"spleeter-2 {__version__} ({', '.join(found)})")
        raise typer.Exit()


@application.callback()
def options(
    version: bool = typer.Option(
        None,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the versions and exit.",
    ),
) -> None:
    """Separate songs into stems."""


def entrypoint() -> None:
    """Run the program and exit with its status."""
    run(application, "spleeter")


if __name__ == "__main__":
    entrypoint()
