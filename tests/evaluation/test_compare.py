import json

import numpy as np
import pytest
from scipy import stats

from evaluation.compare import compare, difference, side_by_side, text
from evaluation.over_mixture import BANDS, EXCESSES, LEVELS, OverMixture
from evaluation.results import TrackScores, find_runs, read_run, read_scores, write_scores
from evaluation.scores import FRAMEWISE, SET_UPS, SourceScores
from evaluation.tables import cells
from spleeter_2.errors import SeparationError

SHAPE = (len(BANDS), len(LEVELS))


def track_scores(name, sources, level, samples=44100):
    """A track whose every metric has one value."""
    frames = {metric: np.array([level, np.nan, level + 1, level - 1]) for metric in FRAMEWISE}
    ones = np.ones(SHAPE, int)
    over = OverMixture(10 * ones, ones, 2.0 * ones, np.ones(len(EXCESSES), int))
    return TrackScores(
        name,
        "test",
        samples,
        44100,
        {"mixture.wav": 1},
        -50.0,
        {"separation": 1.0, "scoring": 2.0},
        {source: SourceScores(frames, level, float("nan"), over) for source in sources},
        "spleeter_2",
    )


def make_run(folder, levels, nb_sources=2, samples=44100):
    """A run whose tracks have these SDRs in dB."""
    sources = SET_UPS[nb_sources]
    names = [f"Track {index}" for index in range(len(levels))]
    information = {
        "format": 1,
        "name": folder.name,
        "identity": {"descriptor": folder.name, "sources": sources, "mwf": False, "overlap": None},
        "configuration": {},
        "subset": "test",
        "data": "nowhere",
        "tracks": [{"subset": "test", "name": name} for name in names],
        "command": "none",
        "started": "then",
        "versions": {"Python": "3"},
        "hardware": {"cores": 1},
    }
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(information))
    run = read_run(folder)
    for name, level in zip(names, levels, strict=True):
        write_scores(run.path("test", name), track_scores(name, sources, float(level), samples))
    return run


def test_scores_survive_the_file(tmp_path):
    before = track_scores("Ünïcode", SET_UPS[2], 3.25)
    write_scores(tmp_path / "a.json", before)
    after = read_scores(tmp_path / "a.json")
    assert after.nb_frames == (1, 4)
    for metric, value in {"SDR": 3.25, "track SDR": 3.25, "over": 10.0}.items():
        assert after.metric("vocals", metric) == before.metric("vocals", metric) == value
    assert np.isnan(after.metric("vocals", "SI-SDR"))
    content = json.loads((tmp_path / "a.json").read_text())
    del content["targets"][0]["track"]["over_mixture"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SeparationError, match="damaged or not a file of scores"):
        read_scores(tmp_path / "a.json")


def test_a_real_difference_and_chance():
    generator = np.random.default_rng(0)
    first = generator.normal(5, 3, 50)
    better = first + generator.normal(0.5, 0.5, 50)
    found = difference(first, better)
    assert found.verdict == "higher" and found.p < 1e-5
    assert found.median == pytest.approx(np.median(better - first))
    assert found.interval[0] < found.median < found.interval[1]
    assert difference(better, first).verdict == "lower"
    assert found.p == stats.wilcoxon(better, first).pvalue
    # the same as noise: the mean differs by as much, the tracks do not agree
    noise = first + generator.normal(0.1, 4, 50)
    assert difference(first, noise).verdict == "not significant"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        second = generator.normal(1, 1, 30)
        lower, upper = difference(np.zeros(30), second).interval
        hits += lower <= 1 <= upper
    assert 88 <= hits <= 100


