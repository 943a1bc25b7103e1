"""The server over HTTP, in a process of its own."""

import io
import json
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from support.common import RATE, files_below
from support.web import Server, floats, multipart, write_long

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server("--folder", tmp_path_factory.mktemp("web") / "songs") as server:
        yield server


@pytest.fixture(scope="module")
def done(server, song):
    """A song that is separated."""
    made = server.send(song.read_bytes(), name="Söng.wav", shifts=1)
    made = server.wait(made["id"])
    assert made["state"] == "done", made
    return made


@pytest.fixture(scope="module")
def expected(song, tmp_path_factory):
    """What ``spleeter separate`` writes of the song, by options."""

    def separate(*arguments: str) -> Path:
        folder = tmp_path_factory.mktemp("expected")
        command = [sys.executable, "-m", "spleeter_2", "separate", "-o", folder, song]
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        return folder / song.stem

    return separate


@pytest.fixture(scope="module")
def long_song(mixture, tmp_path_factory):
    """100 s, several windows."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    return write_long(path, 0.25 * mixture, RATE, 100).read_bytes()


def test_a_song_and_its_stems(server, done, song):
    assert done["name"] == "Söng.wav"
    assert done["instruments"] == ["vocals", "accompaniment"]
    assert done["model"] == "spleeter_2:grouped" and done["error"] == ""
    assert done["seconds"] == done["ready"] == 2.0
    assert (done["sample_rate"], done["nb_channels"]) == (RATE, 2)
    assert done["finished"] >= done["created"]
    assert done in server.ask("/api/songs").json
    source, _ = soundfile.read(song, dtype="float32")
    total = 0
    for name in done["instruments"]:
        answer = server.ask(f"/api/songs/{done['id']}/stems/{name}")
        assert answer.status == 200 and answer.headers["Content-Type"] == "audio/wav"
        assert int(answer.headers["Content-Length"]) == len(answer.body)
        stem, rate = soundfile.read(io.BytesIO(answer.body), dtype="float32")
        assert rate == RATE and stem.shape == source.shape
        assert np.array_equal(floats(answer.body, 2, done["data_offset"]), stem)
        total = total + stem
    assert np.abs(total - source).max() < 1e-6


@pytest.mark.parametrize(
    "options", [("wav", "16"), ("wav", "24"), ("wav", "32f"), ("flac", "24")], ids="-".join
)
def test_downloads_equal_the_commands_files(server, done, expected, options):
    codec, bits = options
    folder = expected("-c", codec, "--bits", bits)
    for name in done["instruments"]:
        answer = server.ask(f"/api/songs/{done['id']}/stems/{name}?codec={codec}&bits={bits}")
        assert answer.status == 200
        path = folder / f"{name}.{codec}"
        ours, _ = soundfile.read(io.BytesIO(answer.body))
        theirs, _ = soundfile.read(path)
        assert np.array_equal(ours, theirs)
        assert quote(f"Söng - {name}.{codec}") in answer.headers["Content-Disposition"]


def test_an_archive_of_all_stems(server, done, expected):
    folder = expected()
    answer = server.ask(f"/api/songs/{done['id']}/stems.zip")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["Söng/vocals.wav", "Söng/accompaniment.wav"]
        for name in archive.namelist():
            ours, _ = soundfile.read(io.BytesIO(archive.read(name)), dtype="int16")
            theirs, _ = soundfile.read(folder / Path(name).name, dtype="int16")
            assert np.array_equal(ours, theirs)


def test_a_mix_has_the_gains(server, done):
    path = f"/api/songs/{done['id']}"
    stems = [
        floats(server.ask(f"{path}/stems/{name}").body, 2, done["data_offset"])
        for name in done["instruments"]
    ]
    for gains, expected in (
        ("vocals:0.25,accompaniment:0", 0.25 * stems[0]),
        ("vocals:0", stems[1]),
        ("", stems[0] + stems[1]),
    ):
        answer = server.ask(f"{path}/mix?gains={gains}&codec=wav&bits=32f")
        mix, _ = soundfile.read(io.BytesIO(answer.body), dtype="float32")
        assert np.abs(mix - expected).max() < 1e-6, gains
    for codec in ("mp3", "ogg", "m4a", "flac"):
        answer = server.ask(f"{path}/mix?codec={codec}")
        assert answer.status == 200 and len(answer.body) > 10_000, codec


def test_ranges(server, done):
    path = f"/api/songs/{done['id']}/stems/vocals"
    whole = server.ask(path).body
    size = len(whole)
    for asked, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=10-99999999", 10, size - 1),
        (f"bytes={size - 1}-", size - 1, size - 1),
        ("bytes=50-200", 50, 200),  # header and samples
        ("bytes=-7", size - 7, size - 1),
    ):
        answer = server.ask(path, headers={"Range": asked})
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert answer.body == whole[first : last + 1], asked
    for asked in (f"bytes={size}-", "bytes=9-5", "bytes=-0"):
        answer = server.ask(path, headers={"Range": asked})
        assert answer.status == 416 and answer.headers["Content-Range"] == f"bytes */{size}"
    for asked in ("bytes=0-1,5-9", "samples=0-5", "bytes=-", "bytes=x-"):
        answer = server.ask(path, headers={"Range": asked})
        assert answer.status == 200 and answer.body == whole, asked
    answer = server.ask(path, "HEAD")
    assert answer.status == 200 and int(answer.headers["Content-Length"]) == size


def test_a_stem_grows_while_it_is_sent(server, long_song):
    made = server.send(long_song, name="long.wav")
    path = f"/api/songs/{made['id']}"
    first = next(song for song in server.watch(made["id"]) if song["ready"])
    assert first["state"] == "running" and 0 < first["ready"] < 100 and first["seconds"] == 100
    offset = first["data_offset"]
    part = server.ask(f"{path}/stems/vocals", headers={"Range": f"bytes={offset}-"})
    assert part.status == 206 and part.headers["Content-Range"].endswith("/*")
    beyond = server.ask(f"{path}/stems/vocals", headers={"Range": "bytes=99999999999-"})
    assert beyond.status == 416
    whole = server.ask(f"{path}/stems/vocals")  # to the end
    assert "Content-Length" not in whole.headers
    song = server.wait(made["id"])
    assert song["state"] == "done" and song["ready"] == 100
    samples = floats(whole.body, 2, offset)
    assert len(samples) == 100 * RATE
    assert whole.body[offset:].startswith(part.body[: len(part.body)])
    again = server.ask(f"{path}/stems/vocals")
    assert np.array_equal(floats(again.body, 2, offset), samples)
    peaks = server.ask(f"{path}/peaks?bins=100").json
    per_second = np.abs(samples).max(axis=1).reshape(100, RATE).max(axis=1)
    assert len(peaks["vocals"]) == 100
    assert np.abs(np.array(peaks["vocals"]) / 255 - per_second).max() < 0.03
    server.ask(path, "DELETE")


def test_events_of_a_song(server, song):
    made = server.send(song.read_bytes(), name="events.wav")
    answer = server.ask(f"/api/songs/{made['id']}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line]
    assert all(event["ids"] == [made["id"]] for event in events)
    assert events[-1]["songs"][0]["state"] == "done"
    server.ask(f"/api/songs/{made['id']}", "DELETE")


def test_multipart_and_raw_bodies(server, song):
    body, headers = multipart("my song.WAV", song.read_bytes())
    answer = server.ask("/api/songs?model=spleeter_2:mask&stems=vocals", "POST", body, headers)
    assert answer.status == 201 and answer.json["name"] == "my song.WAV"
    made = server.wait(answer.json["id"])
    assert made["state"] == "done" and made["instruments"] == ["vocals"]
    assert made["model"] == "spleeter_2:mask"
    server.ask(f"/api/songs/{made['id']}", "DELETE")


def test_models(server):
    answer = server.ask("/api/models").json
    names = [model["name"] for model in answer["models"]]
    assert names[0] == "spleeter_2:grouped" and "spleeter:4stems" in names
    assert "lasaft" not in str(names)  # an architecture without weights
    by_name = {model["name"]: model for model in answer["models"]}
    assert by_name["spleeter:5stems"]["instruments"][-1] == "other"
    assert by_name["spleeter_2:mask"]["is_here"] is True
    assert answer["codecs"]["wav"] == ["16", "24", "32f"] and answer["codecs"]["mp3"] == []


def test_a_spectrogram(server, done):
    answer = server.ask(f"/api/songs/{done['id']}/stems/vocals/spectrogram")
    assert answer.headers["Content-Type"] == "image/png"
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert picture.shape[2] == 3 and len(np.unique(picture)) > 100


@pytest.mark.parametrize(
    "query, sentence",
    [
        ("model=spleeter_2:nothing", "there is no model spleeter_2:nothing"),
        ("model=/etc/passwd", "there is no model /etc/passwd"),
        ("stems=drums", "separates vocals, accompaniment; not drums"),
        ("overlap=0.9", "the overlap must be a number between 0 and 0.5, not 0.9"),
        ("overlap=much", "overlap must be a number, not much"),
        ("overlap=nan", "overlap must be a number"),
        ("shifts=0", "shifts must be a whole number between 1 and 16, not 0"),
        ("shifts=1.5", "shifts must be a whole number"),
    ],
)
def test_wrong_options(server, song, query, sentence):
    answer = server.ask(f"/api/songs?{query}", "POST", song.read_bytes())
    assert answer.status == 400 and sentence in answer.error, answer.body


@pytest.mark.parametrize(
    "path, status, sentence",
    [
        ("stems/drums", 404, "has no stem drums"),
        ("stems/..%2f..%2fsong.json", 404, ""),
        ("stems/vocals?codec=aiff", 400, "the codec must be one of"),
        ("stems/vocals?codec=mp3&bits=24", 400, "mp3 cannot hold"),
        ("mix?gains=drums:1", 400, "gains must be like vocals:0.5"),
        ("mix?gains=vocals:-1", 400, "gains must be"),
        ("mix?gains=vocals:nan", 400, "gains must be"),
        ("mix?gains=vocals", 400, "gains must be"),
        ("mix?bitrate=fast&codec=mp3", 400, "--bitrate must be a number"),
        ("peaks?bins=0", 400, "bins must be a whole number between 1 and 4000"),
        ("nothing", 404, "GET /api/songs/"),
    ],
)
def test_wrong_requests(server, done, path, status, sentence):
    answer = server.ask(f"/api/songs/{done['id']}/{path}")
    assert answer.status == status and sentence in answer.error, answer.body


def test_unknown_songs_and_methods(server):
    for path in ("/api/songs/0123456789abcdef", "/api/songs/..", "/api/songs/%2e%2e/peaks"):
        assert server.ask(path).status == 404
    assert server.ask("/api/songs", "PUT", b"").status == 405
    assert server.ask("/static/../application.py").status == 404
    assert server.ask("/static/%2e%2e/application.py").status == 404


def test_what_is_no_song(server):
    for body, headers, sentence in (
        (b"", {}, "the upload holds no file"),
        (b"x", {"Content-Type": "multipart/form-data"}, "has no boundary"),
        (b"garbage", {"Content-Type": "multipart/form-data; boundary=b"}, "multipart/form-data"),
        (multipart("empty.wav", b"")[0], multipart("", b"")[1], "holds no file, or an empty one"),
    ):
        answer = server.ask("/api/songs", "POST", body, headers)
        assert answer.status == 400 and sentence in answer.error, answer.body
    made = server.send(b"no audio at all", name="text.mp3")
    song = server.wait(made["id"])
    assert song["state"] == "failed"
    assert song["error"].startswith("text.mp3 is not audio that ffmpeg can read: ")
    assert server.ask(f"/api/songs/{made['id']}/stems/vocals").status == 409
    assert server.ask(f"/api/songs/{made['id']}", "DELETE").status == 204


def test_names_never_become_paths(server, song):
    name = "../../..\\evil\n<script>.wav"
    body, headers = multipart("../x", song.read_bytes())
    made = server.send(song.read_bytes(), name=name)
    assert made["name"] == "evil <script>.wav"
    made = server.wait(made["id"])
    with zipfile.ZipFile(
        io.BytesIO(server.ask(f"/api/songs/{made['id']}/stems.zip").body)
    ) as archive:
        assert archive.namelist()[0] == "evil _script_/vocals.wav"
    answer = server.ask("/api/songs", "POST", body, headers)
    assert answer.json["name"] == "x"
    for identifier in (made["id"], answer.json["id"]):
        server.ask(f"/api/songs/{identifier}", "DELETE")


def test_a_running_song_is_cancelled(server, long_song):
    made = server.send(long_song, name="long.wav")
    next(song for song in server.watch(made["id"]) if song["ready"])
    assert server.ask(f"/api/songs/{made['id']}", "DELETE").status == 204
    assert server.ask(f"/api/songs/{made['id']}").status == 404
    after = server.send(long_song[:1_000_000], name="next.wav")  # cut short
    assert server.wait(after["id"])["state"] == "done"
    server.ask(f"/api/songs/{after['id']}", "DELETE")


def test_ctrl_c_and_the_next_server(song, long_song, tmp_path):
    """Finished songs stay, the one in work begins anew."""
    with Server("--folder", tmp_path) as server:
        kept = server.wait(server.send(song.read_bytes(), name="kept.wav")["id"])
        begun = server.send(long_song, name="begun.wav")
        next(song for song in server.watch(begun["id"]) if song["ready"])
        status, messages = server.stop(signal.SIGINT)
    assert status == 130 and "interrupted" in messages and "Traceback" not in messages
    assert files_below(tmp_path / begun["id"]) == ["song.json", "source.wav"]
    with Server("--folder", tmp_path) as server:
        assert server.ask("/api/songs").json[0] == kept
        assert server.wait(begun["id"])["state"] == "done"
        stem = server.ask(f"/api/songs/{begun['id']}/stems/vocals")
        assert len(floats(stem.body, 2, begun["data_offset"])) == 100 * RATE
        with pytest.raises(RuntimeError, match="another server uses"):
            Server("--folder", tmp_path)
        assert server.stop(signal.SIGTERM)[0] == 143


def test_a_killed_server(long_song, tmp_path):
    with Server("--folder", tmp_path) as server:
        made = server.send(long_song, name="begun.wav")
        next(song for song in server.watch(made["id"]) if song["ready"])
        (tmp_path / "uploads/rest").write_bytes(b"of an upload")
        server.stop(signal.SIGKILL)
    with Server("--folder", tmp_path) as server:
        assert server.wait(made["id"])["state"] == "done"
        assert files_below(tmp_path / "uploads") == []


def test_limits(song, tmp_path):
    with Server("--folder", tmp_path, "--max-songs", 2, "--max-size", 1) as server:
        answer = server.ask("/api/songs", "POST", bytes(1_000_001))
        assert answer.status == 413 and "larger than 1 MB" in answer.error
        chunks = (bytes(100_000) for _ in range(11))  # without a length
        answer = server.ask("/api/songs", "POST", chunks)
        assert answer.status == 413
        for _ in range(2):
            server.send(song.read_bytes(), name="song.wav")
        answer = server.ask("/api/songs", "POST", song.read_bytes())
        assert answer.status == 507 and "2 songs are here" in answer.error
        assert files_below(tmp_path / "uploads") == []


def test_a_song_to_begin_with(song, tmp_path):
    with Server("--folder", tmp_path, "--open", song, "-p", "spleeter_2:mask") as server:
        (made,) = server.ask("/api/songs").json
        assert made["name"] == song.name and made["model"] == "spleeter_2:mask"
        assert server.wait(made["id"])["state"] == "done"
    assert song.is_file()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--port", "70000"], "--port must be between 0 and 65535"),
        (["--host", "0.0.0.0"], "give a --token"),
        (["--token", "short"], "--token must have 8 or more"),
        (["--keep", "0"], "--keep must be positive"),
        (["--max-songs", "0"], "--max-songs must be 1 or more"),
        (["--open", "nothing.mp3"], "there is no file nothing.mp3"),
        (["-p", "spleeter_2:lasaft"], "has no weights"),
        (["--host", "192.0.2.1", "--token", "long-enough"], "cannot listen at 192.0.2.1"),
    ],
)
def test_wrong_arguments(spleeter, tmp_path, arguments, sentence):
    status, messages = spleeter("web", "--no-browser", "--folder", tmp_path, *arguments)
    assert status == 1 and sentence in messages and "Traceback" not in messages
    assert files_below(tmp_path / "uploads") == []


def test_a_port_that_is_taken(server, spleeter, tmp_path):
    status, messages = spleeter("web", "--port", server.port, "--folder", tmp_path)
    assert status == 1 and "name another --port, or 0 for any" in messages


def test_the_documented_programs(server, song, tmp_path):
    """The blocks of docs/web.md, as they stand."""
    text = (REPOSITORY / "docs/web.md").read_text("utf-8")
    text = text.replace("http://127.0.0.1:8765", f"http://127.0.0.1:{server.port}")
    (tmp_path / "song.wav").write_bytes(song.read_bytes())
    shell = re.search(r"With curl:\n\n```bash\n(.+?)```", text, re.S)[1]
    python = re.search(r"```python\n(.+?)```", text, re.S)[1]
    subprocess.run(["bash", "-euc", shell], cwd=tmp_path, check=True)
    assert "done" in (tmp_path / "events.txt").read_text()
    for name, seconds in (("vocals.flac", 2.0), ("karaoke.mp3", 2.0)):
        assert soundfile.info(tmp_path / name).duration == pytest.approx(seconds, abs=0.1)
    subprocess.run([sys.executable, "-c", python], cwd=tmp_path, check=True)
    stem = (tmp_path / "vocals.wav").read_bytes()
    assert len(stem) > 2 * RATE * 8
