"""Songs on disk and the queue, without a server."""

import threading
import time

import numpy as np
import pytest
from support.common import files_below

from spleeter_2.errors import SeparationError
from spleeter_2.web import library as module
from spleeter_2.web.downloads import content_disposition, safe_name, song_title
from spleeter_2.web.library import Library, NoRoom
from spleeter_2.web.songs import Options, SongFolder, StemWriter, peaks_of, read_samples
from spleeter_2.web.uploads import clean_name

OPTIONS = Options("spleeter_2:grouped")


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "songs", most_songs=3)
    yield library
    library.close()


def add(library, name="song.mp3"):
    upload = library.uploads / "upload"
    upload.write_bytes(b"song")
    return library.add(upload, name, ".mp3", OPTIONS)


def test_songs_in_their_order(library):
    first, second = add(library, "b"), add(library, "a")
    assert library.songs() == [first, second]
    assert library.next_song() is first
    library.update(first, state="running")
    assert library.next_song() is second
    assert files_below(library.uploads) == []


def test_what_was_unfinished_is_queued_again(library, tmp_path):
    done, running, failed = (add(library, name) for name in ("done", "running", "failed"))
    (library.folder(done).samples(0)).write_bytes(bytes(8 * 10))
    facts = {"instruments": ["vocals"], "sample_rate": 44100, "nb_channels": 2, "nb_samples": 10}
    library.update(done, **facts)
    for song, state in ((done, "done"), (running, "running"), (failed, "failed")):
        library.update(song, state=state, error="reason" if state == "failed" else "")
    (library.folder(running).samples(0)).write_bytes(b"half")
    foreign = tmp_path / "songs" / "notes.txt"
    foreign.write_text("mine")
    library.close()
    again = Library(tmp_path / "songs", most_songs=3)
    assert [song.state for song in again.songs()] == ["done", "queued", "failed"]
    assert [song.name for song in again.songs()] == ["done", "running", "failed"]
    assert again.songs()[2].error == "reason"
    assert not again.folder(running).samples(0).exists() and foreign.exists()
    again.close()


SONG = (
    '{"id": "", "name": "a", "options": {"model": "m"}, "source": "source.mp3", "created": 1.0, '
    '"state": "queued", "error": "", "nb_samples": 0}'
)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"id": 5}', "null", "[" * 100_000, "\xff",
        SONG.replace('"source.mp3"', '"../../source.mp3"'),
        SONG.replace('"source.mp3"', '"/etc/passwd"'),
        SONG.replace('"source.mp3"', '"song.json"'),
        SONG.replace("1.0", "NaN"),
        SONG.replace("1.0", "1e999"),
        SONG.replace('"a"', '"\\ud800"'),
        SONG.replace("queued", "lost"),
        SONG.replace('samples": 0', 'samples": -1'),
        SONG.replace('samples": 0', 'samples": 1' + "0" * 30),
    ],
)  # fmt: skip
def test_a_damaged_song_is_dropped(tmp_path, content):
    Library(tmp_path, most_songs=3).close()
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    (folder / "song.json").write_text(content, encoding="latin-1")
    library = Library(tmp_path, most_songs=3)
    assert library.songs() == [] and not folder.exists()
    library.close()


@pytest.mark.parametrize(
    "facts",
    [
        {"instruments": []}, {"instruments": ["vocals", "drums"]}, {"nb_samples": 1 << 40},
        {"nb_samples": 11}, {"nb_channels": 0}, {"sample_rate": 0},
    ],
)  # fmt: skip
def test_a_done_song_without_its_stems(library, tmp_path, facts):
    song = add(library)
    library.folder(song).samples(0).write_bytes(bytes(8 * 10))
    good = {"instruments": ["vocals"], "sample_rate": 44100, "nb_channels": 2, "nb_samples": 10}
    library.update(song, **{**good, **facts}, state="done")
    library.close()
    again = Library(tmp_path / "songs", most_songs=3)
    assert again.songs()[0].state == "failed" and "add the song again" in again.songs()[0].error
    again.songs()[0].describe()
    again.close()


def test_restored_songs_are_sent_once(library, tmp_path):
    """A version of the last server would be newer than all events of this one."""
    for _ in range(20):
        library.update(add(library), state="failed")
        library.remove(library.songs()[0])
    add(library)
    library.close()
    again = Library(tmp_path / "songs", most_songs=3)
    assert all(song.version <= again.version for song in again.songs())
    again.close()


def test_a_change_that_cannot_be_saved_is_seen(library):
    song = add(library)
    library.folder(song).remove()
    library.folder(song).path.write_text("a file in its place")
    version = library.version
    with pytest.raises(SeparationError):
        library.update(song, state="failed", error="reason")
    assert song.version > version and song.state == "failed"


