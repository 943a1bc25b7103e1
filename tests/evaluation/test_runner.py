import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import museval
import numpy as np
import psutil
import pytest
import soundfile
from support.common import AS_A_USER, files_below
from support.evaluation import NAMES, RATE, excerpt, two, write_folder
from support.executor import cluster_of, until
from support.golden import golden

from evaluation import tables
from evaluation.methods import Method, ideal_ratio_mask, open_estimator
from evaluation.metrics import sdr
from evaluation.results import find_runs, read_run, read_scores
from evaluation.runner import Settings, Task, _open_run, default_jobs, save_audio
from evaluation.scores import FRAMEWISE, SET_UPS
from evaluation.tracks import TrackAudio, find_tracks, load_track
from spleeter_2.audio.adapter import DEFAULT as DEFAULT_ADAPTER
from spleeter_2.errors import SeparationError
from spleeter_2.separation.paths import plan_outputs
from spleeter_2.separation.separator import Separator

TWO, FOUR = SET_UPS[2], SET_UPS[4]


@pytest.fixture(scope="module")
def finished(musdb18, tmp_path_factory):
    """A whole run on the stem files: our model, and three anchors; and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "spleeter_2", "evaluate", "--mus_dir", musdb18, "-o", folder]
    command += ["-p", "spleeter_2:grouped", "--baseline", "mixture,irm,spleeter_2:mask"]
    done = subprocess.run(
        [*command, "--save-audio"], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def quick(evaluation, data, output, *more):
    """The mixture as the estimate: everything but a network."""
    return evaluation(
        "run", "-p", "mixture", "--sources", 2, "--mus_dir", data, "-o", output, *more
    )


def test_the_printed_numbers_are_musevals(finished):
    """museval's own tools read the files and come to the same medians."""
    folder, done = finished
    for method in ("spleeter_2-grouped", "mixture", "irm", "spleeter_2-mask"):
        store = museval.EvalStore()
        store.add_eval_dir(folder / method)
        expected = store.agg_frames_tracks_scores().unstack()
        printed = done.stdout[done.stdout.index(f"{method}: 2 sources") :]
        for source in TWO:
            line = re.search(rf"^{source} +==> (.*)$", printed, re.M)[1]
            numbers = re.findall(r"(\w+): *(-?[\d.]+)", line)
            assert [name for name, _ in numbers] == ["SDR", "SIR", "ISR", "SAR"]
            for name, number in numbers:
                assert float(number) == pytest.approx(expected[name][source], abs=6e-4)


def test_pinned_scores_of_a_public_track(finished):
    """stempeg's excerpt, with its own mixture. ffmpeg's AAC decoder may differ by a hair."""
    folder, _ = finished
    expected = {
        ("spleeter_2-grouped", "vocals"): [4.77, 11.22, 5.76, 4.42],
        ("spleeter_2-grouped", "accompaniment"): [12.10, 15.62, 11.71, 11.42],
        ("mixture", "vocals"): [-6.23, -5.62, -7.06, -6.99],
        ("irm", "vocals"): [8.68, 20.32, 9.32, 8.8],
    }
    for (method, source), values in expected.items():
        scores = read_scores(folder / method / "test" / f"{NAMES[2]}.json")
        found = [scores.metric(source, metric) for metric in ("SDR", "SIR", "track SDR", "SI-SDR")]
        assert found == pytest.approx(values, abs=0.05), (method, source, found)


def test_what_a_run_tells(finished, musdb18):
    folder, done = finished
    run = read_run(folder / "spleeter_2-grouped")
    assert run.sources == TWO and {name for _, name in run.tracks} == set(NAMES)
    assert "numpy" in run.information.versions and run.information.hardware["cores"]
    assert "the mixture is not the sum of its stems" in done.stderr
    assert done.stderr.count("not the sum") == 1
    for percentage in re.findall(r"([\d.]+) % of all bins exceed the mixture", done.stdout):
        assert 0 <= float(percentage) < 10
    assert "0 of 12 frames have no SDR" in done.stdout
    assert not [name for name in files_below(folder) if "/." in name]


