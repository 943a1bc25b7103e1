"""``python -m weight_converter``: convert weights of other projects to a folder for ``-p``.

Exit status: 0 success; 1 error, or a difference to the expected outputs, nothing is written; 2
wrong usage; 129 or more interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any, Optional

import typer

from spleeter_2.config.loading import ONNX_FILE, load_configuration, parse_configuration
from spleeter_2.console import run
from spleeter_2.errors import SeparationError
from spleeter_2.extras import require_extra
from spleeter_2.files import atomic_folder, temporary_folder, write_json, writing
from spleeter_2.runtime import model_file
from spleeter_2.runtime.memory import return_free_memory, return_large_blocks

from . import verify
from .mapping import HEADER, Conversion
from .mdx import OnnxConversion, differences, read_expected, read_mdx
from .output import check_output, check_report, write_model

application = typer.Typer(add_completion=False)


class Project(str, Enum):
    """Projects whose checkpoints can be converted."""

    lasaft = "lasaft"
    roformer = "roformer"
    spleeter = "spleeter"
    mdx = "mdx"


@application.command(no_args_is_help=True)
def convert(
    source: Path = typer.Argument(
        ...,
        help="Checkpoint file of LaSAFT or of a RoFormer, ONNX file of MDX-Net, or folder of a "
        "model of Spleeter.",
    ),
    project: Project = typer.Option(
        Project.lasaft, "--from", show_default=False, help="Source project. [default: lasaft]"
    ),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="Folder to write. [default: the source without its suffix]"
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", show_default=False, help="Convert and check, but write nothing."
    ),
    report: Optional[Path] = typer.Option(
        None, "--report", help="JSON file to write: every tensor and the results of the checks."
    ),
    hyper_parameters: Optional[Path] = typer.Option(
        None,
        "--hyper-parameters",
        help="JSON file with LaSAFT's hyper-parameters. Needed for a bare state dict.",
    ),
    config: Optional[Path] = typer.Option(
        None,
        "--config",
        help="YAML file of a RoFormer's checkpoint. [default: that of a published model, if the "
        "sizes are those of one]",
    ),
    keep_dc: Optional[bool] = typer.Option(
        None,
        "--keep-dc",
        show_default=False,
        help="Keep bin 0 of a RoFormer's estimates, as Kim's code does and MSST does not.",
    ),
    expected: Optional[Path] = typer.Option(
        None,
        "--expected",
        help="NumPy file (npz) with inputs and the reference's outputs, to be compared.",
    ),
    model: Optional[str] = typer.Option(
        None,
        "--model",
        help="Configuration of Spleeter's networks, or another architecture for them. "
        "[default: spleeter:2stems, 4stems or 5stems, by their number]",
    ),
    seed: Optional[int] = typer.Option(
        None, "--seed", help="Random seed for layers that Spleeter lacks. [default: 0]"
    ),
    parameters: Optional[Path] = typer.Option(
        None, "--json", help="JSON file of UVR's with the parameters of MDX-Net's file."
    ),
    n_fft: Optional[int] = typer.Option(
        None, "--n-fft", help="Samples of MDX-Net's STFT. [default: by its hash]"
    ),
    hop_length: Optional[int] = typer.Option(
        None, "--hop-length", help="Samples between the frames of that STFT. [default: 1024]"
    ),
    bins: Optional[int] = typer.Option(
        None, "--bins", help="Bins of MDX-Net's input. [default: those of the file]"
    ),
    frames: Optional[int] = typer.Option(
        None, "--frames", help="Frames of MDX-Net's input. [default: those of the file]"
    ),
    stem: Optional[str] = typer.Option(
        None, "--stem", help="Stem of MDX-Net, such as Vocals. [default: by its hash]"
    ),
    compensate: Optional[float] = typer.Option(
        None, "--compensate", help="Factor of MDX-Net's estimate. [default: by its hash, or 1]"
    ),
    half: bool = typer.Option(
        False, "--half", show_default=False, help="Store kernels as float16: half the size."
    ),
    force: bool = typer.Option(
        False, "--force", show_default=False, help="Replace a converted model in the folder."
    ),
    verbose: bool = typer.Option(False, "--verbose", show_default=False, help="Show tracebacks."),
) -> None:
    """Convert a checkpoint of another project into a folder that 'spleeter separate -p' accepts."""
    if project in (Project.lasaft, Project.roformer):
        require_extra("train", "a conversion")
    output = output or _default_output(source)
    if not dry_run:
        check_output(output, force, source)
    if report is not None:
        check_report(report, None if dry_run else output, source)
    options = {
        "--hyper-parameters": hyper_parameters,
        "--config": config,
        "--keep-dc": keep_dc,
        "--expected": expected,
        "--model": model,
        "--seed": seed,
        "--half": half or None,
        "--json": parameters,
        "--n-fft": n_fft,
        "--hop-length": hop_length,
        "--bins": bins,
        "--frames": frames,
        "--stem": stem,
        "--compensate": compensate,
    }
    conversion = _planned(project, source, options)
    is_onnx = isinstance(conversion, OnnxConversion)
    if not is_onnx and not model_file.ships(parse_configuration(conversion.configuration)):
        require_extra("train", "exporting a network that does not ship")
    if half:
        from spleeter_2.weights.checkpoint import half_precision

        conversion = replace(conversion, values=half_precision(conversion.values))
    typer.echo(_described(conversion))
    facts, checks = _as_json(conversion), {}
    try:
        with _kept(output, dry_run) as folder:
            write_model(folder, conversion)
            check = _onnx_checks if is_onnx else _checks
            checks.update(check(folder, conversion, expected))
            _judge(checks["differences"], expected)
        typer.echo("dry run: nothing is written" if dry_run else f"wrote {output}")
    finally:  # after the output folder exists, and also if PyTorch's outputs differ
        if report is not None and checks:
            report = report.resolve()  # a link is followed, not replaced
            checks["differences"] = [*map(asdict, checks["differences"])]
            write_json(report, {**facts, **checks})


def _default_output(source: Path) -> Path:
    if not source.suffix:
        raise SeparationError(f"name the output folder with -o: {source} has no suffix to drop")
    return source.with_suffix("")


MDX = ("--json", "--n-fft", "--hop-length", "--bins", "--frames", "--stem", "--compensate")
# options that only some projects have
OPTIONS = {
    Project.lasaft: ("--hyper-parameters", "--expected", "--half"),
    Project.roformer: ("--config", "--keep-dc", "--expected", "--half"),
    Project.spleeter: ("--model", "--seed", "--half"),
    Project.mdx: ("--expected", *MDX),
}


def _planned(project: Project, source: Path, options: dict[str, Any]) -> Conversion:
    for name, value in options.items():
        if value is not None and name not in OPTIONS[project]:
            raise SeparationError(f"{name} has no effect with --from {project.value}: omit it")
    if project is Project.lasaft:
        from .lasaft import read_lasaft  # imports einops, which the base installation lacks

        return read_lasaft(source, options["--hyper-parameters"])
    if project is Project.roformer:
        from .roformer import read_roformer

        return read_roformer(source, options["--config"], bool(options["--keep-dc"]))
    if project is Project.mdx:
        return read_mdx(source, *(options[name] for name in MDX))
    from .spleeter import read_spleeter

    return read_spleeter(source, options["--model"], options["--seed"] or 0)


@contextlib.contextmanager
def _kept(output: Path, dry_run: bool) -> Iterator[Path]:
    """Yield the folder to write: the output, or a temporary one for a dry run."""
    if not dry_run:
        with atomic_folder(output) as folder:
            yield folder
        return
    with writing(temporary_folder()), tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _described(conversion: Conversion) -> str:
    """Return the table of tensors, totals, family and options as text."""
    configuration = conversion.configuration
    keys = ("sample_rate", "nb_channels", "targets", "residual", "stft", "segment", "model")
    ignored = len(conversion.ignored)
    return "\n".join(
        [
            conversion.table(),
            "",
            f"{len(conversion.rows)} tensors, {conversion.nb_parameters:,} numbers; "
            f"{ignored} others are ignored, such as {conversion.ignored[0]}"
            if ignored
            else f"{len(conversion.rows)} tensors, {conversion.nb_parameters:,} numbers",
            f"network: {conversion.family}",
            *(f"{key}: {json.dumps(configuration[key])}" for key in keys),
            *(f"note: {note}" for note in conversion.notes),
        ]
    )


def _checks(folder: Path, conversion: Conversion, expected: Path | None) -> dict[str, object]:
    """Check a written folder; return the results for the report.

    The arrays of the conversion are dropped: a large network does not fit into memory often.
    """
    from spleeter_2.runtime.export import write_model_file

    arrays = verify.read_expected(expected) if expected is not None else None
    verify.check_arrays(folder, conversion.values)
    nb_arrays = len(conversion.values)
    conversion.values.clear()
    return_free_memory()
    exported = write_model_file(load_configuration(str(folder)))
    typer.echo(
        "model.onnx: the network that ships with spleeter-2, with these weights"
        if exported is None
        else f"model.onnx: largest difference to Keras {exported:.1e} of the maximum"
    )
    peak = verify.noise_peak(folder)
    typer.echo(f"checked: {nb_arrays} arrays equal; estimates of noise are finite, peak {peak:.3g}")
    found = verify.differences(folder, arrays) if arrays is not None else []
    _print_differences(found, "PyTorch")
    return {
        "arrays_equal": True,
        "export_difference": exported,
        "noise_peak": peak,
        "differences": found,
    }


def _onnx_checks(
    folder: Path, conversion: OnnxConversion, expected: Path | None
) -> dict[str, object]:
    """Check a written folder with an ONNX file; return the results for the report."""
    arrays = read_expected(expected) if expected is not None else None
    peak = verify.noise_peak(folder)
    typer.echo(f"checked: {ONNX_FILE} is a copy; estimates of noise are finite, peak {peak:.3g}")
    found = differences(folder, arrays) if arrays is not None else []
    _print_differences(found, "the reference")
    return {"noise_peak": peak, "differences": found}


def _print_differences(found: list[verify.Difference], reference: str) -> None:
    for difference in found:
        typer.echo(
            f"{difference.output}: largest difference to {reference} {difference.absolute:.2e}, "
            f"{difference.relative:.2e} of the maximum"
        )


def _judge(differences: list[verify.Difference], expected: Path | None) -> None:
    for difference in differences:
        if difference.is_accepted:
            continue
        if difference.limit is None:
            fault = f"{difference.relative:.2e} of its maximum, more than {verify.TOLERANCE:g}"
        else:
            fault = f"{difference.absolute:.2e}, more than {difference.limit:g}"
        raise SeparationError(
            f"{difference.output} differs from that in {expected} by {fault}: nothing is written"
        )


def _as_json(conversion: Conversion) -> dict[str, object]:
    return {
        "network": conversion.family,
        "configuration": conversion.configuration,
        "columns": HEADER,
        "tensors": [
            [row.source, row.source_shape, row.variable, row.shape, row.rule]
            for row in conversion.rows
        ],
        "ignored": conversion.ignored,
        "numbers": conversion.nb_parameters,
        "notes": conversion.notes,
    }


def entrypoint() -> None:
    """Run the program and exit with its status."""
    return_large_blocks()
    # TensorFlow's allocator for oneDNN keeps what a network's tensors took, beside the exported one
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    run(application, "weight_converter")


if __name__ == "__main__":
    entrypoint()
