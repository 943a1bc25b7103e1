"""``spleeter train``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from spleeter_2.console import AdapterOption, ModelOption, VerboseOption
from spleeter_2.extras import require_extra


def train(
    model: str = ModelOption,
    data: Path = typer.Option(
        ...,
        "--data",
        "-d",
        help="Folder of songs with stems, MUSDB18, MUSDB18-HQ, or a CSV file as for Spleeter.",
    ),
    output_path: Optional[Path] = typer.Option(
        None,
        "--output_path",
        "-o",
        help="Folder of the run; an existing run is resumed. [default: runs/NAME]",
    ),
    cache: Optional[Path] = typer.Option(
        None,
        "--cache",
        help="Cache folder for decoded stems. [default: spleeter-2/stems in the user's cache]",
    ),
    adapter: Optional[str] = AdapterOption,
    verbose: bool = VerboseOption,
) -> None:
    """Train a model, or resume its training."""
    from spleeter_2.audio.adapter import refuse_adapter

    refuse_adapter(adapter, "spleeter train")
    require_extra("train", "training")
    from spleeter_2.runtime.tensorflow_import import import_tensorflow

    import_tensorflow()  # without its start-up messages
    from spleeter_2.training.train import train as train_ours

    train_ours(model, data, output_path, cache)
