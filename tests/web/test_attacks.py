"""Broken, hostile and hasty clients: each has a defined answer, and no traceback is printed."""

import io
import signal
import threading
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
from support.common import RATE, files_below
from support.web import Server, multipart, until, write_long

from spleeter_2.web.library import MARK

DIGITS = b"9" * 5000
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
FILE = b'--b\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n%s\r\n%s\r\n'


def request(target, method="GET", headers=b"", body=None):
    """A request as bytes; ``Connection: close`` ends the answer."""
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    head = f"{method} {target} HTTP/1.1\r\nHost: ".encode() + b"HOST\r\nConnection: close\r\n"
    return head + length + headers + b"\r\n" + (body or b"")


def answer(server, data):
    """Status and the rest of an answer to bytes."""
    with server.open(data) as connection:
        content = connection.makefile("rb").read()
    return int(content.split(maxsplit=2)[1]), content.partition(b"\r\n\r\n")[2].decode()


def together(number, function):
    """Call a function with 0 to ``number`` - 1 in as many threads; return the results."""
    results = []
    threads = [
        threading.Thread(target=lambda index=index: results.append(function(index)))
        for index in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def wav(samples, rate=RATE):
    """A WAV file of 32-bit floats."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, "FLOAT", format="WAV")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # below a link: messages of ffmpeg have the real path
    folder = tmp_path_factory.mktemp("web")
    (folder / "link").symlink_to(folder)
    with Server("--folder", folder / "link/songs") as server:
        server.folder = folder / "songs"
        yield server
        _, messages = server.stop()
    assert "Traceback" not in messages and "Error" not in messages, messages
    for line in messages.splitlines():
        assert line.startswith("spleeter: "), line
        assert "/songs/" not in line, line


@pytest.fixture(scope="module")
def done(server, song):
    made = server.wait(server.send(song.read_bytes(), name="done.wav")["id"])
    assert made["state"] == "done"
    return made


@pytest.fixture(scope="module")
def long_song(mixture, tmp_path_factory):
    """200 s, many windows."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    return write_long(path, 0.25 * mixture, RATE, 200).read_bytes()


@pytest.mark.parametrize(
    "data, status, words",
    [
        (request("/api/songs", headers=b"Origin: http://[\r\n"), 403, "another site"),
        (request("/api/songs", headers=b"Origin: \xff\r\n"), 403, "another site"),
        (request("/static/%00"), 404, "Not Found"),
        (request("/static/..%2f..%2ferrors.py"), 404, "Not Found"),
        (request("/", headers=b"Range: bytes=" + b"0-," * 15000 + b"\r\n"), 200, "</html>"),
        (request("/api/songs", "OPTIONS"), 405, "Method Not Allowed"),
        (request("/api/events", "HEAD"), 200, ""),
        (b"\x16\x03\x01\x02\x00", 400, "Invalid HTTP request"),
        (request("/api/songs", "POST", b"Content-Length: -5\r\n"), 400, "Invalid HTTP"),
        (request("/api/songs", "POST", b"Content-Length: " + DIGITS + b"\r\n"), 400, "Invalid"),
        (request("/api/songs", "POST", b"Content-Length: 99999999999\r\n"), 413, "larger than"),
        (
            request("/api/songs", "POST", b"Transfer-Encoding: chunked\r\n") + b"zz\r\n",
            400,
            "Invalid HTTP request",
        ),
        (request("/api/songs", "POST", b"Content-Encoding: gzip\r\n", b"x"), 415, "compressed"),
        (request(f"/api/songs?shifts={'9' * 5000}", "POST", body=b"x"), 400, "not inf"),
        (request(f"/api/songs?overlap={'x' * 5000}", "POST", body=b"x"), 400, "xxx..."),
        (request("/api/songs?model=a%0d%0ab", "POST", body=b"x"), 400, "no model a  b:"),
        (request("/api/songs", "POST", FORM, b"--b--\r\n"), 400, "holds no file"),
        (request("/api/songs", "POST", FORM, FILE % (b"x", b"", b"x") * 500), 201, '"x"'),
        (request("/api/songs", "POST", FORM, (FILE % (b"x", b"", b"x"))[:-2]), 400, "cut short"),
        (
            request("/api/songs", "POST", FORM, FILE % (b"x", b"X: " + b"y" * 20000, b"x")),
            400,
            "not multipart/form-data",
        ),
        (
            request("/api/songs", "POST", FORM.replace(b"=b", b"=" + DIGITS), b"x"),
            400,
            "not multipart/form-data",
        ),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else str(value)[:20],
)
def test_broken_requests(server, data, status, words):
    found, content = answer(server, data)
    assert found == status and words in content
    assert len(content) < 2000 or status == 200
    assert files_below(server.folder / "uploads") == []


def test_broken_ranges(server, done):
    path = f"/api/songs/{done['id']}/stems/vocals"
    size = 80 + 2 * RATE * 8
    for asked, status in (
        (b"bytes=" + DIGITS + b"-", 416),
        (b"bytes=0-" + DIGITS, 206),
        (b"bytes=-" + DIGITS, 206),
        (b"bytes=--5", 200),
    ):
        found = server.ask(path, headers={"Range": asked.decode()})
        assert found.status == status
        assert status == 416 or len(found.body) == size


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a\r\nSet-Cookie: x.wav", "a  Set-Cookie: x.wav"),
        ('"quoted".wav', '"quoted".wav'),
        ("\N{MUSICAL NOTE}" * 3000 + ".wav", "\N{MUSICAL NOTE}" * 196 + ".wav"),
        (b"no UTF-8 \xff\xed\xa0\x80.wav", "no UTF-8 \ufffd\ufffd\ufffd\ufffd.wav"),
        ("\u202ewav.exe\x1b[2J", " wav.exe [2J"),
    ],
)
def test_strange_names(server, name, expected):
    made = server.send(b"no audio", name=name)
    assert made["name"] == expected.strip()
    failed = server.wait(made["id"])
    assert failed["error"].startswith(f"{expected.strip()} is not audio that ffmpeg can read: ")
    assert str(server.folder) not in failed["error"]
    server.ask(f"/api/songs/{made['id']}", "DELETE")


