"""Options that ``spleeter evaluate`` and ``python -m evaluation run`` share."""

from __future__ import annotations

from pathlib import Path

import typer

DataOption = typer.Option(
    ...,
    "--mus_dir",
    help="Data set: MUSDB18 (.stem.mp4), MUSDB18-HQ (WAV), or a folder of songs with mixture, "
    "vocals and accompaniment, or with the four stems.",
)
ResultsOption = typer.Option(
    Path("results"), "--output_path", "-o", help="Folder of the results, one below per method."
)
SubsetOption = typer.Option("test", "--subset", help="train or test.")
TracksOption = typer.Option(
    [], "--tracks", show_default=False, help="Name of a track; may be repeated. [default: all]"
)
SourcesOption = typer.Option(
    None, "--sources", help="2 or 4; 2 sums up all but the vocals. [default: the model's]"
)
BaselineOption = typer.Option(
    "",
    "--baseline",
    metavar="LIST",
    show_default=False,
    help="Anchors to score as well: mixture, irm (ideal ratio mask), other models; with commas.",
)
JobsOption = typer.Option(
    None, "--jobs", help="Processes, one thread each. [default: as cores and memory allow]"
)
SaveAudioOption = typer.Option(
    False, "--save-audio", show_default=False, help="Keep the estimates; a report plays them."
)