def test_few_tracks_and_none():
    few = difference(np.zeros(3), np.ones(3))
    assert few.verdict == "not significant" and few.p > 0.05
    single = difference(np.zeros(1), np.ones(1))
    assert single.interval is None and single.verdict == "not significant"
    same = difference(np.ones(9), np.ones(9))
    assert same.p == 1 and same.interval == (0, 0) and same.verdict == "not significant"
    gaps = difference(np.array([1, np.nan, 2]), np.array([2, 1, np.nan]))
    assert gaps.nb_tracks == 1 and gaps.median == 1
    assert difference(np.array([np.nan]), np.array([1.0])).nb_tracks == 0


def test_side_by_side(tmp_path):
    levels = np.linspace(0, 9, 10)
    runs = [make_run(tmp_path / "a", levels), make_run(tmp_path / "b", levels + 1)]
    comparison = compare(runs)
    table = side_by_side(comparison)
    assert list(table.columns) == ["source", "metric", "", "a", "b"]
    rows = list(cells(table))
    assert ["vocals", "SDR", "dB", "4.500", "5.500"] in rows
    assert ["vocals", "SI-SDR", "dB", "-", "-"] in rows
    assert ["vocals", "over, all bins", "%", "10.000", "10.000"] in rows
    printed = text(comparison)
    assert "2 sources (vocals, accompaniment), 10 track(s) of test" in printed
    assert "b against a" in printed
    (line,) = [
        row
        for row in printed.splitlines()
        if row.startswith("vocals") and "+1.000 " in row and " track SDR " in row
    ]
    assert "+1.000 to +1.000" in line and line.endswith("higher")


def test_tracks_without_a_score_are_left_out(tmp_path):
    """Median, interval and p are those of the tracks that have the metric in both runs."""
    levels = np.linspace(0, 9, 10)
    gaps = np.where(np.arange(10) < 3, np.nan, levels)
    runs = [make_run(tmp_path / "a", levels), make_run(tmp_path / "b", gaps + 1)]
    content = json.loads(runs[1].path("test", "Track 0").read_text())
    assert content["targets"][0]["track"]["SDR"] is None
    comparison = compare(runs)
    rows = list(cells(side_by_side(comparison)))
    assert ["vocals", "track SDR", "dB", "4.500", "7.000"] in rows
    found = comparison.differences(1)["vocals", "track SDR"]
    assert found.nb_tracks == 7 and found.median == pytest.approx(1)
    assert found.verdict == "higher"
    assert "b: 3 of 10 track(s) have no track SDR" in text(comparison)
    assert "a: " not in text(comparison)


def test_what_cannot_be_compared(tmp_path):
    levels = [1.0, 2.0, 3.0]
    two = make_run(tmp_path / "two", levels)
    with pytest.raises(SeparationError, match="not comparable"):
        compare([two, make_run(tmp_path / "four", levels, 4)])
    with pytest.raises(SeparationError, match="fewer lacks 1 track.*Track 2"):
        compare([two, make_run(tmp_path / "fewer", levels[:2])])
    with pytest.raises(SeparationError, match="two lacks 1 track"):
        compare([two, make_run(tmp_path / "more", [*levels, 4.0])])
    with pytest.raises(SeparationError, match="not scored on the same audio"):
        compare([two, make_run(tmp_path / "other", levels, samples=999)])
    gone = make_run(tmp_path / "gone", levels)
    gone.path("test", "Track 1").unlink()
    with pytest.raises(SeparationError, match="lacks the scores of 1 of 3 tracks"):
        compare([two, gone])


def test_runs_are_found(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, [1.0])
    assert [run.name for run in find_runs([tmp_path])] == ["a", "b"]
    assert [run.name for run in find_runs([tmp_path / "b", tmp_path])] == ["b", "a"]
    with pytest.raises(SeparationError, match="there is no folder"):
        find_runs([tmp_path / "c"])
    (tmp_path / "c").mkdir()
    with pytest.raises(SeparationError, match="there are no results"):
        find_runs([tmp_path / "c"])
    (tmp_path / "c" / "run.json").write_text("{")
    with pytest.raises(SeparationError, match="damaged or of another version"):
        find_runs([tmp_path])