def test_a_name_in_a_header(server):
    """A name that would end the name in a header."""
    body, headers = multipart('a\\";b=\U0001f3b5.wav', wav(np.full((500, 2), 0.1)))
    made = server.ask("/api/songs", "POST", body, headers).json
    server.wait(made["id"])
    found = server.ask(f"/api/songs/{made['id']}/mix").headers["Content-Disposition"]
    plain, encoded = found.split("; ")[1:]
    assert plain.count('"') == 2 and encoded.startswith("filename*=UTF-8''")
    assert "%F0%9F%8E%B5" in encoded
    server.ask(f"/api/songs/{made['id']}", "DELETE")


def test_a_large_field_is_not_held_in_memory(server):
    body = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + bytes(60_000_000)
    before = server.memory()
    assert answer(server, request("/api/songs", "POST", FORM, body))[0] == 400
    assert server.memory() < before + 20e6


@pytest.mark.parametrize("rate, length", [(100, 1), (192_000, 9600)])
def test_songs_of_any_rate_and_length(server, rate, length):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (length, 2)).astype("f4")
    made = server.wait(server.send(wav(samples, rate), name="odd.wav")["id"])
    assert made["state"] == "done", made["error"]
    assert made["ready"] * rate == pytest.approx(length, abs=0.2)  # to the sample
    for path in ("peaks", "stems/vocals/spectrogram", "mix", "stems.zip"):
        assert server.ask(f"/api/songs/{made['id']}/{path}").status == 200
    server.ask(f"/api/songs/{made['id']}", "DELETE")


