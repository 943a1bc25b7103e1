"""Many songs: the manifest, the table of results, URLs, and processes of a cluster."""

import csv
import functools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.common import RATE, files_below
from support.executor import cluster_of, until

from spleeter_2.audio.codecs import Encoding
from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import ModelError, SeparationError
from spleeter_2.executor import Failure
from spleeter_2.separation import batch, remote
from spleeter_2.separation import song as song_module
from spleeter_2.separation.manifest import Manifest
from spleeter_2.separation.paths import Job, plan_outputs
from spleeter_2.separation.song import (
    Outcome,
    Settings,
    Task,
    digest_of,
    model_digest,
    separate_in_worker,
)
from spleeter_2.separation.table import COLUMNS, Table, is_done

STEMS = ["accompaniment.wav", "vocals.wav"]
MODEL = ("tiny", ("vocals", "accompaniment"))


def settings_with(**options) -> Settings:
    defaults = dict.fromkeys(Settings.__dataclass_fields__)
    defaults |= {
        "model": "tiny",
        "output_path": "out",
        "filename_format": "{filename}/{instrument}.{codec}",
        "encoding": Encoding(),
        "offset": 0.0,
        "shifts": 1,
    }
    return Settings(**{**defaults, **options})


@pytest.fixture
def songs(song, tmp_path) -> list[Path]:
    """Three short songs in a folder."""
    waveform, rate = soundfile.read(song)
    paths = [tmp_path / "music" / f"{name}.wav" for name in "abc"]
    for number, path in enumerate(paths, start=1):
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.roll(waveform[: rate // 2], 1000 * number, axis=0), rate)
    return paths


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


# The manifest


def manifest_of(folder: Path, text: str, **options) -> Manifest:
    path = folder / "songs.csv"
    path.write_text(text)
    return Manifest(str(path), settings_with(output_path=str(folder / "out"), **options), MODEL)


def test_the_manifests_options_and_paths(tmp_path):
    manifest = manifest_of(
        tmp_path,
        "\ufeffinput,output,codec,bits,offset,duration,stems,sample_rate,filename_format\n"
        "a.mp3,,,,,,,,\n"
        "\n"
        '/music/b.mp3,stems,flac,24,1.5,2,"accompaniment, vocals",22050.0,'
        "{instrument}-{filename}.{codec}\n"
        "s3://songs/live/c.mp3,s3://stems,mp3,,,,vocals,,"
        "{foldername}/{filename}/{instrument}.{codec}\n"
        "file:///music/d%20.mp3,,,,,,,\n",
        stems=["accompaniment"],
    )
    first, second, third, fourth = manifest
    assert manifest.nb_songs == 4 and manifest.stems == MODEL[1]
    assert first.song.source == f"{tmp_path}/a.mp3"
    assert first.song.outputs == {"accompaniment": f"{tmp_path}/out/a/accompaniment.wav"}
    assert first.settings == settings_with(output_path=f"{tmp_path}/out")
    assert second.song.outputs == {
        name: f"{tmp_path}/stems/{name}-b.flac" for name in ("vocals", "accompaniment")
    }
    assert second.song.pattern == f"{tmp_path}/stems/{{instrument}}-b.flac"
    assert second.settings.encoding == Encoding("flac", "24")
    assert (second.settings.offset, second.settings.duration) == (1.5, 2.0)
    assert second.settings.sample_rate == 22050 and second.settings.stream is None
    assert third.song.outputs == {"vocals": "s3://stems/live/c/vocals.mp3"}
    assert third.settings.encoding == Encoding("mp3")
    assert fourth.song.source == "/music/d%20.mp3"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "lacks the column input"),
        ("input\n", "lists no songs"),
        ("song\na.mp3\n", "has the column 'song'; the columns are input, output, filename_format"),
        ("output\nx\n", "lacks the column input"),
        ("input,input\na,b\n", "has a column twice"),
        ("input\na.mp3\n-\n", "row 2: input and output must be paths or URLs"),
        ("input,output\na.mp3,-\n", "row 1: input and output must be paths or URLs"),
        ("input,output\na.mp3\n,x\n", "row 2: input and output must be paths or URLs"),
        ("input,offset\na.mp3,0\nb.mp3,soon\n", "row 2: offset must be a number, not 'soon'"),
        ("input,offset\na.mp3,-1\n", "row 1: --offset must not be negative"),
        ("input,stream\na.mp3,1.5\n", "row 1: stream must be a whole number, not '1.5'"),
        ("input,codec\na.mp3,aiff\n", "row 1: the codec must be one of wav"),
        ("input,codec,bits\na,mp3,24\n", "row 1: mp3 cannot hold --bits 24"),
        ("input,stems\na.mp3,drums\n", "row 1: tiny separates vocals, accompaniment; not drums"),
        ("input,filename_format\na,{x}\n", "row 1: the filename format has the fields"),
        ("input,output\na,https://example.org/x\n", "row 1: stems cannot be written to https://"),
        ("input,offset\na,1,2\n", "row 1: 3 cells for 2 columns"),
        ('input\n"a\n', "is not CSV in UTF-8"),
        (
            "input,output\nx/a.mp3,s\nb.mp3,s\ny/a.mp3,s\n",
            "row 3: the vocals has the path of the vocals of row 1",
        ),
        (
            "input,filename_format\na.mp3,{instrument}.wav\nout/vocals.wav,\n",
            "row 1: the vocals has the path of the input of row 2",
        ),
    ],
)
def test_a_manifests_faults_are_named_with_their_row(tmp_path, text, words):
    with pytest.raises(SeparationError) as raised:
        manifest_of(tmp_path, text)
    message = str(raised.value)
    assert words in message and message.startswith(f"{tmp_path}/songs.csv"), message
    assert "\n" not in message


