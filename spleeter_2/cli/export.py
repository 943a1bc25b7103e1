"""``spleeter export``: a network for other programs, with a description of what surrounds it."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Any, Optional

import msgspec
import typer

from spleeter_2 import __version__
from spleeter_2.config.loading import load_configuration
from spleeter_2.config.schema import Configuration
from spleeter_2.console import ModelOption, VerboseOption
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_folder, read_json, write_json
from spleeter_2.weights.resolve import with_checkpoint

DESCRIPTION = "network.json"


class Format(str, Enum):
    """Formats of an exported network."""

    onnx = "onnx"
    saved_model = "saved_model"
    litert = "litert"


def export(
    model: str = ModelOption,
    output_path: Path = typer.Option(
        ..., "--output_path", "-o", help="Folder for the network and network.json."
    ),
    form: Format = typer.Option(
        Format.onnx, "--format", show_default=False, help="Format. [default: onnx]"
    ),
    stems: Optional[str] = typer.Option(
        None, "--stems", help="Stems to estimate, such as vocals or vocals,drums. [default: all]"
    ),
    verbose: bool = VerboseOption,
) -> None:
    """Export a network for other programs (docs/export.md)."""
    from spleeter_2.runtime.export import FILES, export_network
    from spleeter_2.separation.separator import choose_stems

    configuration = with_checkpoint(model, load_configuration(model))
    names = None if stems is None else [name.strip() for name in stems.split(",")]
    instruments = choose_stems(configuration.name, configuration.instruments, names)
    file = FILES[form.value]
    _check_folder(output_path, configuration.name, file)
    with atomic_folder(output_path) as folder:
        exported = export_network(configuration, folder / file, form.value, instruments)
        facts = {"format": form.value, "file": file, **describe(configuration, exported)}
        write_json(folder / DESCRIPTION, facts)
    typer.echo(
        f"wrote {output_path / file}: it differs from Keras by {exported.difference:.1e} of the "
        "largest estimate"
    )


def describe(configuration: Configuration, exported: Any) -> dict[str, Any]:
    """Contents of ``network.json``: all that a program needs around an exported network.

    Args:
        exported: see ``runtime.export.Exported``.
    """
    from spleeter_2.runtime.model_file import INPUT, digest
    from spleeter_2.separation.windows import Windows

    stft, segment = configuration.stft, configuration.segment
    windows = Windows.of(stft, segment)
    complete = set(exported.targets) == set(configuration.targets)
    return {
        "model": configuration.name,
        "made_by": f"spleeter-2 {__version__}",
        "digest": digest(configuration),
        "difference": float(f"{exported.difference:.1e}"),
        "sample_rate": configuration.sample_rate,
        "nb_channels": configuration.nb_channels,
        "stft": {
            "frame_length": stft.frame_length,
            "frame_step": stft.frame_step,
            "centred": segment.join != "frames",
            "window": "periodic hann" if exported.window is None else exported.window.tolist(),
        },
        "windows": {
            "nb_frames": segment.nb_frames,
            "length": windows.length,
            "trim": windows.trim,
            "step": windows.step,
            "overlap": segment.overlap,
            "join": segment.join,
            "fade": windows.fade,
            "lead": windows.lead,
            "tail": windows.tail,
        },
        "targets": list(exported.targets),
        "residual": configuration.residual if complete else None,
        "ratio_mask": msgspec.to_builtins(configuration.ratio_mask),
        "extension": configuration.extension,
        "input": {"name": INPUT, "shape": list(exported.shape)},
        "outputs": [{"name": name, "shape": list(exported.shape)} for name in exported.targets],
    }


def _check_folder(folder: Path, model: str, file: str) -> None:
    """Raise SeparationError unless a folder is new, empty or an earlier export of this kind."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    foreign = [name for name in names if name not in (DESCRIPTION, file)]
    if foreign or (names and DESCRIPTION not in names):
        raise SeparationError(
            f"{folder} holds other files ({(foreign or names)[0]}), which would be lost: name "
            "another folder with -o"
        )
    if names and read_json(folder / DESCRIPTION, "description").get("model") != model:
        raise SeparationError(f"{folder} holds another model: name another folder with -o")
