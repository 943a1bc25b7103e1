"""The command line: separate, train, evaluate, models. Parses, calls, prints.

``program`` says how it ends. TensorFlow is imported when a network is needed, not before.
"""

from __future__ import annotations

import os
import tempfile
from enum import Enum
from pathlib import Path
from typing import List, Optional

import typer

from evaluation.options import (
    BaselineOption,
    DataOption,
    JobsOption,
    ResultsOption,
    SaveAudioOption,
    SourcesOption,
    SubsetOption,
    TracksOption,
)

from . import __version__
from .errors import SeparationError
from .program import run

DEFAULT_MODEL = "spleeter_2:grouped"

application = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Separate songs into stems, with the networks of spleeter-2 or of Spleeter.",
)


class Codec(str, Enum):
    """Containers of the stems."""

    wav = "wav"
    mp3 = "mp3"
    ogg = "ogg"
    m4a = "m4a"
    wma = "wma"
    flac = "flac"


class Bits(str, Enum):
    """Sample formats of WAV and FLAC."""

    b16 = "16"
    b24 = "24"
    b32f = "32f"


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        packages = ", ".join(f"{name} {version(name)}" for name in ("spleeter", "tensorflow"))
        typer.echo(f"spleeter-2 {__version__} ({packages})")
        raise typer.Exit()


ModelOption = typer.Option(
    DEFAULT_MODEL,
    "--params_filename",
    "-p",
    metavar="MODEL",
    help="spleeter_2:NAME (see 'models'), spleeter:NAME, a JSON configuration, or a folder "
    "with config.json.",
)
AdapterOption = typer.Option(
    None,
    "--adapter",
    "-a",
    help="Audio adapter of upstream's models. [default: Spleeter's ffmpeg adapter]",
)
OutputOption = typer.Option(
    os.path.join(tempfile.gettempdir(), "separated_audio"),
    "--output_path",
    "-o",
    help="Folder for the stems; - writes one stem to standard output.",
)
MwfOption = typer.Option(
    False, "--mwf", show_default=False, help="Refine by multichannel Wiener filtering."
)
VerboseOption = typer.Option(
    False, "--verbose", show_default=False, help="Show tracebacks and TensorFlow's messages."
)


@application.callback()
def options(
    version: bool = typer.Option(
        None, "--version", callback=_version, is_eager=True, help="Print the versions and exit."
    ),
) -> None:
    """Separate songs into stems."""


@application.command(no_args_is_help=True)
def separate(
    files: List[str] = typer.Argument(
        ..., help="Songs: files, folders, glob patterns, or - for standard input."
    ),
    model: str = ModelOption,
    output_path: str = OutputOption,
    filename_format: str = typer.Option(
        "{filename}/{instrument}.{codec}",
        "--filename_format",
        "-f",
        help="Path of a stem in the output folder, of {filename}, {foldername}, {instrument} "
        "and {codec}.",
    ),
    codec: Codec = typer.Option(
        Codec.wav, "--codec", "-c", show_default=False, help="Container. [default: wav]"
    ),
    bitrate: str = typer.Option("128k", "--bitrate", "-b", help="Of mp3, ogg, m4a and wma."),
    duration: Optional[float] = typer.Option(
        None,
        "--duration",
        "-d",
        help="Seconds to separate at most. [default: all; 600 for upstream's models]",
    ),
    offset: float = typer.Option(0.0, "--offset", "-s", help="Seconds to skip at the start."),
    adapter: Optional[str] = AdapterOption,
    mwf: bool = MwfOption,
    stems: Optional[str] = typer.Option(
        None, "--stems", help="Stems to write, such as vocals or vocals,drums. [default: all]"
    ),
    bits: Bits = typer.Option(
        Bits.b16, "--bits", show_default=False, help="Sample format of wav, flac. [default: 16]"
    ),
    sample_rate: Optional[int] = typer.Option(
        None, "--sample_rate", help="Of the stems, in Hz. [default: the song's]"
    ),
    overlap: Optional[float] = typer.Option(
        None, "--overlap", help="Share of each window computed twice, 0 to 0.5."
    ),
    device: Optional[str] = typer.Option(None, "--device", help="cpu, gpu or gpu:N."),
    skip_existing: bool = typer.Option(
        False,
        "--skip-existing",
        show_default=False,
        help="Leave out songs whose stems are all there.",
    ),
    verbose: bool = VerboseOption,
) -> None:
    """Separate songs into stems."""
    from .separation import Settings, separate_songs

    settings = Settings(
        model=model,
        output_path=output_path,
        filename_format=filename_format,
        codec=codec.value,
        bitrate=bitrate,
        duration=duration,
        offset=offset,
        adapter=adapter,
        mwf=mwf,
        stems=[name.strip() for name in stems.split(",")] if stems is not None else None,
        bits=bits.value,
        sample_rate=sample_rate,
        overlap=overlap,
        device=device,
        skip_existing=skip_existing,
        verbose=verbose,
    )
    if not separate_songs(list(files), settings):
        raise typer.Exit(1)