def test_songs_that_cannot_be_separated(server):
    bad = np.zeros((RATE, 2), "f4")
    bad[100] = np.nan
    for body, words in (
        (wav(np.zeros((0, 2))), "song holds no samples"),
        (wav(bad), "song holds NaN or infinity at 0.002 s"),
        (b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:1/x.ts\n", "is not audio"),
    ):
        made = server.wait(server.send(body, name="song")["id"])
        assert made["state"] == "failed" and words in made["error"]
        server.ask(f"/api/songs/{made['id']}", "DELETE")


def test_clients_that_go(server, done, long_song):
    """No file stays open or on the disk, and no thread is kept busy."""
    made = server.send(long_song, name="long.wav")
    next(song for song in server.watch(made["id"]) if song["ready"])
    before = server.descriptors()
    for target in (f"{made['id']}/stems/vocals", f"{done['id']}/stems.zip", f"{made['id']}/events"):
        for _ in range(50):
            with server.open(request(f"/api/songs/{target}")) as connection:
                if "zip" not in target:
                    connection.recv(100)
    with server.open(request("/api/songs", "POST", b"Content-Length: 1000\r\n") + b"begun"):
        pass
    until(lambda: server.descriptors() <= before and not files_below(server.folder / "uploads"))
    # a download of a song that is removed ends without its last part
    with server.open(request(f"/api/songs/{made['id']}/stems/vocals")) as connection:
        connection.recv(100)
        assert server.ask(f"/api/songs/{made['id']}", "DELETE").status == 204
        assert not connection.makefile("rb").read().endswith(b"0\r\n\r\n")
    until(lambda: not (server.folder / made["id"]).exists())


def test_removals_at_any_time(server, song):
    for seconds in (0, 0.1, 0.3, 0.6):
        made = server.send(song.read_bytes(), name="gone.wav")
        time.sleep(seconds)
        path = f"/api/songs/{made['id']}"
        results = together(3, lambda _, path=path: server.ask(path, "DELETE").status)
        assert 204 in results and set(results) <= {204, 404}
        folder = server.folder / made["id"]
        until(lambda folder=folder: not folder.exists())


def test_many_downloads_and_a_removal(server, song):
    """Others are answered meanwhile; downloads are whole, or the song is gone."""
    made = server.wait(server.send(song.read_bytes(), name="busy.wav")["id"])
    path = f"/api/songs/{made['id']}"
    kinds = ("stems.zip?codec=mp3", "mix?codec=ogg", "stems/vocals/spectrogram", "stems/vocals")

    def download(index):
        if index == 45:
            time.sleep(0.5)
            start = time.monotonic()
            assert server.ask("/api/models").status == 200
            assert time.monotonic() - start < 2
            return server.ask(path, "DELETE").status
        found = server.ask(f"{path}/{kinds[index % 4]}")
        words = ("busy.wav is removed", "there is no such song")
        assert found.status == 200 or found.error.startswith(words)
        return found.status

    results = Counter(together(46, download))
    assert results[204] == 1 and set(results) <= {200, 204, 404} and sum(results.values()) == 46
    until(lambda: not files_below(server.folder / "uploads"))


def test_a_hundred_uploads_at_once(tmp_path):
    with Server("--folder", tmp_path, "--max-songs", 90) as server:
        path = "/api/songs?model=spleeter_2:mask"
        results = Counter(together(100, lambda _: server.ask(path, "POST", b"no audio").status))
        assert results == {201: 90, 507: 10}
        assert files_below(tmp_path / "uploads") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_all_is_open(long_song, tmp_path, number):
    """Streams, an upload and a connection without a request end soon; the next server goes on."""
    with Server("--folder", tmp_path) as server:
        made = server.send(long_song, name="long.wav")
        next(song for song in server.watch(made["id"]) if song["ready"])
        targets = ["/api/events"] * 30 + [f"/api/songs/{made['id']}/stems/vocals"] * 5
        connections = [server.open(request(target)) for target in targets]
        connections.append(server.open(request("/api/songs", "POST", b"Content-Length: 9999\r\n")))
        connections.append(server.open(b"GET / HTTP"))
        connections[0].recv(100)
        start = time.monotonic()
        status, messages = server.stop(number)
        assert time.monotonic() - start < 8  # of a machine that is busy; 3 s and a window
        assert status == 128 + number and "interrupted" in messages and "Traceback" not in messages
        for connection in connections:
            connection.close()
    left = [f"{made['id']}/song.json", f"{made['id']}/source.wav"]
    assert files_below(tmp_path) == [".lock", MARK, *left]


@pytest.mark.slow
def test_slow_clients(song, tmp_path):
    """An upload that pauses, and a connection without a request."""
    statements = (
        "import spleeter_2.web.server as server, spleeter_2.web.uploads as uploads\n"
        "server.HEAD, uploads.IDLE = 1.0, 1.0"
    )
    with Server("--folder", tmp_path, statements=statements) as server:
        with server.open(b"GET / HT") as silent:
            status, content = answer(
                server, request("/api/songs", "POST", FORM + b"Content-Length: 9\r\n")
            )
            assert status == 408 and "paused" in content
            assert silent.recv(10) == b""
        assert files_below(tmp_path / "uploads") == []
        assert server.wait(server.send(song.read_bytes(), name="song.wav")["id"])["state"] == "done"


@pytest.mark.slow
def test_a_full_disk(song, tmp_path):
    """Nothing half-written stays, and the server goes on."""
    statements = (
        "import errno, builtins, io\n"
        "import spleeter_2.web.songs as songs, spleeter_2.web.uploads as uploads\n"
        "class Full(io.FileIO):\n"
        "    def write(self, data):\n"
        "        if self.tell() + len(data) > 300_000: raise OSError(errno.ENOSPC, 'full')\n"
        "        return super().write(data)\n"
        "def limited(path, mode, **options): return Full(path, mode)\n"
        "songs.open = uploads.open = limited\n"
    )
    with Server("--folder", tmp_path, statements=statements) as server:
        found = server.ask("/api/songs", "POST", bytes(400_000))
        assert found.status == 507
        assert found.error == "cannot write the upload: the disk is full, free some space"
        made = server.send(song.read_bytes()[:250_000], name="song.wav")
        failed = server.wait(made["id"])
        assert (
            failed["error"] == "cannot write the server's files: the disk is full, free some space"
        )
        assert files_below(tmp_path) == [".lock", MARK, f"{made['id']}/song.json"]
        assert "Traceback" not in server.stop()[1]


def test_a_folder_that_vanishes(song, tmp_path):
    folder = tmp_path / "songs"
    with Server("--folder", folder) as server:
        made = server.wait(server.send(song.read_bytes(), name="song.wav")["id"])
        path = f"/api/songs/{made['id']}"
        folder.rename(tmp_path / "moved")
        for target, method, status in (
            ("/api/songs", "POST", 507),
            (f"{path}/mix", "GET", 507),
            (f"{path}/stems/vocals", "GET", 404),
            (f"{path}/stems/vocals/spectrogram", "GET", 410),
            (f"{path}/peaks", "GET", 200),
        ):
            found = server.ask(target, method, b"x" if method == "POST" else None)
            assert found.status == status and str(tmp_path).encode() not in found.body, target
        (tmp_path / "moved").rename(folder)
        for name in made["instruments"]:
            assert server.ask(f"{path}/stems/{name}").status == 200
        assert server.ask(path, "DELETE").status == 204
        assert "Traceback" not in server.stop()[1]


@pytest.mark.slow
def test_files_of_a_song_that_vanish(song, long_song, tmp_path):
    with Server("--folder", tmp_path) as server:
        made = server.send(long_song[:10_000_000], name="long.wav")
        next(each for each in server.watch(made["id"]) if each["ready"])
        for path in (tmp_path / made["id"]).iterdir():
            path.unlink()
        failed = server.wait(made["id"])
        assert failed["error"] == "long.wav was removed from the disk during its separation"
        assert server.wait(server.send(song.read_bytes(), name="song.wav")["id"])["state"] == "done"


@pytest.mark.slow
def test_memory_over_many_requests(server, done):
    def ask(nb_rounds):
        path = f"/api/songs/{done['id']}"
        for _ in range(nb_rounds):
            for target in ("stems/vocals", "peaks?bins=4000", "mix"):
                assert server.ask(f"{path}/{target}").status == 200
            assert server.ask("/api/songs?shifts=0", "POST", b"x").status == 400
            assert server.ask("/api/songs", "POST", b"").status == 400
        return server.memory()

    first = ask(8)
    assert ask(16) < first + 15e6


@pytest.mark.slow
def test_weights_that_cannot_be_fetched(song, tmp_path):
    """The song has the sentence, and the next one is separated."""
    statements = (
        "import os\n"
        "os.environ['HTTPS_PROXY'] = os.environ['https_proxy'] = 'http://127.0.0.1:1'\n"
        f"os.environ['XDG_CACHE_HOME'] = os.environ['MODEL_PATH'] = {str(tmp_path / 'cache')!r}"
    )
    with Server("--folder", tmp_path / "songs", statements=statements) as server:
        first = server.send(song.read_bytes(), name="first.wav", model="spleeter:4stems")
        second = server.send(song.read_bytes(), name="second.wav")
        assert "cannot fetch the model 4stems" in server.wait(first["id"])["error"]
        assert server.wait(second["id"])["state"] == "done"
        assert "Traceback" not in server.stop()[1]
