"""``spleeter separate``."""

from __future__ import annotations

import os
from enum import Enum
from typing import List, Optional

import typer

from spleeter_2.console import (
    AdapterOption,
    DeviceOption,
    ModelOption,
    MwfOption,
    OverlapOption,
    ShiftsOption,
    VerboseOption,
    is_closed,
)
from spleeter_2.errors import SeparationError
from spleeter_2.files import temporary_folder


class Codec(str, Enum):
    """Codecs of the stems."""

    wav = "wav"
    mp3 = "mp3"
    ogg = "ogg"
    m4a = "m4a"
    wma = "wma"
    flac = "flac"


class Bits(str, Enum):
    """Sample formats of WAV and FLAC files."""

    b16 = "16"
    b24 = "24"
    b32f = "32f"


OutputOption = typer.Option(
    None,
    "--output_path",
    "-o",
    help="Folder for the stems, or its URL; - writes one stem to standard output. [default: "
    "separated_audio in the system's folder for temporary files]",
)


def separate(
    files: Optional[List[str]] = typer.Argument(
        None, help="Songs: files, folders, glob patterns, URLs, or - for standard input."
    ),
    model: str = ModelOption,
    output_path: Optional[str] = OutputOption,
    filename_format: str = typer.Option(
        "{filename}/{instrument}.{codec}",
        "--filename_format",
        "-f",
        help="Path of a stem in the output folder, made of {filename}, {foldername}, {instrument} "
        "and {codec}.",
    ),
    codec: Codec = typer.Option(
        Codec.wav, "--codec", "-c", show_default=False, help="Audio format. [default: wav]"
    ),
    bitrate: str = typer.Option(
        "128k", "--bitrate", "-b", help="Bit rate for MP3, OGG, M4A and WMA."
    ),
    duration: Optional[float] = typer.Option(
        None,
        "--duration",
        "-d",
        help="Seconds to separate. [default: all]",
    ),
    offset: float = typer.Option(0.0, "--offset", "-s", help="Seconds to skip at the start."),
    adapter: Optional[str] = AdapterOption,
    mwf: bool = MwfOption,
    stems: Optional[str] = typer.Option(
        None, "--stems", help="Stems to write, such as vocals or vocals,drums. [default: all]"
    ),
    bits: Bits = typer.Option(
        Bits.b16, "--bits", show_default=False, help="Sample format of WAV and FLAC. [default: 16]"
    ),
    sample_rate: Optional[int] = typer.Option(
        None, "--sample_rate", help="Sample rate of the stems in Hz. [default: the song's]"
    ),
    stream: Optional[int] = typer.Option(
        None,
        "--stream",
        metavar="N",
        help="Audio stream of a file that has several, from 1. [default: the file's default]",
    ),
    overlap: Optional[float] = OverlapOption,
    shifts: int = ShiftsOption,
    device: Optional[str] = DeviceOption,
    skip_existing: bool = typer.Option(
        False,
        "--skip-existing",
        show_default=False,
        help="Skip songs whose stems are all there and whole; with --table, those that it has as "
        "done with the same model and options and whose stems are there.",
    ),
    jobs: Optional[int] = typer.Option(
        None, "--jobs", metavar="N", help="Separate in N processes. [default: in this one]"
    ),
    cluster: Optional[str] = typer.Option(
        None,
        "--cluster",
        metavar="ADDRESS",
        help="Separate on a Dask cluster: tcp://HOST:PORT of its scheduler, or its scheduler file.",
    ),
    manifest: Optional[str] = typer.Option(
        None,
        "--manifest",
        metavar="FILE",
        help="CSV or Parquet file that lists the songs: columns input, output and options.",
    ),
    table: Optional[str] = typer.Option(
        None,
        "--table",
        metavar="FILE",
        help="Table of results, CSV or Parquet, which gets a row per song as it ends.",
    ),
    verbose: bool = VerboseOption,
) -> None:
    """Separate songs into stems."""
    from spleeter_2.audio.codecs import Encoding
    from spleeter_2.audio.ffmpeg import STDIO
    from spleeter_2.executor import Cluster
    from spleeter_2.separation.batch import Catalogue, separate_songs
    from spleeter_2.separation.song import Settings

    if bool(files) == (manifest is not None):
        raise typer.BadParameter("give songs, or a list of them with --manifest")
    if output_path == STDIO and is_closed(1):
        raise SeparationError("standard output is closed: redirect it, or name a folder with -o")
    settings = Settings(
        model=model,
        output_path=_default_output() if output_path is None else output_path,
        filename_format=filename_format,
        encoding=Encoding(codec.value, bits.value, bitrate),
        duration=duration,
        offset=offset,
        adapter=adapter,
        mwf=mwf,
        stems=[name.strip() for name in stems.split(",")] if stems is not None else None,
        sample_rate=sample_rate,
        stream=stream,
        overlap=overlap,
        shifts=shifts,
        device=device,
        skip_existing=skip_existing,
        verbose=verbose,
    )
    is_alone = jobs is None and cluster is None
    catalogue = Catalogue(manifest, table, None if is_alone else Cluster(jobs, cluster))
    if not separate_songs(list(files or []), settings, catalogue):
        raise typer.Exit(1)


def _default_output() -> str:
    return os.path.join(temporary_folder("name an output folder with -o"), "separated_audio")