def test_a_manifest_in_another_encoding_or_missing(tmp_path):
    (tmp_path / "latin.csv").write_bytes("input\nmüde.mp3\n".encode("latin-1"))
    for name, words in (("latin.csv", "is not CSV in UTF-8"), ("no.csv", "cannot read")):
        with pytest.raises(SeparationError, match=words):
            Manifest(str(tmp_path / name), settings_with(), MODEL)


def test_a_manifest_in_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "songs.parquet"
    columns = {
        "input": ["a.mp3", "b.mp3"],
        "sample_rate": [22050.0, float("nan")],
        "stems": [["vocals"], None],
        "offset": [None, 1],
    }
    parquet.write_table(pyarrow.table(columns), path)
    first, second = Manifest(str(path), settings_with(), MODEL)
    assert first.song.source == f"{tmp_path}/a.mp3" and list(first.song.outputs) == ["vocals"]
    assert first.settings.sample_rate == 22050 and second.settings.sample_rate is None
    assert len(second.song.outputs) == 2 and second.settings.offset == 1
    parquet.write_table(pyarrow.table({"input": ["a"], "mood": ["b"]}), path)
    with pytest.raises(SeparationError, match="has the column 'mood'"):
        Manifest(str(path), settings_with(), MODEL)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(SeparationError, match="cannot read .*songs.parquet: "):
        Manifest(str(path), settings_with(), MODEL)


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("spleeter_2.separation.parquet.is_installed", lambda name: False)
    with pytest.raises(SeparationError, match=r'needs pyarrow: pip install "spleeter-2\[cluster'):
        Manifest(str(tmp_path / "x.parquet"), settings_with(), MODEL)


def test_a_manifest_on_the_command_line(spleeter, songs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "INTERVAL", 0.0)
    manifest = tmp_path / "songs.csv"
    manifest.write_text(
        "input,stems,duration,codec,output\n"
        "music/a.wav,vocals,,,\n"
        "music/b.wav,,0.25,flac,more\n"
        "music/none.wav,,,,\n"
    )
    status, messages = spleeter("separate", "--manifest", manifest, "-o", tmp_path / "out")
    assert status == 1
    assert f"error: there is no file {tmp_path}/music/none.wav" in messages
    assert "1 of 3 songs failed" in messages
    rates = r" songs, \d+ songs and \d+\.\d hours of audio per hour"
    assert re.search(f"1 of 3{rates}, 00:\\d\\d left\n", messages), messages
    assert re.search(f"3 of 3{rates}\n", messages), messages
    assert files_below(tmp_path / "out") == ["a/vocals.wav"]
    assert files_below(tmp_path / "more") == ["b/accompaniment.flac", "b/vocals.flac"]
    assert soundfile.info(tmp_path / "more/b/vocals.flac").frames == RATE // 4
    # the model of all stems writes one as the model of one does
    spleeter("separate", "--stems", "vocals", "-o", tmp_path / "alone", songs[0])
    alone = tmp_path / "alone/a/vocals.wav"
    assert alone.read_bytes() == (tmp_path / "out/a/vocals.wav").read_bytes()
    for arguments in ((), ("--manifest", manifest, songs[0])):
        status, messages = spleeter("separate", "-o", tmp_path / "out", *arguments)
        assert status == 2 and "give songs, or a list of them with --manifest" in messages


