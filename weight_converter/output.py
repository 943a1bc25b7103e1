"""Folder that a conversion writes: checkpoint, ``config.json`` and ``model_card.md``."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from spleeter_2.config.loading import CHECKPOINT, ONNX_FILE
from spleeter_2.errors import SeparationError
from spleeter_2.files import write_json
from spleeter_2.runtime.onnx_file import read_onnx_file

from .mapping import Conversion

OURS = re.compile(
    r"checkpoint(\.index|\.data-\d+-of-\d+)?|(config|report)\.json|model_card\.md|model(-\w+)?\.onnx"
)


def check_output(output: Path, force: bool, source: Path) -> None:
    """Check that a converted model can be written to a folder without losing anything.

    Args:
        force: allow replacing a converted model.
        source: the checkpoint, which must not be replaced.

    Raises:
        SeparationError: the path is a file, holds other files, or cannot be created.
    """
    if not os.path.lexists(output):
        place = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        if not place.is_dir():
            raise SeparationError(f"cannot write {output}: {place} is not a folder")
        return
    if not output.is_dir():
        raise SeparationError(f"{output} is not a folder: name another with -o")
    if output.resolve() in (source.resolve(), *source.resolve().parents):
        raise SeparationError(f"{output} holds the checkpoint to convert: name another with -o")
    names = sorted(os.listdir(output))
    others = _tensor_files(output)
    foreign = [name for name in names if not OURS.fullmatch(name) and name not in others]
    if foreign:
        raise SeparationError(
            f"{output} holds files of other origin ({foreign[0]}), which would be lost: "
            "name another folder with -o"
        )
    if names and not force:
        raise SeparationError(
            f"{output} holds a model already: give --force to replace it, or name another folder "
            "with -o"
        )


def _tensor_files(folder: Path) -> list[str]:
    """Files with tensors of a converted ONNX file; empty if it has none or is damaged."""
    if (folder / ONNX_FILE).is_file() and not (folder / CHECKPOINT).exists():
        with contextlib.suppress(SeparationError):
            return read_onnx_file(folder / ONNX_FILE).others
    return []


def check_report(report: Path, output: Path | None, source: Path) -> None:
    """Check that a report can be written, before anything else is written.

    Args:
        output: folder that the conversion creates, or None.
        source: the checkpoint, which must not be replaced.

    Raises:
        SeparationError: the path is a folder, a device or the checkpoint, or its folder is not
            writable.
    """
    folder = report.parent
    if report.exists() and not report.is_file():
        kind = "folder" if report.is_dir() else "device"
        raise SeparationError(f"the report {report} is a {kind}: name a file")
    if report.resolve() == source.resolve():
        raise SeparationError(f"the report {report} would replace the checkpoint to convert")
    made = output is not None and folder.resolve() == output.resolve()
    if not made and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise SeparationError(
            f"cannot write the report {report}: {folder} is not a writable folder"
        )


def write_model(folder: Path, conversion: Conversion) -> None:
    """Write a model that ``-p`` accepts into an existing folder."""
    conversion.write_weights(folder)
    configuration = {**conversion.configuration, "weights": "."}
    write_json(folder / "config.json", configuration)
    (folder / "model_card.md").write_text(_card(conversion), encoding="utf-8")


def _card(conversion: Conversion) -> str:
    configuration = conversion.configuration
    source = configuration["source"]
    stft = configuration["stft"]
    instruments = [*configuration["targets"], configuration["residual"]]
    facts = {
        "network": conversion.family,
        "instruments": ", ".join(name for name in instruments if name),
        "parameters": f"{conversion.nb_parameters:,} in {conversion.nb_arrays} arrays",
        "sample rate": f"{configuration['sample_rate']} Hz",
        "STFT": f"{stft['frame_length']} samples, every {stft['frame_step']}",
        "converted from": f"{source['file']} of {source['project']}",
        "its sha256": f"`{source['sha256']}`",
    }
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    notes = [f"- {note}" for note in conversion.notes]
    return "\n".join(
        [
            f"# {configuration['name']}",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
            "Usage: `spleeter separate -p FOLDER song.mp3`, with the path of this folder.",
            "The licence is that of the original checkpoint.",
            *(["", *notes] if notes else []),
            "",
        ]
    )
