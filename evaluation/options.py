"""Options of ``spleeter evaluate`` and ``python -m evaluation run``."""

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
    Path("results"),
    "--output_path",
    "-o",
    help="Folder of the results, with one subfolder per method.",
)
SubsetOption = typer.Option("test", "--subset", help="train or test.")
TracksOption = typer.Option(
    [],
    "--tracks",
    show_default=False,
    help="Name of a track; may be repeated. [default: all tracks]",
)
SourcesOption = typer.Option(
    None, "--sources", help="2 or 4; with 2 all but the vocals is summed. [default: the model's]"
)
BaselineOption = typer.Option(
    "",
    "--baseline",
    metavar="LIST",
    show_default=False,
    help="Methods to score as well, separated by commas: mixture, irm (ideal ratio mask), models.",
)
JobsOption = typer.Option(
    None, "--jobs", help="Processes, one thread each. [default: as cores and memory allow]"
)
ClusterOption = typer.Option(
    None,
    "--cluster",
    metavar="ADDRESS",
    help="Dask scheduler (tcp://host:8786) or its file, in place of --jobs; its workers need the "
    "folders of data and results under the same paths.",
)
ScorerOption = typer.Option(
    None,
    "--scorer",
    metavar="[spleeter_2|museval]",
    help="Implementation of SDR, SIR, ISR and SAR: ours, or the original, many times slower. "
    "[default: spleeter_2; an existing run keeps its own]",
)
SaveAudioOption = typer.Option(
    False,
    "--save-audio",
    show_default=False,
    help="Keep the estimates, for players and spectrograms in a report.",
)