# The table


def task_of(name: str, digest: str = "d") -> Task:
    pattern = f"/out/{name}/{{instrument}}.wav"
    return Task(
        Job(f"/{name}.mp3", {"vocals": f"/out/{name}/vocals.wav"}, pattern), None, "m", digest
    )


def test_the_last_row_of_a_song_counts(tmp_path):
    path = str(tmp_path / "new" / "table.csv")
    with Table(path) as table:
        table.append(
            task_of("a\nb"), Outcome("done", seconds=2, elapsed=1.25, peak=0.5, note="x\ny")
        )
        table.append(task_of("c"), Outcome("done"))
        table.append(task_of("e"), Outcome("failed", note='the "disk", is full'))
    with Table(path) as table:
        table.append(task_of("c"), Outcome("failed"))
        done = table.done()
    assert is_done(task_of("a\nb"), done) and not is_done(task_of("a\nb", "other"), done)
    assert not is_done(task_of("c"), done) and not is_done(task_of("e"), done)
    first, *_ = rows = rows_of(Path(path))
    assert list(first) == list(COLUMNS) and len(rows) == 4
    assert first["input"] == "/a b.mp3" and first["output"] == "/out/a b/{instrument}.wav"
    assert (first["seconds"], first["elapsed"], first["peak"]) == ("2.000", "1.250", "0.5")
    assert (first["stems"], first["note"], first["digest"]) == ("vocals", "x y", "d")
    assert rows[2]["note"] == 'the "disk", is full'


def test_half_a_row_is_cut_off(tmp_path):
    path = tmp_path / "table.csv"
    with Table(str(path)) as table:
        table.append(task_of("a"), Outcome("done"))
        table.append(task_of("b"), Outcome("done", note='a "quoted" note'))
    whole = path.read_bytes()
    header, first, second = whole.splitlines(keepends=True)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with Table(str(path)) as table:
            done = table.done()
        assert is_done(task_of("a"), done) == (size >= len(header + first))
        kept = len(header) if size < len(header + first) else len(header + first)
        assert path.read_bytes() == whole[:kept]
    path.write_bytes(whole[:-5])
    with Table(str(path)) as table:
        table.append(task_of("b"), Outcome("done"))
        assert is_done(task_of("b"), table.done())
    assert [row["input"] for row in rows_of(path)] == ["/a.mp3", "/b.mp3"]


def test_what_is_no_table_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "songs.csv"
    path.write_text("input\na.mp3\n")
    with pytest.raises(SeparationError, match="songs.csv is no table of results, whose columns"):
        Table(str(path))
    assert path.read_text() == "input\na.mp3\n"
    with pytest.raises(SeparationError, match="must be a file, not s3://x/t.csv"):
        Table("s3://x/t.csv")
    with pytest.raises(SeparationError, match="cannot write"):
        Table(str(path / "t.csv"))
    with Table(str(tmp_path / "t.csv")):
        with pytest.raises(SeparationError, match="another run writes the table"):
            Table(str(tmp_path / "t.csv"))


def test_a_full_disk_leaves_whole_rows(tmp_path, file_size_limit):
    path = tmp_path / "table.csv"
    with Table(str(path)) as table:
        table.append(task_of("a"), Outcome("done"))
        size = path.stat().st_size
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        file_size_limit(size + 20)
        try:
            with pytest.raises(SeparationError, match="cannot write .*table.csv: "):
                table.append(task_of("b"), Outcome("done"))
        finally:
            file_size_limit(-1)
            signal.signal(signal.SIGXFSZ, before)
    assert path.stat().st_size == size


