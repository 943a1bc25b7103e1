"""``python -m evaluation ablation``: train variants alike, score them, tell the difference."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from support.evaluation import excerpt, two, write_folder

from evaluation.ablation_plan import Plan, Variant, configured, read_plan
from evaluation.ablation_report import write_results
from evaluation.results import find_runs
from evaluation.tables import numbers
from spleeter_2.config.loading import load_configuration

PLAN = {
    "spleeter_2": 1,
    "description": "Of no use.",
    "seeds": [3, 4],
    "configuration": {
        "base": "spleeter_2:mask",
        "stft": {"frame_length": 1024, "frame_step": 512},
        "segment": {"nb_frames": 32, "trim": 512},
        "model": {"nb_bins": 256, "filters": [4, 4, 8], "head": {"type": "regression", "width": 4}},
        "training": {"validation": ["Two"], "steps_per_epoch": 3, "epochs": 2, "batch_size": 1},
    },
    "runs": {"proposal": {}, "mask": {"model": {"head": {"type": "mask"}}}},
    "panels": ["mask", "proposal"],
}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Two songs to train with, and another one to score."""
    root = tmp_path_factory.mktemp("songs")
    for name, start in (("One", 0), ("Two", 2)):
        stems = two(excerpt(start, 2))
        write_folder(root / "train" / name, {k: stems[k] for k in ("vocals", "accompaniment")})
    write_folder(root / "test" / "Three", two(excerpt(4, 2)))
    return root


@pytest.fixture
def run_ablation(songs, tmp_path_factory, evaluation):
    """The command; with a plan of its own it says how it was refused."""

    def run(folder, *more, plan=PLAN):
        path = folder / "plan.json"
        path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
        cache = tmp_path_factory.getbasetemp() / "cache"
        arguments = ["ablation", path, "-d", songs / "train", "--mus_dir", songs / "test"]
        arguments += ["-o", folder / "out", "--cache", cache, "--jobs", 2, *more]
        return evaluation(*arguments)

    return run


@pytest.mark.slow
def test_the_whole_way(run_ablation, tmp_path):
    status, told, messages = run_ablation(tmp_path)
    out = tmp_path / "out"
    assert status == 0, messages
    assert told.startswith((out / "ablation.md").read_text("utf-8"))
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert results["tracks"] == ["Three"]
    assert list(results["runs"]) == ["proposal", "mask"]
    for name in ("proposal-3", "proposal-4", "mask-3", "mask-4"):
        run, seed = name.split("-")
        outcome = results["runs"][run]["seeds"][seed]
        assert outcome["steps"] == 6 and len(outcome["history"]) == 2
        assert outcome["val_loss"] == min(epoch["val_loss"] for epoch in outcome["history"])
        (scored,) = find_runs([out / "scores" / name])
        found = numbers(scored.scores())["vocals", "SIR"].median()
        assert outcome["scores"]["vocals"]["SIR"] == found
        trained = load_configuration(str(out / "runs" / name))
        assert trained.training.seed == int(seed)
        assert trained.model.head.type == ("mask" if run == "mask" else "regression")
    log = (out / "logs/mask-3.txt").read_text("utf-8")
    assert "spleeter: 2 songs in" in log and "spleeter: done after 2 epochs" in log
    sdr = [results["runs"]["mask"]["seeds"][seed]["scores"]["vocals"]["SDR"] for seed in "34"]
    assert f"| mask | {np.mean(sdr):.2f} ({np.std(sdr, ddof=1):.2f}) |" in told
    for picture in ("val_loss.png", "spectrograms-vocals.png", "spectrograms-accompaniment.png"):
        assert matplotlib.image.imread(out / picture).std() > 0.05
        assert f"({picture})" in told

    # what is there stays, what is missing comes back the same
    kept = (out / "runs/mask-3/run.json").stat().st_mtime_ns
    shutil.rmtree(out / "runs/proposal-4")
    status, again, messages = run_ablation(tmp_path)
    assert status == 0 and "1 training(s)" in messages
    assert (out / "runs/mask-3/run.json").stat().st_mtime_ns == kept
    assert again == told


