"""The folder that a conversion writes: checkpoint, ``config.json`` and ``model_card.md``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from spleeter_2.errors import SeparationError
from spleeter_2.files import write_json

from .mapping import Conversion

OURS = re.compile(r"checkpoint(\.index|\.data-\d+-of-\d+)?|(config|report)\.json|model_card\.md")


def check_output(output: Path, force: bool, source: Path) -> None:
    """Refuse a folder that is not ours to fill.

    Args:
        force: a converted model that is there may be replaced.
        source: what is converted, which must outlive that.

    Raises:
        SeparationError: a file, a folder with anything in it, no place for a folder.
    """
    if not os.path.lexists(output):
        place = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        if not place.is_dir():
            raise SeparationError(f"cannot write {output}: {place} is not a folder")
        return
    if not output.is_dir():
        raise SeparationError(f"{output} is not a folder: name another with -o")
    if output.resolve() in (source.resolve(), *source.resolve().parents):
        raise SeparationError(f"{output} holds what is to be converted: name another with -o")
    names = sorted(os.listdir(output))
    foreign = [name for name in names if not OURS.fullmatch(name)]
    if foreign:
        raise SeparationError(
            f"{output} holds more than a converted model ({foreign[0]}): name another folder with "
            "-o, so that nothing is lost"
        )
    if names and not force:
        raise SeparationError(
            f"{output} holds a model already: give --force to replace it, or name another folder "
            "with -o"
        )


def check_report(report: Path, output: Path | None, source: Path) -> None:
    """Refuse a place where no report can be written, before anything else is.

    Args:
        output: a folder that will be there by then.
        source: what is converted, which must outlive that.

    Raises:
        SeparationError: a folder, no folder to write into, the source itself.
    """
    folder = report.parent
    if report.is_dir():
        raise SeparationError(f"the report {report} is a folder: name a file")
    if report.resolve() == source.resolve():
        raise SeparationError(f"the report {report} would replace what is to be converted")
    made = output is not None and folder.resolve() == output.resolve()
    if not made and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise SeparationError(
            f"cannot write the report {report}: {folder} is no folder that can be written to"
        )


def write_model(folder: Path, conversion: Conversion) -> None:
    """Write what ``-p`` needs into a folder that is there."""
    from spleeter_2.models import checkpoint as weights

    weights.write_checkpoint(conversion.values, folder)
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
        "parameters": f"{conversion.nb_parameters:,} in {len(conversion.values)} arrays",
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
            "Separate with it: `spleeter separate -p FOLDER song.mp3`, FOLDER being this one.",
            "Its licence is that of the checkpoint it was converted from.",
            *(["", *notes] if notes else []),
            "",
        ]
    )