@application.command(no_args_is_help=True)
def train(
    model: str = ModelOption,
    data: Path = typer.Option(
        ...,
        "--data",
        "-d",
        help="Folder of songs with stems, MUSDB18, MUSDB18-HQ, or a CSV file as Spleeter wants it.",
    ),
    output_path: Optional[Path] = typer.Option(
        None,
        "--output_path",
        "-o",
        help="Folder of the run; one that is there is gone on with. [default: runs/NAME]",
    ),
    cache: Optional[Path] = typer.Option(
        None,
        "--cache",
        help="Folder for the decoded stems. [default: spleeter-2/stems in the user's cache]",
    ),
    adapter: Optional[str] = AdapterOption,
    verbose: bool = VerboseOption,
) -> None:
    """Train a model, or go on with training it."""
    from .configuration import is_ours

    if not is_ours(model):
        for name, value in (("--output_path", output_path), ("--cache", cache)):
            if value is not None:
                raise SeparationError(f"{name} is for the models of spleeter-2, not {model}")
        if not data.is_dir():
            raise SeparationError(f"there is no folder {data}")
        from .upstream import run_upstream

        run_upstream(
            "train", params_filename=model, data=str(data), adapter=adapter, verbose=verbose
        )
        return
    if adapter is not None:
        raise SeparationError(f"--adapter serves upstream's models; {model} reads by itself")
    from .tensorflow_import import import_tensorflow

    import_tensorflow()  # without its start-up messages
    from .training import train as train_ours

    train_ours(model, data, output_path, cache)


@application.command(no_args_is_help=True)
def evaluate(
    mus_dir: Path = DataOption,
    model: str = ModelOption,
    output_path: Path = ResultsOption,
    adapter: Optional[str] = AdapterOption,
    mwf: bool = MwfOption,
    subset: str = SubsetOption,
    tracks: List[str] = TracksOption,
    sources: Optional[int] = SourcesOption,
    baseline: str = BaselineOption,
    jobs: Optional[int] = JobsOption,
    save_audio: bool = SaveAudioOption,
    verbose: bool = VerboseOption,
) -> None:
    """Score a model on MUSDB18, or on songs of your own."""
    from evaluation.run import Settings
    from evaluation.run import evaluate as score

    from .upstream import DEFAULT_ADAPTER

    if adapter not in (None, DEFAULT_ADAPTER):
        raise SeparationError(
            f"'spleeter evaluate' reads the data set itself, without --adapter {adapter}"
        )
    score(
        Settings(
            model=model,
            data=mus_dir,
            output=output_path,
            subset=subset,
            tracks=tuple(tracks),
            nb_sources=sources,
            baselines=baseline,
            jobs=jobs,
            save_audio=save_audio,
            mwf=mwf,
            verbose=verbose,
        )
    )


@application.command()
def models(
    name: Optional[str] = typer.Argument(None, help="A model whose card to print."),
    verbose: bool = VerboseOption,
) -> None:
    """List the models of spleeter-2, or print one's card."""
    from .catalogue import card, table

    typer.echo(card(name) if name else table())


def entrypoint() -> None:
    """Run the program; end it with a status that tells how it went."""
    run(application, "spleeter")


if __name__ == "__main__":
    entrypoint()