def test_no_paths_in_messages(library, tmp_path):
    text = f"cannot write {tmp_path}/songs/0123/stem-0.f32: the disk is full"
    assert library.without_paths(text) == "cannot write the server's files: the disk is full"


def test_room(library, monkeypatch):
    for _ in range(3):
        library.check_room()
        add(library)
    with pytest.raises(NoRoom, match="3 songs are here"):
        add(library)
    assert files_below(library.uploads) == ["upload"]  # its owner removes it
    library.remove(library.songs()[0])
    library.check_room()
    monkeypatch.setattr(module, "LEAST_FREE", 10**15)
    with pytest.raises(NoRoom, match="the disk has"):
        library.check_room()


def test_a_folder_of_another_server_or_user(library, tmp_path, monkeypatch):
    with pytest.raises(SeparationError, match="another server uses"):
        Library(tmp_path / "songs", most_songs=3)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SeparationError, match="is a link"):
        Library(tmp_path / "link", most_songs=3)
    monkeypatch.setattr(module.os, "getuid", lambda: 4711)
    with pytest.raises(SeparationError, match="another user"):
        Library(tmp_path / "other", most_songs=3)


@pytest.mark.parametrize("name", ["uploads/mine.wav", "0123456789abcdef/mine.wav", "mine.wav"])
def test_a_folder_of_other_files_is_refused(tmp_path, name):
    """A server removes what it does not know in its folder."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(SeparationError, match="holds other files, such as"):
        Library(tmp_path, most_songs=3)
    assert (tmp_path / name).read_text() == "mine"


def test_old_songs_are_tidied(tmp_path):
    library = Library(tmp_path, most_songs=3, keep=100)
    old, new, queued = add(library), add(library), add(library)
    library.update(old, state="done", finished=time.time() - 101)
    library.update(new, state="done", finished=time.time() - 50)
    library.tidy()
    assert library.songs() == [new, queued]
    assert not library.folder(old).path.exists()
    library.close()


def test_closing_ends_the_wait_for_a_song(library):
    found = [0]
    thread = threading.Thread(target=lambda: found.append(library.next_song()))
    thread.start()
    library.close()
    thread.join(5)
    assert found == [0, None]


def test_samples_and_peaks(library):
    song = add(library)
    folder = SongFolder(library.folder(song).path)
    rng = np.random.default_rng(0)
    waveform = rng.uniform(-1, 1, (10_007, 2)).astype("f4")
    with StemWriter(folder, 0, 1000) as writer:  # 20 samples per peak
        for start in range(0, len(waveform), 333):
            writer.write(waveform[start : start + 333])
        library.update(
            song, instruments=["vocals"], sample_rate=1000, nb_channels=2, seconds=20.0,
            nb_samples=9000, state="running",
        )  # fmt: skip
        half = peaks_of(song, folder, 10)
        writer.finish()
    assert np.array_equal(read_samples(folder.samples(0), 2, len(waveform)), waveform)
    expected = [np.abs(part).max() for part in np.split(waveform[:10_000], 5)]
    assert len(half["vocals"]) == 5  # of ten bins of 2 s
    assert np.abs(np.array(half["vocals"]) / 255 - expected).max() < 1 / 128
    library.update(song, nb_samples=len(waveform), seconds=10.007, state="done")
    assert len(peaks_of(song, folder, 7)["vocals"]) == 7
    with pytest.raises(SeparationError, match="is gone"):
        read_samples(folder.samples(0), 2, len(waveform) + 1)


def test_names_of_downloads():
    assert song_title("song.mp3") == "song" and song_title("a/b\\c:d?.flac") == "a_b_c_d_"
    assert song_title("...") == "song" and song_title("\n.mp3") == "_"
    assert song_title("No. 5 in C") == "No. 5 in C" and len(song_title("x" * 500)) == 120
    assert song_title("x" * 119 + " y") == "x" * 119  # no space at the end of a folder's name
    assert safe_name("drums.v2") == "drums.v2"  # an instrument is no file
    plain, encoded = 'filename="S_ng _1_.wav"', "filename*=UTF-8''S%C3%B6ng%20%221%22.wav"
    assert content_disposition('Söng "1".wav') == f"attachment; {plain}; {encoded}"


def test_names_of_uploads():
    assert clean_name("C:\\music\\song.mp3") == "song.mp3"
    assert clean_name("../../etc/passwd") == "passwd"
    assert clean_name("a\nb\0c.wav") == "a b c.wav"
    assert clean_name("") == clean_name("/") == "song"
    assert len(clean_name("x" * 1000 + ".flac")) == 200