def test_anchors_are_where_they_belong(finished):
    """The mixture is the worst, the ideal mask better than any model."""
    folder, _ = finished
    runs = {run.name: run.scores() for run in find_runs([folder])}
    level = {
        name: tables.numbers(scores)["vocals", "track SDR"].median()
        for name, scores in runs.items()
    }
    assert level["mixture"] < level["spleeter_2-mask"] < level["irm"]
    assert level["mixture"] < level["spleeter_2-grouped"] < level["irm"]
    for scores in runs["mixture"]:
        assert scores.sources["vocals"].over_mixture.share == 0


def test_the_estimates_that_are_kept_are_those_that_were_scored(finished, musdb18, tmp_path):
    folder, _ = finished
    run = read_run(folder / "spleeter_2-grouped")
    track = find_tracks(musdb18, names=[NAMES[0]])[0]
    song = load_track(track, TWO)
    scores = read_scores(run.path("test", track.name))
    folder = run.audio("test", track.name)
    said = np.stack([soundfile.read(folder / f"{source}.wav")[0] for source in TWO])
    true = np.stack([song.references[source].astype(float) for source in TWO])
    expected = museval.evaluate(true, said)  # as anybody would, with the files alone
    for index, source in enumerate(TWO):
        for metric, values in zip(("SDR", "ISR", "SIR", "SAR"), expected, strict=True):
            found = scores.sources[source].frames[metric]  # of five decimals
            np.testing.assert_allclose(found, values[index], rtol=0, atol=6e-6)
    loud = {"vocals": 1.5 * np.ones((10, 2), np.float32)}
    save_audio(tmp_path, loud, RATE)
    assert np.array_equal(soundfile.read(tmp_path / "vocals.wav")[0], loud["vocals"])


