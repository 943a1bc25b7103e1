"""``spleeter web``."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer

from spleeter_2.console import DeviceOption, ModelOption, VerboseOption
from spleeter_2.extras import require_extra


def web(
    model: str = ModelOption,
    port: int = typer.Option(8765, "--port", help="Port; 0 takes a free one."),
    host: str = typer.Option(
        "127.0.0.1",
        "--host",
        help="Address to listen at. Others than this machine's own need a --token.",
    ),
    token: Optional[str] = typer.Option(
        None,
        "--token",
        envvar="SPLEETER_WEB_TOKEN",
        help="Secret that every request needs; also from SPLEETER_WEB_TOKEN.",
    ),
    folder: Optional[Path] = typer.Option(
        None,
        "--folder",
        help="Folder of the songs. [default: one in the system's folder for temporary files]",
    ),
    keep: Optional[float] = typer.Option(
        None, "--keep", metavar="HOURS", help="Remove songs so long after they are done."
    ),
    max_songs: int = typer.Option(100, "--max-songs", help="Songs that are kept at most."),
    max_size: int = typer.Option(1000, "--max-size", help="Largest upload in MB."),
    device: Optional[str] = DeviceOption,
    browser: bool = typer.Option(
        True, "--browser/--no-browser", help="Open the page in a browser."
    ),
    opened: List[str] = typer.Option(
        [], "--open", metavar="SONG", help="Song to begin with; may be given several times."
    ),
    verbose: bool = VerboseOption,
) -> None:
    """Open a page to separate songs, listen, mix and download."""
    require_extra("web", "the page")
    from spleeter_2.web.server import Settings, serve

    serve(
        Settings(
            model=model,
            host=host,
            port=port,
            folder=folder,
            token=token,
            keep=keep,
            most_songs=max_songs,
            most_megabytes=max_size,
            device=device,
            browser=browser,
            opened=tuple(opened),
            verbose=verbose,
        )
    )