def test_songs_that_were_trained_with_are_not_scored(run_ablation, songs, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(songs / "test", mixed)
    shutil.copytree(songs / "test" / "Three", mixed / "One")
    status, _, messages = run_ablation(tmp_path, "--mus_dir", mixed)
    assert status == 1 and "One would be scored, but would be trained with, too" in messages
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", "cannot read"),
        ({"seeds": []}, "seeds must be different numbers"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"runs": {}}, "runs must name at least one"),
        ({"runs": {"a": 3}}, "runs.a must be an object, not 3"),
        ({"runs": {"../a": {}}, "panels": []}, "call '../a' by letters"),
        ({"runs": {"a": {"model": {"heads": 3}}}, "panels": []}, "runs.a: model: unknown key 'h"),
        ({"runs": {"a": {"training": {"epochs": 0}}}, "panels": []}, "runs.a: training.epochs"),
        ({"configuration": {**PLAN["configuration"], "segments": {}}}, "configuration: unknown"),
        ({"panels": ["nobody"]}, "there is no run 'nobody'"),
        ({"panel": ["mask"]}, "plan.json: unknown key 'panel'; known are spleeter_2, conf"),
        ({"spleeter_2": 2}, "not a spleeter-2 configuration of format 1"),
    ],
)
def test_refused(run_ablation, tmp_path, change, words):
    plan = change if isinstance(change, str) else {**PLAN, **change}
    status, _, messages = run_ablation(tmp_path, plan=plan)
    assert status == 1 and words in messages and "plan.json" in messages
    assert not (tmp_path / "out").exists()


def test_models_to_train_with_are_relative_to_the_plan(tmp_path):
    path = tmp_path / "plan.json"
    runs = {"one": {}, "other": {"training": {"teachers": ["../other"]}}}
    configuration = {**PLAN["configuration"], "training": {"teachers": ["one"]}}
    path.write_text(
        json.dumps({**PLAN, "configuration": configuration, "runs": runs, "panels": []})
    )
    plan = read_plan(path)
    for run, expected in (("one", tmp_path / "one"), ("other", tmp_path.parent / "other")):
        content = configured(plan, path, run, 3)
        assert content["training"] == {"teachers": [str(expected)], "seed": 3}


def test_no_jobs_and_no_songs(run_ablation, tmp_path):
    status, _, messages = run_ablation(tmp_path, "--jobs", 0)
    assert status == 1 and "--jobs must be positive" in messages
    status, _, messages = run_ablation(tmp_path, "-d", tmp_path / "nothing")
    assert status == 1 and "nothing" in messages
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_loses_nothing_of_the_trainings_in_work(songs, tmp_path_factory, tmp_path):
    """Both save a state in the middle of their second epoch."""
    training = {**PLAN["configuration"]["training"], "steps_per_epoch": 300, "epochs": 100}
    configuration = {**PLAN["configuration"], "training": training}
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN, "configuration": configuration}))
    command = [sys.executable, "-m", "evaluation", "ablation", tmp_path / "plan.json"]
    command += ["-d", songs / "train", "--mus_dir", songs / "test", "-o", tmp_path / "out"]
    command += ["--jobs", "2", "--cache", tmp_path_factory.getbasetemp() / "cache"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(tmp_path.glob("out/runs/*/history.png"))) < 2:
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    time.sleep(1)  # the first epoch has ended with that picture
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does, to all of the group
    _, messages = running.communicate(timeout=90)
    assert running.returncode == 130 and "Traceback" not in messages, messages
    for folder in tmp_path.glob("out/runs/*"):
        *_, newest = sorted((folder / "states").iterdir())
        progress = json.loads((newest / "progress.json").read_text())
        assert progress["step"] > 300 * len(progress["history"])


def test_scores_of_silence(evaluation, tmp_path):
    """A dash in the tables, and null in JSON, which has no NaN."""
    stems = {name: 0 * waveform for name, waveform in two(excerpt(0, 1)).items()}
    write_folder(tmp_path / "data" / "Silence", stems)
    arguments = ["--sources", 2, "--mus_dir", tmp_path / "data", "-o", tmp_path / "scores"]
    assert evaluation("run", "-p", "mixture", *arguments)[0] == 0
    (run,) = find_runs([tmp_path / "scores"])
    plan = Plan(1, {}, {"one": {}, "other": {}}, (3, 4))
    variants = [Variant(name, seed, tmp_path) for name in plan.runs for seed in plan.seeds]
    for variant in variants:
        variant.training.mkdir(parents=True)
        summary = {"best": 0.5, "step": 6, "history": [{"val_loss": 0.5}]}
        (variant.training / "run.json").write_text(json.dumps(summary))
    facts = {"command": "none", "versions": {}, "hardware": {}}
    page = write_results(plan, dict.fromkeys(variants, run), facts).read_text()
    assert "nan" not in page and "| one | - |" in page and "| 0.5000 (0.0000) |" in page
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["runs"]["one"]["seeds"]["3"]["scores"]["vocals"]["SDR"] is None


def test_the_plan_that_ships():
    plan = read_plan(Path(__file__).parents[2] / "configs/ablation.json")
    assert list(plan.runs)[0] == "proposal" and len(plan.seeds) == 3