@pytest.mark.slow
def test_estimates_that_are_kept_are_whole_and_of_the_same_audio(evaluation, plain, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(plain, data)
    assert quick(evaluation, data, output, "--save-audio")[0] == 0
    folder = output / "mixture" / "audio" / "test"
    (folder / NAMES[0] / "vocals.wav").unlink()
    assert "1 track(s) to score" in quick(evaluation, data, output, "--save-audio")[2]
    assert (folder / NAMES[0] / "vocals.wav").is_file()
    shutil.rmtree(data / NAMES[1])
    write_folder(data / NAMES[1], two(excerpt(0, 2)))
    assert "1 track(s) to score" in quick(evaluation, data, output)[2]
    assert soundfile.info(folder / NAMES[1] / "vocals.wav").frames == 2 * RATE


@pytest.mark.slow
def test_a_second_run_does_only_what_is_missing(evaluation, plain, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(plain, data)
    status, first, _ = quick(evaluation, data, output)
    assert status == 0
    assert not list(output.rglob("*.wav"))
    paths = {name: output / "mixture" / "test" / f"{name}.json" for name in NAMES}
    times = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    status, second, messages = quick(evaluation, data, output)
    assert (status, second) == (0, first) and "0 track(s) to score" in messages
    # one is gone, one is damaged, one belongs to other audio
    paths[NAMES[0]].unlink()
    status, third, messages = quick(evaluation, data, output)
    assert (status, third) == (0, first) and "1 track(s) to score" in messages
    paths[NAMES[1]].write_text(paths[NAMES[1]].read_text()[:1000])
    assert "1 track(s) to score" in quick(evaluation, data, output)[2]
    assert paths[NAMES[2]].stat().st_mtime_ns == times[NAMES[2]]
    shutil.rmtree(data / NAMES[2])
    write_folder(data / NAMES[2], two(excerpt(0, 2)))
    status, fourth, messages = quick(evaluation, data, output)
    assert status == 0 and "1 track(s) to score" in messages and fourth != first
    assert read_scores(paths[NAMES[2]]).samples == 2 * RATE


def test_tracks_by_name(evaluation, plain, tmp_path):
    status, printed, _ = quick(evaluation, plain, tmp_path, "--tracks", NAMES[1])
    assert status == 0 and "1 track(s)" in printed
    assert read_run(tmp_path / "mixture").tracks == [("test", NAMES[1])]
    quick(evaluation, plain, tmp_path, "--tracks", NAMES[0])
    assert set(read_run(tmp_path / "mixture").tracks) == {("test", n) for n in NAMES[:2]}
    status, _, messages = quick(evaluation, plain, tmp_path, "--tracks", "Nobody")
    assert status == 1 and "there is no song Nobody in" in messages


def test_scorers_are_not_mixed(evaluation, plain, tmp_path):
    """A run keeps its scorer, also one of a version that had museval only; runs can be compared."""
    one = ("--tracks", NAMES[0])
    for scorer in ("spleeter_2", "museval"):
        assert quick(evaluation, plain, tmp_path / scorer, *one, "--scorer", scorer)[0] == 0
    runs = {run.folder.parent.name: run for run in find_runs(sorted(tmp_path.glob("*/mixture")))}
    for scorer, run in runs.items():
        assert run.information.scorer == run.scores()[0].scorer == scorer
        assert ("--scorer museval" in run.information.command) == (scorer == "museval")
    frames = {
        scorer: run.scores()[0].sources["vocals"].frames["SIR"] for scorer, run in runs.items()
    }
    np.testing.assert_allclose(frames["spleeter_2"], frames["museval"], rtol=0, atol=2e-5)
    status, printed, _ = evaluation("compare", *(run.folder for run in runs.values()))
    assert status == 0 and "BSSEval v4 by museval" in printed and "to within 1e-6 dB" in printed
    status, _, messages = quick(evaluation, plain, tmp_path / "museval", "--scorer", "spleeter_2")
    assert status == 1 and "holds results of the scorer museval: choose another" in messages

    folder = runs["museval"].folder
    for path, place in ((folder / "run.json", None), (runs["museval"].path("test", NAMES[0]), 1)):
        content = json.loads(path.read_text())
        del (content["spleeter_2"] if place else content)["scorer"]
        path.write_text(json.dumps(content))
    status, printed, messages = quick(evaluation, plain, tmp_path / "museval", *one)
    assert status == 0 and "0 track(s) to score" in messages
    assert "SDR, SIR, ISR, SAR: BSSEval v4 by museval" in printed
    assert read_run(folder).information.scorer == "museval"
    # a track's scores by another scorer, copied into the folder, are not taken for its own
    shutil.copy(runs["spleeter_2"].path("test", NAMES[0]), folder / "test")
    assert "1 track(s) to score" in quick(evaluation, plain, tmp_path / "museval", *one)[2]


@pytest.mark.slow
def test_set_ups_are_not_mixed(evaluation, musdb18_hq, tmp_path):
    status, printed, _ = evaluation(
        "run", "-p", "irm", "--mus_dir", musdb18_hq, "-o", tmp_path, "--tracks", NAMES[0]
    )
    assert status == 0 and f"4 sources ({', '.join(FOUR)})" in printed
    for source in FOUR:
        assert re.search(rf"^{source} +==> SDR:", printed, re.M)
    arguments = ("--mus_dir", musdb18_hq, "-o", tmp_path)
    status, _, messages = evaluation("run", "-p", "irm", "--sources", 2, *arguments)
    assert status == 1 and "holds results of another model or other options" in messages
    status, _, messages = evaluation(
        "run", "-p", "irm", "--sources", 4, "--baseline", "spleeter_2:mask", *arguments
    )
    assert status == 1 and "spleeter_2:mask cannot be scored here" in messages
    status, _, messages = evaluation("run", "-p", "irm", "--sources", 3, *arguments)
    assert status == 1 and "--sources must be 2 or 4" in messages


def test_other_options_do_not_share_a_folder(evaluation, plain, finished, musdb18, tmp_path):
    folder, _ = finished
    before = files_below(folder)
    for option, value in (("--overlap", 0.5), ("--shifts", 2)):
        status, _, messages = evaluation(
            "run", "-p", "spleeter_2:grouped", option, value, "--mus_dir", musdb18, "-o", folder
        )
        assert status == 1 and "choose another folder" in messages
    status, _, messages = evaluation(
        "run", "-p", "spleeter_2:grouped", "--subset", "train", "--mus_dir", musdb18, "-o", folder
    )
    assert status == 1 and "another subset" in messages
    assert files_below(folder) == before


@pytest.mark.slow
def test_bad_tracks_are_an_error_and_not_a_shorter_average(evaluation, plain, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(plain, data)
    for name in ("corrupt", "missing", "short", "good"):
        write_folder(data / name, two(excerpt(1, 1)))
    (data / "corrupt" / "vocals.wav").write_bytes(b"no audio" * 100)
    (data / "missing" / "accompaniment.wav").unlink()
    short, _ = soundfile.read(data / "short" / "vocals.wav")
    soundfile.write(data / "short" / "vocals.wav", short[:-100], RATE)
    status, printed, messages = quick(evaluation, data, output)
    assert status == 1 and printed == ""
    assert "3 track(s) could not be scored (corrupt, missing, short)" in messages
    assert "vocals.wav is not audio" in messages
    assert "missing lacks accompaniment" in messages
    assert "cut them to the same length" in messages
    assert len(list((output / "mixture" / "test").iterdir())) == 4  # nothing is lost
    with pytest.raises(SeparationError, match="lacks the scores of 3 of 7 tracks"):
        read_run(output / "mixture").scores()
    # repaired: only these are computed
    for name in ("corrupt", "missing", "short"):
        shutil.rmtree(data / name)
        write_folder(data / name, two(excerpt(1, 1)))
    status, printed, messages = quick(evaluation, data, output)
    assert status == 0 and "3 track(s) to score" in messages and "7 track(s)" in printed


def test_a_run_has_the_tracks_of_its_data_set(evaluation, plain, tmp_path):
    """A bad track that was removed, rather than repaired, does not leave the run incomplete."""
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(plain, data)
    (data / NAMES[0] / "vocals.wav").write_bytes(b"no audio" * 100)
    status, _, messages = quick(evaluation, data, output)
    assert status == 1 and "repair or remove them and run again" in messages
    assert evaluation("compare", output)[0] == 1
    shutil.rmtree(data / NAMES[0])
    assert quick(evaluation, data, output)[0] == 0
    status, printed, _ = evaluation("compare", output)
    assert status == 0 and "2 track(s) of test" in printed


def test_silent_vocals(evaluation, plain, tmp_path):
    """museval raises; here the track has no scores that silence would decide."""
    data = tmp_path / "data"
    shutil.copytree(plain, data)
    stems = two(excerpt(0, 2))
    silent = {name: stems["accompaniment"] for name in ("mixture", "accompaniment")}
    write_folder(data / "Instrumental", {**silent, "vocals": np.zeros_like(stems["vocals"])})
    status, printed, messages = quick(evaluation, data, tmp_path / "out")
    assert status == 0, messages
    assert "2 of 11 frames have no SDR" in printed
    assert re.search(r"^vocals +SDR .* 3$", printed, re.M)
    for source in TWO:  # the mixture is the accompaniment
        assert re.search(rf"^{source} +track SDR .* 3$", printed, re.M)
        assert re.search(rf"^{source} +over .* 4$", printed, re.M)
        assert f"{source}: 1 of 4 tracks have no track SDR" in printed
    row = r"^(\w+) +(track SDR|SI-SDR) +dB +(\S+)"
    medians = re.findall(row, printed, re.M)
    assert len(medians) == 4
    _, printed, _ = quick(evaluation, plain, tmp_path / "without")
    assert re.findall(row, printed, re.M) == medians


def test_nothing_but_silence(evaluation, tmp_path):
    """A dash in every table, null in JSON, and a page with all its pictures."""
    data, output = tmp_path / "data", tmp_path / "out"
    stems = {name: 0 * waveform for name, waveform in two(excerpt(0, 2)).items()}
    for name in ("One", "Two"):
        write_folder(data / name, stems)
    arguments = ["--baseline", "irm", "--save-audio"]
    status, printed, messages = quick(evaluation, data, output, *arguments)
    assert status == 0, messages
    assert re.search(r"^vocals +==> +SDR: +-  SIR: +-", printed, re.M)
    assert re.search(r"^vocals +track SDR +dB +- +- +- +- +0$", printed, re.M)
    assert "vocals: 2 of 2 tracks have no track SDR" in printed
    assert "vocals: mixture and estimate have no audible bins" in printed
    track = json.loads((output / "irm/test/One.json").read_text())["targets"][0]["track"]
    assert track["SDR"] is track["SI-SDR"] is track["over_mixture"]["share"] is None
    status, compared, _ = evaluation("compare", output / "mixture", output / "irm")
    assert status == 0 and "irm: 2 of 2 track(s) have no track SDR" in compared
    assert re.search(r"^vocals +track SDR +dB +- +- +- +0  not significant$", compared, re.M)
    page = tmp_path / "report.html"
    status, _, told = evaluation("report", output / "mixture", output / "irm", "-o", page)
    assert status == 0, told
    html = re.sub(r"data:[^\"]*", "", page.read_text())
    assert html.count("<img") == 4 + 2 * 2  # scores, and the spectrograms of both tracks
    for text in (printed, compared, messages, told, html, page.with_suffix(".md").read_text()):
        assert not re.search(r"\bnan\b|\binf\b|Warning", text, re.I)


def test_scores_of_an_older_version_are_computed_again(evaluation, plain, tmp_path):
    output = tmp_path / "out"
    assert quick(evaluation, plain, output)[0] == 0
    path = output / "mixture" / "test" / f"{NAMES[0]}.json"
    content = json.loads(path.read_text())
    expected = content["targets"][0]["track"]["SDR"]
    content["spleeter_2"]["format"] = 1
    content["targets"][0]["track"]["SDR"] = -78.0
    path.write_text(json.dumps(content))
    status, _, messages = evaluation("compare", output)
    assert status == 1 and "was written by an older version: run the evaluation" in messages
    status, _, messages = quick(evaluation, plain, output)
    assert status == 0 and "1 track(s) to score" in messages
    assert json.loads(path.read_text())["targets"][0]["track"]["SDR"] == expected


@pytest.mark.parametrize("level", [0.5, 2.0])  # 16 bits, floats
def test_estimates_that_are_kept_are_no_songs_to_separate(tmp_path, level):
    write_folder(tmp_path / "songs", {"a song": np.zeros((RATE, 2), np.float32)})
    kept = tmp_path / "songs" / "results" / "audio" / "test" / "A"
    waveform = np.full((RATE, 2), level, np.float32)
    save_audio(kept, {"vocals": waveform}, RATE)
    samples, rate = soundfile.read(kept / "vocals.wav", dtype="float32")
    assert rate == RATE and np.array_equal(samples, waveform)
    (job,) = plan_outputs(
        [tmp_path / "songs"], tmp_path / "out", "{filename}.wav", "wav", ["vocals"]
    )
    assert job.source == str(tmp_path / "songs" / "a song.wav")


def test_nowhere_to_write_to(evaluation, plain, tmp_path):
    (tmp_path / "file").write_text("")
    status, printed, messages = quick(evaluation, plain, tmp_path / "file")
    assert status == 1 and printed == "" and "cannot write" in messages


def test_what_may_not_be_written_or_read(plain, tmp_path):
    data, results = tmp_path / "data", tmp_path / "results"
    shutil.copytree(plain, data)
    results.mkdir(mode=0o555)
    program = [*AS_A_USER, sys.executable, "-m", "evaluation"]

    def run(*arguments):
        done = subprocess.run([*program, *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
        return done.stderr

    command = ("run", "-p", "mixture", "--sources", "2", "--mus_dir", data, "-o")
    try:
        assert re.search("cannot write .*: Permission denied", run(*command, results / "new"))
        assert not list(results.iterdir())
        (data / NAMES[0]).chmod(0)
        told = run(*command, tmp_path / "out")
        assert f"cannot read {data / NAMES[0]}: Permission denied" in told
        assert files_below(tmp_path / "out" / "mixture" / "test") == [
            f"{name}.json" for name in NAMES[1:]
        ]
        (tmp_path / "runs" / "mixture").mkdir(parents=True)
        (tmp_path / "runs" / "mixture").chmod(0)
        told = run("compare", tmp_path / "runs")
        assert "cannot read" in told and "Permission denied" in told
    finally:
        for path in (results, data / NAMES[0], tmp_path / "runs" / "mixture"):
            if path.exists():
                path.chmod(0o755)


def test_without_ffmpeg(plain, tmp_path):
    """museval and stempeg cannot even be imported."""
    command = [sys.executable, "-m", "evaluation", "run", "-p", "mixture", "--sources", "2"]
    done = subprocess.run(
        [*command, "--mus_dir", plain, "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 1 and "needs ffmpeg: install it" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_what_is_refused_before_any_work(evaluation, spleeter, plain, tmp_path):
    out = ("-o", tmp_path / "out")
    for arguments, sentence in (
        (["-p", "spleeter_2:nothing", "--mus_dir", plain], "spleeter_2:nothing"),
        (["-p", "spleeter_2:lasaft", "--mus_dir", plain], "has no weights"),
        (["--mus_dir", tmp_path / "nowhere"], "there is no folder"),
        (["--mus_dir", tmp_path], "there are no songs"),
        (["--mus_dir", plain, "--jobs", 0], "--jobs must be positive"),
        (["--mus_dir", plain, "--overlap", 0.9], "the overlap must be a number between 0 and 0.5"),
        (["--mus_dir", plain, "--baseline", "irm,nothing"], "nothing"),
        (["--mus_dir", plain, "--subset", "dev"], "must be train or test"),
        (["--mus_dir", plain, "-a", "some.Adapter"], "without --adapter some.Adapter"),
    ):
        status, messages = spleeter("evaluate", *arguments, *out)
        assert status == 1 and sentence in messages, messages
        assert not (tmp_path / "out").exists()
    assert evaluation("run")[0] in (0, 2)
    assert evaluation("run", "-p", "mixture")[0] == 2


@pytest.mark.slow
def test_ctrl_c_loses_only_the_track_in_work(plain, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(plain, data)
    for name in ("long 1", "long 2"):
        stems = two(excerpt(0, 6))
        write_folder(data / name, {k: np.tile(v, (4, 1)) for k, v in stems.items()})
    command = [sys.executable, "-m", "evaluation", "run", "-p", "mixture", "--sources", "2"]
    command += ["--mus_dir", data, "-o", output, "--jobs", "1"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    folder = output / "mixture" / "test"
    while not (folder.exists() and any(path.suffix == ".json" for path in folder.iterdir())):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does, to all of the group
    printed, messages = running.communicate(timeout=20)
    assert running.returncode == 130, messages
    assert printed == b"" and b"Traceback" not in messages
    with pytest.raises(ProcessLookupError):  # no process is left
        for _ in range(100):
            os.killpg(running.pid, 0)
            time.sleep(0.1)
    done = [name for name in files_below(output) if name.endswith(".json")]
    assert 2 <= len(done) < 6 and not [name for name in files_below(output) if "/." in name]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{5 - (len(done) - 1)} track(s) to score" in again.stderr


@pytest.mark.slow
def test_a_run_outlives_its_processes(plain, tmp_path):
    command = [sys.executable, "-m", "evaluation", "run", "-p", "mixture", "--sources", "2"]
    command += ["--mus_dir", plain, "-o", tmp_path, "--jobs", "1"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list(tmp_path.glob("mixture/test/*.json")))
    for child in psutil.Process(running.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    printed, messages = running.communicate(timeout=60)
    assert running.returncode == 0, messages
    assert len(list((tmp_path / "mixture" / "test").glob("*.json"))) == len(NAMES)
    assert "3 track(s)" in printed


def test_a_cluster_scores_as_one_process_does(evaluation, plain, tmp_path, monkeypatch):
    """Its workers have another working folder."""
    monkeypatch.chdir(plain.parent)
    arguments = ["run", "-p", "mixture", "--sources", 2, "--mus_dir", plain.name, "--tracks"]
    arguments += [NAMES[0], "-o"]
    with cluster_of(tmp_path, 1) as processes:
        out = os.path.relpath(tmp_path / "cluster")
        status, _, messages = evaluation(*arguments, out, "--cluster", processes.file)
        assert status == 0, messages
    assert evaluation(*arguments, tmp_path / "own", "--jobs", 1)[0] == 0
    path = Path("mixture", "test", f"{NAMES[0]}.json")
    ours, theirs = (json.loads((tmp_path / name / path).read_text()) for name in ("own", "cluster"))
    assert ours["targets"] == theirs["targets"]


def test_as_many_processes_as_memory_allows(monkeypatch):
    """Ten minutes of four sources take 9 GB, with museval 21."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for scorer, expected in (
        ("spleeter_2", {1: 1, 30: 2, 60: 5, 1000: 8}),
        ("museval", {1: 1, 30: 1, 60: 2, 1000: 8}),
    ):
        run = SimpleNamespace(information=SimpleNamespace(scorer=scorer))
        task = Task(None, ((Method("irm", FOUR), run),), 600.0, False)
        for memory, jobs in expected.items():
            monkeypatch.setattr("evaluation.runner._memory", lambda memory=memory: memory)
            assert default_jobs(600.0, [task]) == jobs


def test_the_ideal_mask_of_sources_apart_is_ideal():
    time_ = np.arange(3 * RATE) / RATE
    low, high = (
        np.repeat(0.3 * np.sin(2 * np.pi * f * time_)[:, None], 2, axis=1).astype(np.float32)
        for f in (500, 5000)
    )
    song = TrackAudio(low + high, {"vocals": low, "accompaniment": high}, RATE)
    estimates = ideal_ratio_mask(song)
    for name, reference in song.references.items():
        assert estimates[name].shape == reference.shape
        assert sdr(reference[RATE:-RATE], estimates[name][RATE:-RATE]) > 40


def test_a_method_has_a_name_for_its_folder(tmp_path):
    folder = tmp_path / "my model, v2"
    folder.mkdir()
    shutil.copy(Path("configs") / "mask_16khz.json", folder / "config.json")
    assert Method(str(folder), TWO).name == "my-model-v2"
    assert Method("spleeter:2stems", TWO, mwf=True).name == "spleeter-2stems-mwf"
    assert Method("configs/mask_16khz.json", TWO).name == "mask_16khz"


def test_the_training_does_not_count_in_an_identity(tmp_path):
    """Estimates depend on the weights; the model itself does count."""
    digests = []
    for name, changes in (
        ("plain", {}),
        ("trained", {"training": {"epochs": 3}}),
        ("wide", {"model": {"nb_bins": 1536}}),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"spleeter_2": 1, "base": "spleeter_2:mask", **changes}))
        method = Method(str(path), TWO)
        digests.append(method.identity().configuration)
        assert method.configuration()["training"]["epochs"] == (3 if name == "trained" else 100)
    assert digests[0] == digests[1] != digests[2]


def test_a_run_of_an_older_version_is_resumed(tmp_path, plain):
    """Its configuration lacks the keys that came later."""
    settings = Settings(model="spleeter_2:mask", data=plain, output=tmp_path)
    tracks = find_tracks(plain)
    method = Method(settings.model, TWO)
    folder = _open_run(method, tracks, settings).folder
    data = json.loads((folder / "run.json").read_text())
    for key in ("ratio_mask", "stem_format", "model_dir"):
        del data["configuration"][key]
    data["identity"]["configuration"] = "that of the shorter configuration"
    (folder / "run.json").write_text(json.dumps(data))
    assert _open_run(method, tracks, settings).information.identity == method.identity()
    data["configuration"]["model"]["nb_bins"] = 1536
    (folder / "run.json").write_text(json.dumps(data))
    with pytest.raises(SeparationError, match="holds results of another model"):
        _open_run(method, tracks, settings)


def test_an_estimator_overlaps_and_shifts(plain):
    song = load_track(find_tracks(plain)[0], TWO)
    options = {"overlap": 0.25, "shifts": 2}
    with Separator("spleeter_2:mask", **options) as separator:
        expected = separator.separate(song.mixture, song.sample_rate)
    found = open_estimator(Method("spleeter_2:mask", TWO, **options))(song)
    for name in TWO:
        np.testing.assert_array_equal(found[name], expected[name])
    without = open_estimator(Method("spleeter_2:mask", TWO))(song)
    assert np.abs(found["vocals"] - without["vocals"]).max() > 1e-4


@pytest.mark.slow
def test_a_model_of_spleeters(spleeter, plain, tmp_path):
    """Upstream's own command fails here after all the work: KeyError: 'accompaniment'."""
    status, printed = spleeter(
        # upstream's own options, its default adapter among them
        "evaluate", "-p", "spleeter:2stems", "-a", DEFAULT_ADAPTER, "--mus_dir", plain,
        "-o", tmp_path, "--jobs", 1,
    )  # fmt: skip
    assert status == 0, printed
    assert "spleeter-2stems: 2 sources" in printed
    scores = json.loads((tmp_path / "spleeter-2stems/test" / f"{NAMES[0]}.json").read_text())
    assert [target["name"] for target in scores["targets"]] == list(TWO)
    assert set(scores["targets"][0]["frames"][0]["metrics"]) == set(FRAMEWISE)
    # upstream takes any sample rate for its own; these are 44100 samples at 48 kHz
    write_folder(tmp_path / "48k" / "song", two(excerpt(0, 1)), 48000)
    estimate = open_estimator(Method("spleeter:2stems", TWO))
    stems = estimate(load_track(find_tracks(tmp_path / "48k")[0], TWO))
    assert {stem.shape for stem in stems.values()} == {(44100, 2)}


@pytest.mark.slow
def test_the_three_commands_of_the_comparison(plain, tmp_path, monkeypatch):
    """docs/comparison.md, as it is written: from a PyTorch checkpoint to the table."""
    block = re.search("```bash\n(.*?)```", Path("docs/comparison.md").read_text("utf-8"), re.S)[1]
    shutil.copy(golden("gpocm_lasaft_a.ckpt"), tmp_path / "lasaft.ckpt")
    shutil.copytree(plain / NAMES[0], tmp_path / "MUSDB18" / NAMES[0])
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    for line in block.splitlines():
        program, *words = shlex.split(line)
        module = ["-m", "spleeter_2"] if program == "spleeter" else []
        done = subprocess.run(
            [sys.executable, *module, *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, (line, done.stderr)
    names = "lasaft +irm +mixture +spleeter-2stems +spleeter_2-grouped"
    assert re.search(f"^source +metric +{names}$", done.stdout, re.M), done.stdout
    assert "2 sources (vocals, accompaniment), 1 track(s)" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": 3}, "the model must be a path, not 3"),
        ({"data": None}, "data must be a path, not None"),
        ({"output": b"out"}, "output must be a path"),
        ({"subset": None}, "the subset must be a string"),
        ({"tracks": "one"}, "tracks must be a list of names, not 'one'"),
        ({"nb_sources": "2"}, "sources must be a whole number, not '2'"),
        ({"baselines": ["irm"]}, "baselines must be a string"),
        ({"jobs": 1.5}, "--jobs must be a whole number, not 1.5"),
        ({"jobs": float("nan")}, "--jobs must be a whole number"),
        ({"jobs": 1, "cluster": "a:1"}, "either --jobs, for this machine, or --cluster"),
        ({"save_audio": "no"}, "save_audio must be True or False"),
        ({"mwf": 1}, "mwf must be True or False"),
        ({"verbose": None}, "verbose must be True or False"),
        ({"overlap": 2}, "the overlap must be a number between 0 and 0.99, not 2"),
        ({"shifts": 0}, "shifts must be a whole number between 1 and 16, not 0"),
        ({"shifts": "2"}, "shifts must be a whole number between 1 and 16, not '2'"),
        ({"scorer": "mir_eval"}, "--scorer must be spleeter_2 or museval, not mir_eval"),
        ({"device": 0}, "the device must be a string"),
        ({"device": "tpu"}, "must be cpu"),
    ],
)
def test_settings_of_a_wrong_kind(options, words):
    with pytest.raises(SeparationError, match=words):
        Settings(**{"model": "spleeter_2:mask", "data": "a", "output": "b", **options})


def test_settings_take_paths_as_text():
    settings = Settings("spleeter_2:mask", "a", "b", tracks=["x"], jobs=2.0)
    expected = Settings("spleeter_2:mask", Path("a"), Path("b"), tracks=("x",), jobs=2)
    assert settings == expected and settings.command() == expected.command()


def test_settings_tell_the_command_that_repeats_them():
    settings = Settings(
        "spleeter_2:mask",
        Path("a b"),
        Path("out"),
        tracks=("x",),
        scorer="museval",
        mwf=True,
        shifts=5,
    )
    assert settings.command() == (
        "python -m evaluation run -p spleeter_2:mask --mus_dir 'a b' -o out --subset test "
        "--tracks x --scorer museval --shifts 5 --mwf"
    )
