"""The page in a browser: what a user sees, hears and downloads."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.browser import open_browser, wait
from support.common import RATE
from support.web import Server, floats, write_long

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "demo/lets-go-fishin.ogg"
# the last 8192 samples that were played, mean of both channels
LISTEN = """
async () => {
  const {player} = document.querySelector('.card:has(.player)');
  const analyser = player.context.createAnalyser();
  analyser.fftSize = 8192;
  player.output.connect(analyser);
  await new Promise(done => setTimeout(done, 500));
  const data = new Float32Array(8192);
  analyser.getFloatTimeDomainData(data);
  player.output.disconnect(analyser);
  return [...data];
}
"""
POSITION = "() => {{ const {{player}} = document.querySelector('.card:has(.player)'); {} }}".format(
    "return player.position / player.source.sampleRate"
)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server("--folder", tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture
def page(browser, server):
    """A page that may request nothing of other hosts and log no errors."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    faults = []
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((server.address, "blob:", "data:")) or faults.append(request.url)
        ),
    )
    page.goto(server.address)
    wait(page, "document.querySelector('#model').options.length > 3")
    yield page
    page.close()
    for song in server.ask("/api/songs").json:
        server.ask(f"/api/songs/{song['id']}", "DELETE")
    assert faults == []


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command writes of the demo song."""
    folder = tmp_path_factory.mktemp("written")
    command = [sys.executable, "-m", "spleeter_2", "separate", "-o", folder, DEMO, "--bits", "32f"]
    subprocess.run(command, check=True, capture_output=True)
    names = ("vocals", "accompaniment")
    return {
        name: soundfile.read(folder / DEMO.stem / f"{name}.wav", dtype="float32")[0]
        for name in names
    }


def card(page, name, state="done"):
    """The card of a song, once it has a state."""
    found = page.locator(f".card.{state}", has=page.get_by_role("heading", name=name, exact=True))
    found.wait_for(timeout=60_000)
    return found


def upload(page, *paths):
    page.set_input_files("#files", [str(path) for path in paths])


def drop(page, path):
    """Drop a file on the page, as a file manager does."""
    files = page.evaluate_handle(
        """([name, bytes]) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], name));
          return files;
        }""",
        [path.name, list(path.read_bytes())],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": files})


def error_of(heard, waveform):
    """Smallest RMS of the difference to any part of a waveform, relative to the RMS of that."""
    mono = waveform.mean(axis=1).astype(float)
    heard, length = np.asarray(heard), 2 * len(mono)
    products = np.fft.irfft(np.fft.rfft(mono, length) * np.conj(np.fft.rfft(heard, length)))
    sums = np.concatenate([[0], np.cumsum(mono**2)])
    energies = sums[len(heard) :] - sums[: -len(heard)]
    place = int(np.argmin(energies - 2 * products[: len(energies)]))
    part = mono[place : place + len(heard)]
    return np.sqrt(np.mean((part - heard) ** 2) / max(np.mean(part**2), 1e-12))


def test_separate_listen_mix_and_download(page, written, tmp_path):
    drop(page, DEMO)
    found = card(page, DEMO.name)
    assert "separated by spleeter_2:grouped" in found.inner_text()
    found.get_by_role("button", name="Play", exact=True).click()
    wait(page, f"({POSITION})() > 0.5")
    # to the sample: a wrong start of one stem, or of a part, would be heard
    mixture = written["vocals"] + written["accompaniment"]
    assert error_of(page.evaluate(LISTEN), mixture) < 1e-3
    found.get_by_role("button", name="Mute vocals").click()
    assert error_of(page.evaluate(LISTEN), written["accompaniment"]) < 1e-3
    page.keyboard.press("1")  # solo
    assert error_of(page.evaluate(LISTEN), written["vocals"]) < 1e-3
    found.get_by_role("button", name="Solo vocals").click()
    found.get_by_role("slider", name="Volume of accompaniment").fill("0.5")
    assert error_of(page.evaluate(LISTEN), 0.5 * written["accompaniment"]) < 1e-3
    for link, expected in (
        ("this mix", 0.5 * written["accompaniment"]),
        ("vocals", written["vocals"]),
    ):
        with page.expect_download() as download:
            found.get_by_role("link", name=link, exact=True).click()
        path = tmp_path / f"{link}.wav"
        download.value.save_as(path)
        waveform, rate = soundfile.read(path)
        assert rate == RATE and np.abs(waveform - expected).max() < 1.01 / 32768
    assert download.value.suggested_filename == "lets-go-fishin - vocals.wav"


def test_seek_loop_and_keys(page):
    upload(page, DEMO)
    found = card(page, DEMO.name)
    wave = found.locator(".wave").first
    wave.scroll_into_view_if_needed()
    box = wave.bounding_box()
    seconds = page.evaluate("document.querySelector('.card').player.source.total() / 44100")
    wave.click(position={"x": box["width"] / 2, "y": 10})
    assert page.evaluate(POSITION) == pytest.approx(seconds / 2, abs=0.02)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(POSITION) == pytest.approx(seconds / 2 - 5, abs=0.02)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5 + 60, box["y"] + 12)
    page.mouse.up()
    first, end = page.evaluate("document.querySelector('.card').player.loop")
    assert end - first == pytest.approx(60 / box["width"] * seconds * RATE, abs=RATE * 0.05)
    page.keyboard.press(" ")
    places = []
    for _ in range(60):
        places.append(page.evaluate(POSITION))
        time.sleep(0.05)
    assert all(first / RATE - 0.01 <= place <= end / RATE + 0.01 for place in places)
    assert any(b < a for a, b in zip(places, places[1:], strict=False)), "it did not repeat"
    page.keyboard.press("Escape")
    assert page.evaluate("document.querySelector('.card').player.loop") is None
    page.keyboard.press(" ")
    assert page.evaluate("document.querySelector('.card').player.playing") is False
    page.keyboard.press("m")
    assert found.locator("[aria-label='Mute vocals']").get_attribute("aria-pressed") == "true"


def test_play_while_it_is_separated(page, mixture, tmp_path):
    upload(page, write_long(tmp_path / "long.wav", 0.25 * mixture, RATE, 240))
    found = card(page, "long.wav", "running")
    found.get_by_role("button", name="Play", exact=True).click(timeout=20_000)
    wait(page, f"({POSITION})() > 0.3")
    assert "running" in found.get_attribute("class")
    sounds = page.evaluate(LISTEN)
    assert np.abs(sounds).max() > 1e-3
    assert "of 4:00 separated" in found.inner_text()
    card(page, "long.wav", "done")
    assert page.evaluate("document.querySelector('.card').player.playing") is True


def test_cancel_errors_and_reload(page, mixture, tmp_path):
    (tmp_path / "text.mp3").write_text("no audio")
    upload(page, tmp_path / "text.mp3")
    text = card(page, "text.mp3", "failed").inner_text()
    assert "text.mp3 is not audio that ffmpeg can read" in text
    assert "text.mp3 is not audio" in page.locator("#status").inner_text()
    upload(page, write_long(tmp_path / "long.wav", 0.25 * mixture, RATE, 240), DEMO)
    card(page, "long.wav", "running").get_by_role("button", name="Cancel").click()
    wait(page, "!document.body.innerText.includes('long.wav\\n')")
    page.select_option("#codec", "mp3")
    page.select_option("#model", "spleeter_2:mask")
    card(page, DEMO.name)
    page.reload()
    found = card(page, DEMO.name)
    assert page.input_value("#codec") == "mp3" and page.input_value("#model") == "spleeter_2:mask"
    found.get_by_role("button", name="Open player").click()
    assert "codec=mp3" in found.get_by_role("link", name="this mix").get_attribute("href")
    found.get_by_role("button", name="Spectrograms").click()
    wait(page, "[...document.images].filter(i => i.naturalWidth == 1200).length == 2")
    found.get_by_role("button", name=f"Remove {DEMO.name}").click()
    found.wait_for(state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_everybody_can_use_it(page, width, scheme):
    """On a phone, in the dark, with a screen reader."""
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    upload(page, DEMO)
    card(page, DEMO.name).locator(".player").wait_for()
    widths = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    small = page.evaluate(
        "[...document.querySelectorAll('button, .download')].filter(e => e.offsetHeight"
        " && (e.offsetHeight < 24 || e.offsetWidth < 24)).map(e => e.textContent)"
    )
    assert small == []
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_a_rate_whose_quarter_is_no_whole_number(page, tmp_path, server):
    """The parts that are read begin at whole samples."""
    rate = 11_025
    waveform = np.random.default_rng(0).uniform(-0.3, 0.3, (6 * rate, 2))
    soundfile.write(tmp_path / "low.wav", waveform, rate, "FLOAT")
    upload(page, tmp_path / "low.wav")
    found = card(page, "low.wav")
    (song,) = server.ask("/api/songs").json
    assert song["seconds"] == 6
    page.evaluate(
        """async () => {
          const {player} = document.querySelector('.card:has(.player)');
          window.parts = [];
          const read = player.source.read.bind(player.source);
          player.source.read = async (stem, first, count) => {
            const channels = await read(stem, first, count);
            if (!stem) window.parts.push([first, count, ...channels.map((c) => [...c])]);
            return channels;
          };
        }"""
    )
    found.get_by_role("button", name="Play", exact=True).click()
    wait(page, f"({POSITION})() > 1.2")
    stem = server.ask(f"/api/songs/{song['id']}/stems/{song['instruments'][0]}").body
    samples = floats(stem, 2, song["data_offset"])
    end = 0
    for first, count, *channels in page.evaluate("window.parts"):
        assert first == end and count == len(channels[0])
        end = first + count
        assert np.array_equal(np.float32(channels).T, samples[first:end])
    assert end > rate


def test_names_are_text(page, tmp_path):
    names = ["<img src=x onerror=alert(1)>.wav", "&amp; \N{MUSICAL NOTE} " + "w" * 150 + ".wav"]
    for name in names:
        (tmp_path / name).write_text("no audio")
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, *(tmp_path / name for name in names))
    for name in names:
        card(page, name, "failed")
    assert page.locator(".card img").count() == 0
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_many_songs_and_one_that_is_too_large(page, tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.mp3").write_text("no audio")
    page.evaluate("mostBytes = 20")
    (tmp_path / "large.mp3").write_text("large" * 10)
    upload(page, tmp_path / "large.mp3", *(tmp_path / f"{number}.mp3" for number in range(30)))
    found = page.locator(".card.failed", has=page.get_by_role("heading", name="large.mp3"))
    assert "larger than" in found.locator(".state").inner_text()
    wait(page, "document.querySelectorAll('.card.failed').length == 31")


def test_a_song_that_goes_while_it_plays(browser, server):
    page = browser.new_page()  # without ``page``'s check: the browser logs a read that is too late
    page.goto(server.address)
    wait(page, "document.querySelector('#model').options.length > 3")
    upload(page, DEMO)
    found = card(page, DEMO.name)
    found.get_by_role("button", name="Play", exact=True).click()
    wait(page, f"({POSITION})() > 0.2")
    (song,) = server.ask("/api/songs").json
    server.ask(f"/api/songs/{song['id']}", "DELETE")
    found.wait_for(state="detached")
    assert page.evaluate("active") is None and page.locator("#none").is_visible()
    page.close()


def test_a_server_that_ends_and_begins_again(browser, tmp_path):
    """The page says so, and goes on with the next server at the same address."""
    with Server("--folder", tmp_path) as server:
        page = browser.new_page()
        page.goto(server.address)
        wait(page, "document.querySelector('#model').options.length > 3")
        upload(page, DEMO)
        found = card(page, DEMO.name)
        server.stop()
        wait(page, "document.querySelector('#status').textContent.includes('does not answer')")
        found.get_by_role("button", name=f"Remove {DEMO.name}").click()
        upload(page, DEMO)
        wait(page, "document.querySelectorAll('.card.failed').length == 1")
        assert "does not answer" in page.locator(".card.failed .state").inner_text()
        assert found.is_visible()  # it is not removed
    with Server("--folder", tmp_path, port=server.port) as server:
        wait(page, "!document.querySelector('#status').textContent.includes('does not answer')")
        found.get_by_role("button", name=f"Remove {DEMO.name}").click()
        found.wait_for(state="detached")
        assert server.ask("/api/songs").json == []
        page.close()
