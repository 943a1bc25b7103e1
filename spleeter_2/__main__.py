"""The command line: separate, train, evaluate, models. Parses, calls, prints.

Exit status: 0 done, 1 something failed (one sentence each says what), 2 wrong usage, 130 or 143
interrupted. TensorFlow is imported when a network is needed, not before.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from enum import Enum
from pathlib import Path
from typing import List, Optional

import typer
from click.exceptions import Abort, ClickException

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

DEFAULT_MODEL = "spleeter_2:grouped"
DEFAULT_ADAPTER = "spleeter.audio.ffmpeg.FFMPEGProcessAudioAdapter"

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
    DEFAULT_ADAPTER,
    "--adapter",
    "-a",
    show_default=False,
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
    adapter: str = AdapterOption,
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
    data: Path = typer.Option(..., "--data", "-d", help="Folder of the training data."),
    adapter: str = AdapterOption,
    verbose: bool = VerboseOption,
) -> None:
    """Train a model; upstream's for now."""
    from .upstream import run_upstream

    _require_upstream(model, "train")
    _require_folder(data)
    run_upstream("train", adapter=adapter, data=str(data), params_filename=model, verbose=verbose)


@application.command(no_args_is_help=True)
def evaluate(
    mus_dir: Path = DataOption,
    model: str = ModelOption,
    output_path: Path = ResultsOption,
    adapter: str = AdapterOption,
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
    from evaluation.run import evaluate as run

    if adapter != DEFAULT_ADAPTER:
        raise SeparationError("'spleeter evaluate' reads the data set itself, without --adapter")
    run(
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


def _require_upstream(model: str, command: str) -> None:
    from .configuration import is_ours

    if is_ours(model):
        raise SeparationError(
            f"'spleeter {command}' is not there yet for the models of spleeter-2, only for "
            f"upstream's: {model} can be separated with, not used with '{command}'"
        )


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise SeparationError(f"there is no folder {path}")


class _Interrupted(BaseException):
    """A signal asks to stop; unlike KeyboardInterrupt, click lets it pass."""


def _interrupt(number: int, _frame: object) -> None:
    raise _Interrupted(128 + number)


def entrypoint() -> None:
    """Run the program; end it with a status that tells how it went."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    verbose = "--verbose" in sys.argv
    try:
        # not click's standalone mode: it would turn Ctrl-C into status 1
        status = application(standalone_mode=False)
    except ClickException as error:
        error.show()
        status = error.exit_code
    except SeparationError as error:
        if verbose:
            traceback.print_exc()
        print(f"spleeter: error: {error}", file=sys.stderr)
        status = 1
    except _Interrupted as interrupted:
        print("spleeter: interrupted, nothing is left half written", file=sys.stderr)
        (status,) = interrupted.args
    except (Abort, BrokenPipeError):
        status = 1
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(
            f"spleeter: error: this should not happen ({type(error).__name__}: {error}); "
            "--verbose shows where, please report it",
            file=sys.stderr,
        )
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    entrypoint()
