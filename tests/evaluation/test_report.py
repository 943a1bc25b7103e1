import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.browser import open_browser, wait
from support.common import files_below
from support.evaluation import NAMES, RATE
from support.poor import NO_HOME, NO_TEMPORARY_FOLDER

from evaluation import plots as pictures
from evaluation.excerpts import worth_showing
from evaluation.over_mixture import measure
from evaluation.report import write_report
from evaluation.results import find_runs
from spleeter_2.errors import SeparationError

REPOSITORY = Path(__file__).parents[2]
# how many of 64 places of a picture differ from its corner, or -1 where it was not drawn
DRAWN = """
() => [...document.images].map(image => {
  if (!image.complete || image.naturalWidth < 300) return -1;
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 64;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0, 64, 64);
  const data = context.getImageData(0, 0, 64, 64).data;
  let different = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i] != data[0] || data[i + 1] != data[1] || data[i + 2] != data[2]) different++;
  return different;
})
"""
PLAYERS = """
() => [...document.querySelectorAll('.excerpt')].map(({player}) => ({
  rows: player.source.stems,
  seconds: player.source.total() / player.source.sampleRate,
}))
"""
# level of what the first player plays
LISTEN = """
async () => {
  const {player} = document.querySelector('.excerpt');
  await player.play();
  const analyser = player.context.createAnalyser();
  player.output.connect(analyser);
  await new Promise(done => setTimeout(done, 700));
  const data = new Float32Array(2048);
  analyser.getFloatTimeDomainData(data);
  return {level: Math.max(...data.map(Math.abs)), position: player.position};
}
"""


@pytest.fixture(scope="module")
def runs(musdb18_hq, tmp_path_factory):
    """A model and two anchors with their estimates kept, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    for arguments in (
        ["-p", "spleeter_2:grouped", "--baseline", "irm,mixture", "--save-audio", "-o", folder],
        ["-p", "spleeter_2:mask", "-o", folder],
    ):
        command = [sys.executable, "-m", "evaluation", "run", "--mus_dir", musdb18_hq]
        done = subprocess.run([*command, *arguments], capture_output=True, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [sys.executable, "-m", "evaluation", "report", runs / "spleeter_2-grouped", runs]
    done = subprocess.run([*command, "-o", path], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {path}\nwrote {path.with_suffix('.md')}\n"
    return path


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def open_report(browser, path):
    """A page with a report, whose players are there, and the addresses that it requested."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: requests.append(str(error)))
    page.on("console", lambda message: message.type == "error" and requests.append(message.text))
    page.goto(path.as_uri())
    wait(page, "[...document.querySelectorAll('.excerpt')].every(e => e.player)")
    return page, requests


@pytest.mark.slow
def test_the_page_in_a_browser(report, browser):
    """Every picture is drawn, every player plays, and nothing is fetched from anywhere."""
    page, requests = open_report(browser, report)
    drawn = page.evaluate(DRAWN)
    # boxes, three scatters, two of energy over the mixture, spectrograms of two sources twice
    assert len(drawn) == 1 + 3 + 2 + 4
    assert min(drawn) > 100
    players = page.evaluate(PLAYERS)
    # two songs: mixture, two references, two sources of two runs
    assert [len(player["rows"]) for player in players] == 2 * [1 + 2 + 2 * 2]
    assert all(2.9 < player["seconds"] < 3.2 for player in players), players
    heard = page.evaluate(LISTEN)
    assert heard["level"] > 1e-3 and heard["position"] > 4410
    assert page.locator(".excerpt .row.silent").count() == 2 * 6  # one sounds at a time
    page.get_by_role("button", name="Listen to vocals: irm").first.click()
    gains = page.evaluate("document.querySelector('.excerpt').player.gains()")
    assert sum(gains) == 1 and players[0]["rows"][gains.index(1)] == "vocals: irm"
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    told = page.evaluate("document.body.innerText")
    assert '"frame_length": 4096' in page.evaluate("document.body.textContent")
    for sentence in (
        "2 sources (vocals, accompaniment), 3 track(s) of test",
        "spleeter_2-mask against spleeter_2-grouped",
        "not significant",
        "spleeter_2-mask kept no estimates",
        "python -m evaluation report",
        "tensorflow 2.",
    ):
        assert sentence in told