def test_a_table_in_parquet_is_made_of_its_journal(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")

    path = str(tmp_path / "table.parquet")
    journal = Path(f"{path}.journal.csv")
    with Table(path) as table:
        table.append(task_of("a"), Outcome("done", seconds=2, peak=0.5))
        assert journal.exists() and not os.path.exists(path)
    with Table(path) as table:
        table.append(task_of("b"), Outcome("failed"))
        assert is_done(task_of("a"), table.done())
        kept = journal.read_bytes()
    journal.write_bytes(kept[:-3])  # of a killed run, whose row is lost and was written before
    with Table(path) as table:
        assert is_done(task_of("a"), table.done())
    rows = parquet.read_table(path).to_pylist()
    assert [(row["input"], row["status"], row["peak"]) for row in rows] == [
        ("/a.mp3", "done", 0.5),
        ("/b.mp3", "failed", None),
    ]
    assert files_below(tmp_path) == ["table.parquet"]


def test_a_second_run_does_what_is_missing_or_failed(spleeter, songs, tmp_path):
    table, out = tmp_path / "results.csv", tmp_path / "out"
    good = songs[1].read_bytes()
    songs[1].write_bytes(b"no audio")
    options = ["--table", table, "--skip-existing", "-o", out, tmp_path / "music"]
    status, messages = spleeter("separate", *options)
    assert status == 1 and "b.wav is not audio" in messages
    assert [row["status"] for row in rows_of(table)] == ["done", "failed", "done"]
    first, failed, _ = rows_of(table)
    peak = max(np.abs(soundfile.read(out / "a" / stem)[0]).max() for stem in STEMS)
    assert abs(float(first["peak"]) - peak) < 1e-4 and first["seconds"] == "0.500"
    assert "b.wav is not audio" in failed["note"] and failed["digest"] == first["digest"]
    songs[1].write_bytes(good)
    (out / "c/vocals.wav").unlink()
    status, messages = spleeter("separate", *options)
    assert status == 0 and "1 song(s) skipped: the table has them as done" in messages
    assert "wrote" in messages and f"{out}/a/" not in messages
    assert [Path(row["input"]).stem for row in rows_of(table)] == ["a", "b", "c", "b", "c"]
    status, messages = spleeter("separate", *options)
    assert status == 0 and "3 song(s) skipped" in messages and "wrote" not in messages
    # another option, another digest
    status, messages = spleeter("separate", "--bits", 24, *options)
    assert status == 0 and "skipped" not in messages
    rows = rows_of(table)
    assert len(rows) == 8 and rows[-1]["digest"] != first["digest"]


# URLs


def test_paths_of_urls():
    template = "{foldername}/{filename}/{instrument}.{codec}"

    def paths(source, output="s3://stems/of"):
        (job,) = plan_outputs([source], output, template, "wav", ["vocals"])
        assert job.source == source
        return job.outputs["vocals"]

    assert paths("s3://songs/live/a b.mp3") == "s3://stems/of/live/a b/vocals.wav"
    assert paths("memory://y/a.mp3", "memory://x/") == "memory://x/y/a/vocals.wav"
    assert paths("https://x.org/live/a%20b.mp3?v=1.2#t", "/out") == "/out/live/a b/vocals.wav"
    (job,) = plan_outputs(["file:///m/a.mp3"], "file:///out", "{instrument}", "wav", ["vocals"])
    assert job == Job("/m/a.mp3", {"vocals": "/out/vocals"}, "/out/{instrument}")
    with pytest.raises(SeparationError, match="no file inside s3://stems"):
        plan_outputs(["s3://x/a.mp3"], "s3://stems", "../{instrument}", "wav", ["vocals"])
    with pytest.raises(SeparationError, match="would both be written to s3://stems/vocals"):
        plan_outputs(
            ["s3://x/a.mp3", "s3://x/b.mp3"], "s3://stems", "{instrument}", "wav", ["vocals"]
        )


@pytest.fixture
def memory(monkeypatch):
    """fsspec's file system in the memory of this process, empty."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_from_a_store_into_a_store(spleeter, songs, memory, scratch, tmp_path):
    memory.pipe("/music/live/a.wav", songs[0].read_bytes())
    url = "memory://music/live/a.wav"
    table = tmp_path / "results.csv"
    options = ["--table", table, "--skip-existing", "-o", "memory://stems", url]
    status, messages = spleeter("separate", *options)
    assert status == 0 and "wrote memory://stems/a/vocals.wav" in messages, messages
    assert sorted(memory.find("/stems")) == [f"/stems/a/{stem}" for stem in STEMS]
    assert spleeter("separate", "-o", tmp_path / "out", songs[0])[0] == 0
    for stem in STEMS:
        assert memory.cat(f"/stems/a/{stem}") == (tmp_path / "out/a" / stem).read_bytes()
    assert not list(scratch.iterdir())
    (row,) = rows_of(table)
    assert (row["input"], row["output"]) == (url, "memory://stems/a/{instrument}.wav")
    assert "1 song(s) skipped" in spleeter("separate", *options)[1]
    memory.rm("/stems/a/vocals.wav")
    assert "wrote memory://stems/a/vocals.wav" in spleeter("separate", *options)[1]
    status, messages = spleeter("separate", *options[2:])
    assert status == 1 and "give a table of results with --table" in messages


def test_file_urls_are_paths(spleeter, songs, tmp_path):
    out = f"file://{tmp_path}/out"
    status, messages = spleeter("separate", "-o", out, f"file://{songs[0]}")
    assert status == 0 and f"wrote {tmp_path}/out/a/vocals.wav" in messages
    assert files_below(tmp_path / "out") == [f"a/{stem}" for stem in STEMS]


def test_errors_of_stores_are_one_sentence_each(spleeter, memory, songs, scratch, tmp_path):
    memory.pipe("/music/bad.wav", b"no audio")
    for url, words in (
        ("memory://music/none.wav", "cannot read memory://music/none.wav: there is no such file"),
        ("memory://music/bad.wav", "memory://music/bad.wav is not audio that ffmpeg can read"),
        ("nostore://x/a.wav", "cannot read nostore://x/a.wav: fsspec has no protocol nostore://"),
    ):
        status, messages = spleeter("separate", "-o", tmp_path / "out", url)
        assert status == 1 and words in messages, messages
        assert len(messages.splitlines()) == 1 and str(scratch) not in messages
    assert not list(scratch.iterdir()) and not (tmp_path / "out").exists()


@pytest.fixture
def web(tmp_path) -> Iterator[str]:
    """URL of a server of the files in ``tmp_path``."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_songs_of_a_web_server(spleeter, web, songs, scratch, tmp_path):
    pytest.importorskip("aiohttp")
    songs[0].rename(tmp_path / "music/a b.wav")
    urls = [f"{web}/music/a%20b.wav?v=1.2", f"{web}/none.wav", "http://127.0.0.1:9/x.wav"]
    status, messages = spleeter("separate", "-o", tmp_path / "out", *urls)
    assert status == 1 and files_below(tmp_path / "out") == [f"a b/{stem}" for stem in STEMS]
    assert f"cannot read {web}/none.wav: there is no such file" in messages
    assert "cannot read http://127.0.0.1:9/x.wav: Connect call failed" in messages
    assert "2 of 3 songs failed" in messages and not list(scratch.iterdir())
    status, messages = spleeter("separate", "-o", web, tmp_path / "music/a b.wav")
    assert status == 1 and f"stems cannot be written to {web}" in messages


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    "error, words",
    [
        (PermissionError("Forbidden"), "access is denied: check the credentials"),
        (NoCredentialsError("Unable to locate"), "there are no credentials: configure them"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (TimeoutError("too slow\nmore"), "TimeoutError: too slow"),
        (ImportError("Install s3fs to access S3"), 'missing: pip install "spleeter-2[s3]"'),
    ],
)
def test_reasons_of_stores(error, words):
    assert words in remote._reason(error, "s3://x/y")


def test_without_fsspec_the_extra_is_named(spleeter, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "is_installed", lambda name: False)
    status, messages = spleeter("separate", "-o", tmp_path / "out", "s3://x/a.mp3")
    assert status == 1
    assert 's3://x/a.mp3 needs fsspec: pip install "spleeter-2[cluster]"' in messages


def test_a_stream_without_end_is_refused(spleeter, memory, scratch, songs, tmp_path, monkeypatch):
    memory.pipe("/a.wav", songs[0].read_bytes())
    monkeypatch.setattr(remote, "MOST_BYTES", 50_000)
    status, messages = spleeter("separate", "-o", tmp_path / "out", "memory://a.wav")
    assert status == 1 and "memory://a.wav has more than 0 GiB: is it a live stream?" in messages
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("is_atomic", [False, True])
@pytest.mark.parametrize("which", [1, 2])
def test_a_failed_upload_leaves_none_of_the_stems(
    spleeter, memory, songs, monkeypatch, is_atomic, which
):
    """The first or second upload fails; a store with atomic uploads is written to directly."""
    monkeypatch.setattr(remote, "_is_atomic", lambda store: is_atomic)
    put_file, calls = type(memory).put_file, []

    def failing(self, path, key, *args, **options):
        calls.append(key)
        if len(calls) == which:
            raise OSError(28, "No space left on device")
        return put_file(self, path, key, *args, **options)

    monkeypatch.setattr(type(memory), "put_file", failing)
    arguments = ["-o", "memory://stems", songs[0]]
    status, messages = spleeter("separate", *arguments)
    assert status == 1 and "cannot write memory://stems/a/" in messages
    assert "the disk is full" in messages and not memory.find("/stems")
    assert is_atomic == (not any(".spleeter-2-" in key for key in calls))
    assert spleeter("separate", *arguments)[0] == 0
    assert sorted(memory.find("/stems")) == [f"/stems/a/{stem}" for stem in STEMS]


def test_an_upload_that_fails_keeps_the_stems_that_were_there(spleeter, memory, songs, monkeypatch):
    monkeypatch.setattr(remote, "_is_atomic", lambda store: True)
    memory.pipe("/stems/a/vocals.wav", b"mine")
    put_file = type(memory).put_file

    def failing(self, path, key, *args, **options):
        if "accompaniment" in key:
            raise OSError(28, "No space left on device")
        return put_file(self, path, key, *args, **options)

    monkeypatch.setattr(type(memory), "put_file", failing)
    assert spleeter("separate", "-o", "memory://stems", songs[0])[0] == 1
    assert list(memory.find("/stems")) == ["/stems/a/vocals.wav"]


# A server of S3 on loopback, from an interpreter that has moto


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """fsspec's file system of a server of S3, with the bucket "songs"."""
    python = os.environ.get("MOTO_PYTHON")
    if not python:
        pytest.skip("MOTO_PYTHON does not name an interpreter with moto[server]")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    script = (
        "import sys\n"
        "from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)\n"
        "server.start()\n"
        "print(server.get_host_and_port()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    patch = pytest.MonkeyPatch()
    with subprocess.Popen([python, "-c", script], env=environment, **pipes) as server:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", url),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(name, value)
        store = fsspec.filesystem("s3")
        store.mkdir("songs")
        yield store
        server.stdin.close()
    patch.undo()


def test_s3(spleeter, s3, songs, scratch, tmp_path):
    s3.pipe("songs/live/a b.wav", songs[0].read_bytes())
    manifest = tmp_path / "songs.csv"
    manifest.write_text("input\ns3://songs/live/a b.wav\ns3://songs/none.wav\n")
    options = ["--manifest", manifest, "--table", tmp_path / "t.csv", "--skip-existing"]
    status, messages = spleeter("separate", *options, "-o", "s3://songs/stems")
    assert status == 1 and "wrote s3://songs/stems/a b/vocals.wav" in messages, messages
    assert "cannot read s3://songs/none.wav: there is no such file" in messages
    s3.invalidate_cache()
    assert s3.find("songs/stems") == [f"songs/stems/a b/{stem}" for stem in STEMS]
    assert spleeter("separate", "-o", tmp_path / "out", songs[0])[0] == 0
    for stem in STEMS:
        assert s3.cat(f"songs/stems/a b/{stem}") == (tmp_path / "out/a" / stem).read_bytes()
    status, messages = spleeter("separate", *options, "-o", "s3://songs/stems")
    assert status == 1 and "1 song(s) skipped" in messages
    status, messages = spleeter("separate", "-o", "s3://nowhere/x", songs[0])
    assert status == 1 and "cannot write s3://nowhere/x/a/vocals.wav: " in messages
    assert len(messages.splitlines()) == 1 and not list(scratch.iterdir())


# Processes


def files_with_bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def run_command(*arguments: object, **options) -> tuple[int, str]:
    """The command in a process of its own, whose workers import what it does."""
    command = [sys.executable, "-m", "spleeter_2", "separate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_two_processes_write_what_one_does(spleeter, tiny, songs, tmp_path):
    songs[1].write_bytes(b"no audio")
    options = ["-p", tiny, "--codec", "flac", tmp_path / "music"]
    table = tmp_path / "results.csv"
    assert spleeter("separate", *options, "-o", tmp_path / "one")[0] == 1
    status, messages = run_command(
        *options, "--jobs", 2, "--table", table, "-o", tmp_path / "two", cwd=tmp_path
    )
    assert status == 1 and "b.wav is not audio" in messages and "1 of 3 songs failed" in messages
    assert "3 of 3 songs, " in messages and "hours of audio per hour" in messages
    one, two = (files_with_bytes(tmp_path / name) for name in ("one", "two"))
    assert one == two and len(one) == 4
    statuses = {Path(row["input"]).stem: row["status"] for row in rows_of(table)}
    assert statuses == {"a": "done", "b": "failed", "c": "done"}


@pytest.mark.parametrize("arguments", [["-o", "-", "SONG"], ["-o", "out", "-"]])
def test_workers_have_no_standard_streams(spleeter, songs, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    arguments = [songs[0] if item == "SONG" else item for item in arguments]
    status, messages = spleeter("separate", "--jobs", 2, "--stems", "vocals", *arguments)
    assert status == 1 and "workers have no standard input and output" in messages
    assert len(messages.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_full_disk_of_one_worker_costs_its_songs_until_the_next_run(tiny, songs, tmp_path):
    from distributed import Client

    table, out = tmp_path / "results.csv", tmp_path / "out"
    for number in range(3):
        (tmp_path / f"music/{number}.wav").write_bytes(songs[0].read_bytes())
    options = ["-p", tiny, "--table", table, "--skip-existing", "-o", out, tmp_path / "music"]
    (tmp_path / "cluster").mkdir()
    with cluster_of(tmp_path / "cluster", 0) as cluster:
        for _ in range(2):
            cluster.start_worker("--nthreads", 1, "--no-nanny")
        with Client(scheduler_file=cluster.file) as client:
            client.wait_for_workers(2, timeout=30)
        limited = cluster.running[-1].pid
        resource.prlimit(limited, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        status, messages = run_command("--cluster", cluster.file, *options)
        statuses = [row["status"] for row in rows_of(table)]
        assert status == 1 and len(statuses) == 6 and set(statuses) == {"done", "failed"}
        assert "exceeds the largest size of a file" in messages
        assert len(files_below(out)) == 2 * statuses.count("done")
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(limited, resource.RLIMIT_FSIZE, unlimited)
        status, messages = run_command("--cluster", cluster.file, *options)
    assert status == 0 and f"{statuses.count('done')} song(s) skipped" in messages
    assert len(rows_of(table)) == 6 + statuses.count("failed")
    assert len(files_below(out)) == 12


def test_sigterm_leaves_whole_stems_and_a_table_of_them(tiny, song, tmp_path):
    waveform, rate = soundfile.read(song)
    soundfile.write(tmp_path / "long.wav", np.tile(waveform, (300, 1)), rate)
    rows = [f"{song},s{number}" for number in range(4)] + ["long.wav,l1", "long.wav,l2"]
    manifest, table = tmp_path / "songs.csv", tmp_path / "results.csv"
    manifest.write_text("\n".join(["input,output", *rows]))
    command = [sys.executable, "-m", "spleeter_2", "separate", "-p", tiny, "--jobs", 2]
    command += ["--manifest", manifest, "--table", table, "-o", tmp_path / "out"]
    running = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    long = [tmp_path / "l1", tmp_path / "l2"]

    def is_in_work() -> bool:
        assert running.poll() is None, running.stderr.read()
        return any(path.stat().st_size > 1e6 for each in long for path in each.rglob(".*"))

    until(is_in_work, 60)
    running.terminate()
    _, messages = running.communicate(timeout=60)
    assert running.returncode == 143 and messages.endswith("no incomplete output is left\n")
    assert [row["status"] for row in rows_of(table)] == ["done"] * 4
    assert not any(each.exists() for each in long)
    for number in range(4):
        assert len(files_below(tmp_path / f"s{number}")) == 2


def test_what_workers_cannot_do(spleeter, songs, tmp_path, monkeypatch):
    """A song whose process died is an error of that song; another model ends the run."""

    def answers(*results):
        def run_tasks(tasks, *_, **options):
            options["on_start"]("http://127.0.0.1:8787/status")
            yield from zip(tasks, results, strict=False)

        monkeypatch.setattr(batch, "run_tasks", run_tasks)
        options = ["--jobs", 2, "--table", tmp_path / "t.csv", "-o", tmp_path / "out"]
        return spleeter("separate", *options, *songs)

    status, messages = answers(Failure("its process was killed"), Outcome("done"), Outcome("done"))
    assert status == 1 and f"error: {songs[0]}: its process was killed\n" in messages
    assert "dashboard: http://127.0.0.1:8787/status" in messages
    assert [row["status"] for row in rows_of(tmp_path / "t.csv")] == ["failed", "done", "done"]
    status, messages = answers(Outcome("done"), ModelError("tiny is another model there"))
    assert status == 1 and messages.endswith("error: tiny is another model there\n")
    assert len(rows_of(tmp_path / "t.csv")) == 4


def test_a_worker_pauses_after_failures_in_a_row(tiny, songs, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(song_module, "_nb_failed", 0)
    monkeypatch.setattr(song_module, "_pause", pauses.append)
    settings = settings_with(model=str(tiny), skip_existing=False, mwf=False, verbose=False)
    for source in ["none", "none", "none", "none", songs[0], "none"]:
        (job,) = plan_outputs([source], tmp_path, "{instrument}", "wav", MODEL[1])
        outcome = separate_in_worker(Task(job, settings))
        assert outcome.status == ("failed" if source == "none" else "done")
    assert pauses == [0, 0, 0.1, 0.2, 0.4, 0]


def test_a_worker_with_another_model_is_refused(tiny, songs, tmp_path):
    (job,) = plan_outputs([songs[0]], tmp_path / "out", "{instrument}", "wav", MODEL[1])
    settings = settings_with(model=str(tiny), skip_existing=False, mwf=False, verbose=False)
    result = separate_in_worker(Task(job, settings, model="of another machine"))
    assert isinstance(result, ModelError) and "is another model on this worker" in str(result)
    model = model_digest(load_configuration(tiny))
    assert separate_in_worker(Task(job, settings, model)).status == "done"
    settings = replace(settings, model=str(tmp_path / "nowhere"))
    assert isinstance(separate_in_worker(Task(job, settings, model)), ModelError)


def test_digests_of_models_and_options(tiny):
    grouped = load_configuration("spleeter_2:grouped")
    digests = {
        model_digest(load_configuration(name))
        for name in (tiny, "spleeter_2:grouped", "spleeter_2:mask", "spleeter:2stems")
    }
    assert len(digests) == 4 and model_digest(grouped) in digests
    base = settings_with()
    variants = [
        base,
        settings_with(duration=3.0),
        settings_with(offset=3.0),
        settings_with(overlap=0.5),
        settings_with(encoding=Encoding("flac")),
        settings_with(encoding=Encoding("mp3", bitrate="192k")),
        settings_with(encoding=Encoding("mp3")),
    ]
    digests = {digest_of("model", each, MODEL[1]) for each in variants}
    digests |= {digest_of("other", base, MODEL[1]), digest_of("model", base, ["vocals"])}
    assert len(digests) == 9
    same = settings_with(output_path="elsewhere", device="cpu", encoding=Encoding(bitrate="1k"))
    assert digest_of("model", same, MODEL[1][::-1]) == digest_of("model", base, MODEL[1])
