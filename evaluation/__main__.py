"""Command line of the evaluation: run, compare, report, ablation."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer

from spleeter_2.console import (
    DeviceOption,
    ModelOption,
    MwfOption,
    OverlapOption,
    ShiftsOption,
    VerboseOption,
    run,
)
from spleeter_2.extras import require_extra
from spleeter_2.runtime.matplotlib_import import import_matplotlib

from .options import (
    BaselineOption,
    ClusterOption,
    DataOption,
    JobsOption,
    ResultsOption,
    SaveAudioOption,
    ScorerOption,
    SourcesOption,
    SubsetOption,
    TracksOption,
)

application = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Score models on MUSDB18 or other songs, compare runs, write reports, train variants.",
)

RunsArgument = typer.Argument(
    ..., help="Folders of runs, or folders that contain runs; the first run is the reference."
)


@application.command("run", no_args_is_help=True)
def run_command(
    mus_dir: Path = DataOption,
    model: str = ModelOption,
    output_path: Path = ResultsOption,
    subset: str = SubsetOption,
    tracks: List[str] = TracksOption,
    sources: Optional[int] = SourcesOption,
    baseline: str = BaselineOption,
    jobs: Optional[int] = JobsOption,
    cluster: Optional[str] = ClusterOption,
    scorer: Optional[str] = ScorerOption,
    save_audio: bool = SaveAudioOption,
    mwf: bool = MwfOption,
    overlap: Optional[float] = OverlapOption,
    shifts: int = ShiftsOption,
    device: Optional[str] = DeviceOption,
    verbose: bool = VerboseOption,
) -> None:
    """Separate and score tracks; an existing run is resumed."""
    require_extra("evaluation", "an evaluation")
    from .runner import Settings, evaluate

    evaluate(
        Settings(
            model=model,
            data=mus_dir,
            output=output_path,
            subset=subset,
            tracks=tuple(tracks),
            nb_sources=sources,
            baselines=baseline,
            jobs=jobs,
            cluster=cluster,
            scorer=scorer,
            save_audio=save_audio,
            mwf=mwf,
            overlap=overlap,
            shifts=shifts,
            device=device,
            verbose=verbose,
        )
    )


@application.command("compare", no_args_is_help=True)
def compare_command(
    runs: List[Path] = RunsArgument,
    verbose: bool = VerboseOption,
) -> None:
    """Print runs side by side, and the significance of differences to the first."""
    require_extra("evaluation", "a comparison")
    from .compare import compare, text
    from .results import find_runs

    typer.echo(text(compare(find_runs(list(runs)))))


@application.command("report", no_args_is_help=True)
def report_command(
    runs: List[Path] = RunsArgument,
    output_path: Path = typer.Option(
        Path("report.html"),
        "--output_path",
        "-o",
        help="HTML file; a Markdown file is written beside it.",
    ),
    excerpts: int = typer.Option(
        2,
        "--excerpts",
        min=0,
        help="Tracks with spectrograms and players, if the runs kept their estimates.",
    ),
    verbose: bool = VerboseOption,
) -> None:
    """Write a self-contained HTML page, and its tables as Markdown."""
    require_extra("evaluation", "a report")
    import_matplotlib(output_path.parent)
    from .report import write_report
    from .results import find_runs

    for path in write_report(find_runs(list(runs)), output_path, excerpts):
        typer.echo(f"wrote {path}")


@application.command("ablation", no_args_is_help=True)
def ablation_command(
    plan: Path = typer.Argument(
        ..., help="JSON file: a configuration, and the changes of each run."
    ),
    data: Path = typer.Option(
        ..., "--data", "-d", help="Songs to train with: see 'spleeter train'."
    ),
    mus_dir: Optional[Path] = typer.Option(
        None, "--mus_dir", help="Data set to score. [default: as --data]"
    ),
    output_path: Path = typer.Option(
        Path("ablation"),
        "--output_path",
        "-o",
        help="Folder of the results; existing ones are resumed.",
    ),
    subset: str = SubsetOption,
    jobs: Optional[int] = typer.Option(
        None, "--jobs", help="Trainings at a time, which share the cores. [default: 1]"
    ),
    cluster: Optional[str] = ClusterOption,
    cache: Optional[Path] = typer.Option(
        None, "--cache", help="Folder of decoded stems: see 'spleeter train'."
    ),
    verbose: bool = VerboseOption,
) -> None:
    """Train variants of a model under equal conditions, and compare their scores."""
    require_extra("evaluation", "an ablation")
    require_extra("train", "an ablation")
    import_matplotlib(output_path)
    from .ablation import Options, ablation

    options = Options(data, mus_dir, output_path, subset, jobs, cluster, cache, verbose)
    page = ablation(plan, options)
    typer.echo(page.read_text("utf-8"))
    typer.echo(f"in {page.parent}")


@application.callback()
def options() -> None:
    """Score models on MUSDB18 or other songs, compare runs, write reports, train variants."""


def entrypoint() -> None:
    """Run the program and exit with its status."""
    run(application, "evaluation")


if __name__ == "__main__":
    entrypoint()