@pytest.mark.slow
def test_four_sources_fit_the_page(musdb18_hq, browser, tmp_path):
    """No table or player is wider than a screen."""
    program = [sys.executable, "-m", "evaluation"]
    run = ["run", "-p", "irm", "--mus_dir", musdb18_hq, "--tracks", NAMES[0], "--save-audio"]
    report = ["report", tmp_path / "runs", "-o", tmp_path / "four.html"]
    for command in ([*program, *run, "-o", tmp_path / "runs"], [*program, *report]):
        done = subprocess.run(command, capture_output=True, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
    page, _ = open_report(browser, tmp_path / "four.html")
    assert [len(player["rows"]) for player in page.evaluate(PLAYERS)] == [1 + 4 + 4]
    widths = page.evaluate(
        "[...document.querySelectorAll('.wide, .player')].map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert len(widths) == 3 and all(0 < inner <= outer for inner, outer in widths), widths


def test_numbers_and_shades_of_the_pictures(monkeypatch, stems, mixture):
    monkeypatch.setattr(pictures, "_png", lambda figure: figure)
    totals = [[measure(mixture, 2 * mixture, RATE), measure(mixture, mixture, RATE)]]
    figure = pictures.over_mixture_maps(["model"], list(stems), totals)
    all_over, none_over, _ = figure.axes
    assert {text.get_text() for text in all_over.texts} == {"100"} and not none_over.texts
    for gain in (1, 0.03):  # a quiet song is as bright as a loud one
        plot = pictures.spectrograms([("", gain * mixture)], gain * mixture, RATE).axes[0]
        levels = plot.get_images()[0]
        shades = levels.norm(levels.get_array()).compressed()
        assert 0.6 < np.percentile(shades, 98) < 1.0, gain


@pytest.mark.slow
def test_tracks_without_a_score_are_shown_last():
    levels = np.array([np.nan, 3, 1, np.nan, 2, 4, 0])
    assert worth_showing(levels) == [4, 6, 2, 1, 5, 0, 3]
    assert sorted(worth_showing(np.full(3, np.nan))) == [0, 1, 2]


@pytest.mark.filterwarnings("error")
def test_shades_of_silence(mixture):
    """Levels of minus infinity: of the whole song, and of nearly all of it."""
    silence = np.zeros((30 * RATE, 2))
    for waveform in (silence, np.concatenate([silence, mixture[:100]])):
        assert pictures.spectrograms([("song", waveform)], waveform, RATE).startswith(b"\x89PNG")


def test_nothing_in_the_page_points_outside(report):
    content = report.read_text("utf-8")
    assert "default-src 'none'" in content and "unsafe-eval" not in content
    for address in re.findall(r'(?:src|href)="([^"]{0,30})', content):
        assert address.startswith("data:")
    assert content.index(NAMES[0]) and "&amp; Co. - [Live], 100 %" in content


@pytest.mark.slow
def test_markdown(report):
    content = report.with_suffix(".md").read_text("utf-8")
    assert "| vocals | SDR | dB |" in content
    assert "## irm against spleeter_2-grouped" in content
    assert "| command | python -m evaluation run -p spleeter_2:grouped" in content


@pytest.mark.slow
def test_without_the_songs_or_the_estimates(runs, tmp_path):
    """The page tells what it cannot show."""
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy)
    information = copy / "spleeter_2-grouped" / "run.json"
    information.write_text(re.sub(r'"data": ".*"', '"data": "/nowhere"', information.read_text()))
    write_report(find_runs([copy / "spleeter_2-grouped"]), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "there is no folder /nowhere" in page and 'class="excerpt"' not in page
    write_report(find_runs([copy / "spleeter_2-mask"]), tmp_path / "b.html")
    page = (tmp_path / "b.html").read_text("utf-8")
    assert "No run has kept its estimates" in page and page.count("<img") == 3


@pytest.mark.slow
def test_where_no_report_can_be(runs, tmp_path):
    found = find_runs([runs])
    with pytest.raises(SeparationError, match="name it report.html"):
        write_report(found, tmp_path / "report.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(SeparationError, match="cannot write"):
        write_report(found, tmp_path / "file" / "report.html")


def test_a_report_needs_no_home_and_no_folder_for_temporary_files(runs, tmp_path):
    script = "import evaluation.__main__ as program\nprogram.entrypoint()\n"
    command = [sys.executable, "-c", NO_HOME + NO_TEMPORARY_FOLDER + script, "report"]
    command += [runs / "irm", "--excerpts", "0", "-o", tmp_path / "new" / "report.html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path) == ["new/report.html", "new/report.md"]
