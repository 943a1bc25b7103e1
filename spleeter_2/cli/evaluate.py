"""``spleeter evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from evaluation.options import (
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
from spleeter_2.console import (
    AdapterOption,
    DeviceOption,
    ModelOption,
    MwfOption,
    OverlapOption,
    ShiftsOption,
    VerboseOption,
)
from spleeter_2.extras import require_extra


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
    cluster: Optional[str] = ClusterOption,
    scorer: Optional[str] = ScorerOption,
    save_audio: bool = SaveAudioOption,
    overlap: Optional[float] = OverlapOption,
    shifts: int = ShiftsOption,
    device: Optional[str] = DeviceOption,
    verbose: bool = VerboseOption,
) -> None:
    """Score a model on MUSDB18 or your own songs."""
    require_extra("evaluation", "an evaluation")
    from evaluation.runner import Settings
    from evaluation.runner import evaluate as score
    from spleeter_2.audio.adapter import refuse_adapter

    refuse_adapter(adapter, "spleeter evaluate")
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
