import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.songs import FOUR, TWO, details, names_of, write

from spleeter_2.data.songs import STREAMS, Song, Songs, StemFile, find_songs, split, training_songs
from spleeter_2.errors import SeparationError


def touch(root: Path, *names: str) -> None:
    """Empty files; the finder opens no audio file."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_folder_of_songs(folder):
    songs = training_songs(folder, TWO)
    assert names_of(songs) == ["a song", "b"]
    assert songs[0].stems == {name: StemFile(folder / "a song" / f"{name}.wav") for name in TWO}
    assert songs[0].path == folder / "a song" and songs[0].subset is None
    assert str(songs) == f"2 songs in {folder}: vocals, accompaniment"


def test_accompaniment_is_the_sum_of_the_other_stems(tmp_path):
    for song, names in {
        "four": "vocals drums bass other mixture",
        "both": "vocals accompaniment drums",
        "some": "VOCALS Drums piano",
        "none": "vocals mixture",
        "dumb": "drums bass other",
    }.items():
        touch(tmp_path / song, *(f"{name}.flac" for name in names.split()))
    songs = training_songs(tmp_path, TWO)
    assert {s.name: [file.path.stem for file in s.files("accompaniment")] for s in songs} == {
        "four": ["drums", "bass", "other"],
        "both": ["accompaniment"],
        "some": ["Drums", "piano"],
    }
    assert details(songs, "left out") == {
        "none": "it lacks accompaniment",
        "dumb": "it lacks vocals",
    }
    assert details(songs, "accompaniment is the sum of drums, bass, other") == {"four": ""}
    assert names_of(training_songs(tmp_path, FOUR)) == ["four"]
    assert "left out: 4 songs" in str(training_songs(tmp_path, FOUR))


def test_an_instrument_of_another_name(tmp_path):
    touch(tmp_path, "song/vocals.ogg", "song/theremin.ogg", "only/theremin.ogg")
    songs = training_songs(tmp_path, ("vocals", "theremin"))
    assert names_of(songs) == ["song"]
    assert details(songs, "left out") == {"only": "it lacks vocals"}


@pytest.mark.parametrize(
    "file, names, reason",
    [
        ("b/Vocals.mp3", ["a song"], "it has Vocals.mp3 and vocals.wav: keep one of them"),
        ("B.stem.mp4", ["B", "a song"], "another song has the same name: rename one of them"),
    ],
)
def test_duplicates_leave_the_song_out(folder, file, names, reason):
    touch(folder, file)
    songs = training_songs(folder, TWO)
    assert names_of(songs) == names
    assert details(songs, "left out") == {"b": reason}


@pytest.mark.parametrize("is_wav", [False, True])
def test_stems_equal_those_of_musdb(tmp_path, stems, cache, is_wav):
    import musdb
    import stempeg

    root, source = tmp_path / "DB", stempeg.example_stem_path()
    streams, _ = stempeg.read_stems(source, ffmpeg_format="s16le")
    for track in ("train/A - One", "train/B - Zwölf", "test/C - Three"):
        if not is_wav:
            touch(root, f"{track}.stem.mp4")
            shutil.copy(source, root / f"{track}.stem.mp4")
        else:
            for stem, waveform in zip(STREAMS, streams.astype(np.float32), strict=True):
                write(root / track / f"{stem}.wav", waveform, subtype="PCM_16")
    database = musdb.DB(root=str(root), is_wav=is_wav, subsets="train")
    assert names_of(find_songs(root, "test")) == ["C - Three"]
    stem_ids = database.setup["stem_ids"]
    assert list(STREAMS) == sorted(stem_ids, key=stem_ids.get)
    for instruments in (TWO, FOUR):
        songs = cache.decode(training_songs(root, instruments))
        assert names_of(songs) == names_of(database.tracks) == ["A - One", "B - Zwölf"]
        assert len(list(cache.folder.iterdir())) == 8  # TWO and FOUR share the stems
        # musdb clips at full scale and rounds each of the accompaniment's three stems
        tolerance = 0 if is_wav and instruments == FOUR else 1e-4
        for name in instruments:
            ours = songs[0].read(name, 0, songs[0].nb_samples)
            expected = np.clip(database.tracks[0].targets[name].audio, -1, 1)
            np.testing.assert_allclose(np.clip(ours, -1, 1), expected, rtol=0, atol=tolerance)


def test_a_subset_is_a_folder_of_songs_not_a_song(folder):
    touch(folder, *(f"train/{name}.wav" for name in TWO))  # a song whose name is "train"
    assert names_of(training_songs(folder, TWO)) == ["a song", "b", "train"]
    assert [song.subset for song in find_songs(folder, "test")] == [None] * 3
    with pytest.raises(SeparationError, match="must be train or test, not dev"):
        find_songs(folder, "dev")
    touch(folder, *(f"test/held out/{name}.wav" for name in TWO))
    (held_out,) = find_songs(folder, "test")
    assert (held_out.name, held_out.subset) == ("held out", "test")
    with pytest.raises(SeparationError, match="has no folder train, but test: see --subset"):
        find_songs(folder, "train")
    assert names_of(training_songs(folder, TWO)) == ["a song", "b", "train"]


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("stem", ["theremin", "vocals"])
def test_a_song_may_be_called_like_a_subset(tmp_path, name, stem):
    """Also if its stems have unusual names, and if it cannot be used."""
    touch(tmp_path, *(f"{song}/{stem}.wav" for song in ("a", name)))
    for songs in (training_songs(tmp_path, [stem]), find_songs(tmp_path, name, [stem])):
        assert names_of(songs) == ["a", name] and {song.subset for song in songs} == {None}


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_folder_without_songs_beside_songs_is_no_subset(tmp_path, name):
    touch(tmp_path, "a/vocals.wav", f"{name}/cover.jpg")
    assert names_of(find_songs(tmp_path, name)) == names_of(find_songs(tmp_path)) == ["a"]
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(SeparationError, match=f"there are no songs in .*{name}: expected"):
        find_songs(tmp_path, name)


@pytest.mark.parametrize("name", [".Trash-1000", "__MACOSX", "lost+found", "@eaDir", "#recycle"])
def test_hidden_and_system_folders_are_no_songs(tmp_path, name):
    touch(tmp_path, *(f"{song}/vocals.wav" for song in ("a", name)), "a/._vocals.wav")
    (found,) = find_songs(tmp_path)
    assert (found.name, found.fault) == ("a", "")


def test_a_song_that_cannot_be_read_is_its_own_fault(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{song}/{stem}.wav" for song in ("a", "b", "train") for stem in TWO))
    listdir = os.listdir

    def forbidding(path):
        if os.path.basename(path) in ("b", "train", "test"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbidding)  # rights do not bind an administrator
    faults = {name: f"cannot read {tmp_path / name}: Permission denied" for name in ("b", "train")}
    assert {song.name: song.fault for song in find_songs(tmp_path)} == {"a": "", **faults}
    songs = training_songs(tmp_path, TWO)
    assert names_of(songs) == ["a"] and details(songs, "left out") == faults
    for name in ("train/c", "test/d"):
        touch(tmp_path / "set", *(f"{name}/{stem}.wav" for stem in TWO))
    with pytest.raises(SeparationError, match="cannot read .*train: Permission denied"):
        find_songs(tmp_path / "set")


def test_a_subset_that_is_not_asked_for_need_not_be_readable(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{name}/{stem}.wav" for name in ("train/a", "test/b") for stem in TWO))
    listdir = os.listdir

    def forbidding(path):
        if os.path.basename(path) == "test":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbidding)
    assert names_of(find_songs(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "mix_path, vocals_path, accompaniment_path, duration\nm.wav, a/v.wav, a/x y.wav, 6.0\n",
        "mix_path;vocals_path;accompaniment_path;duration\nm.wav;a/v.wav;a/x y.wav;6,0\n",
        "mix_path ; vocals_path ; accompaniment_path\nm.wav ; a/v.wav ; a/x y.wav\n",
        "Mix_Path,VOCALS_PATH,Accompaniment_path\nm.wav,a/v.wav,a/x y.wav\n",
        '"vocals_path", "accompaniment_path"\n"a/v.wav", "a/x y.wav"\n',
        "\ufeffvocals_path\taccompaniment_path\na/v.wav\ta/x y.wav\n",
        '"vocals_path";"accompaniment_path"\r\n"a/v.wav";"a/x y.wav"\r\n',
    ],
)
def test_a_csv_as_people_and_spreadsheets_write_it(tmp_path, text):
    touch(tmp_path, "a/v.wav", "a/x y.wav")
    (tmp_path / "songs.csv").write_text(text, encoding="utf-8", newline="")
    (song,) = training_songs(tmp_path / "songs.csv", TWO)
    assert song.name == "a"
    assert song.stems == {
        "vocals": StemFile(tmp_path / "a/v.wav"),
        "accompaniment": StemFile(tmp_path / "a/x y.wav"),
    }


def test_columns_of_a_csv_are_the_instruments_in_any_case(tmp_path):
    touch(tmp_path, "v.wav", "t.wav")
    (tmp_path / "songs.csv").write_text("Lead_Path, theremin_path\nv.wav, t.wav\n")
    (song,) = training_songs(tmp_path / "songs.csv", ("lead", "Theremin"))
    assert set(song.stems) == {"lead", "Theremin"}


def test_a_csv_of_spleeter(folder):
    path = folder / "songs.csv"
    path.write_text(
        "mix_path,vocals_path,accompaniment_path,duration\n"
        "a song/mixture.wav,a song/vocals.wav,a song/accompaniment.wav,6.0\n"
        "b/mixture.wav,b/vocals.wav,b/drums.wav,6.0\n"
        "c/mixture.wav,c/vocals.wav,,6.0\n"
        ",,,\n"
    )
    songs = training_songs(path, TWO)
    assert names_of(songs) == ["a song"]
    assert details(songs, "left out") == {
        "b": f"there is no file {folder / 'b' / 'drums.wav'}",
        "c": f"there is no file {folder / 'c' / 'vocals.wav'}",
        "line 5": "it lacks vocals, accompaniment",
    }
    moved = shutil.move(path, folder.parent / "elsewhere.csv")
    with pytest.raises(SeparationError, match="none of the 4 songs .* a song: there is no file"):
        training_songs(moved, TWO)


def test_a_csv_of_songs_that_share_a_folder(tmp_path):
    touch(tmp_path, *(f"{name}.ogg" for name in "abcdef"))
    (tmp_path / "songs.csv").write_text(
        "\ufeffvocals_path,drums_path,bass_path\na.ogg,b.ogg,c.ogg\nd.ogg,e.ogg,f.ogg\n",
        encoding="utf-8",
    )
    songs = training_songs(tmp_path / "songs.csv", TWO)
    assert names_of(songs) == ["a.ogg", "d.ogg"]
    assert [file.path.name for file in songs[1].files("accompaniment")] == ["e.ogg", "f.ogg"]


HEADER = b"vocals_path,accompaniment_path\n"


@pytest.mark.parametrize(
    "source, instruments, message",
    [
        (b"", TWO, "lacks the column vocals_path, accompaniment_path; it has none"),
        (b"a;b\n1;2\n", TWO, "lacks the column .* it has a;b"),
        (b"mix_path,vocals_path\nx,y\n", TWO, "lacks the column accompaniment_path"),
        (HEADER, TWO, "there are no songs in .*: it has no rows"),
        (HEADER + b"\xff\xfe,b\n", TWO, "is not a CSV file in UTF-8"),
        (HEADER + b'"a"b,c\n', TWO, "is not a CSV file"),
        (HEADER + b"x,y\n", TWO, "none of the 1 song in .*there is no file"),
        ("nowhere", TWO, "there is no folder .*nowhere"),
        ("list.txt", TWO, "neither a folder nor a .csv file"),
        ("missing.csv", TWO, "cannot read .*missing.csv: No such file"),
        ("lyrics", TWO, "there are no songs in .*lyrics: expected SONG/voc"),
        ("b", TWO, "is a song itself; give the folder above it"),
        ("", FOUR, "none of the 2 songs .*a song: it lacks drums, bass"),
        ("", ("vocals", "vocals"), "instruments must be different"),
    ],
)
def test_a_source_without_songs(tmp_path, source, instruments, message):
    """Bytes are the contents of a CSV file."""
    touch(tmp_path, "list.txt", "lyrics/a song.txt")
    touch(tmp_path, *(f"{song}/{name}.wav" for song in ("a song", "b") for name in TWO))
    if isinstance(source, bytes):
        (tmp_path / "songs.csv").write_bytes(source)
        source = "songs.csv"
    with pytest.raises(SeparationError, match=message):
        training_songs(tmp_path / source, instruments)


def named(*names) -> Songs:
    return Songs("there", tuple(Song(name, Path(name)) for name in names), TWO)


@settings(deadline=None)
@given(
    names=st.sets(st.text("abcdefgh", min_size=1, max_size=4), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.49),
    seed=st.integers(0, 100),
)
def test_split_is_a_partition_and_one_more_song_moves_at_most_one(names, fraction, seed):
    songs = named(*sorted(names))
    training, validation = split(songs, fraction, seed)
    assert sorted(names_of(training) + names_of(validation)) == sorted(names)
    assert len(validation) == max(round(fraction * len(names)), 1) and len(training)
    assert names_of(split(songs, fraction, seed)[1]) == names_of(validation)
    more = split(named(*sorted(names), "zz"), fraction, seed)[1]
    assert len(set(names_of(validation)) - set(names_of(more))) <= 1


def test_split_by_name_and_by_seed():
    songs = named("Ärger", "b", "c")
    assert names_of(split(songs, ["a\u0308rger"])[1]) == ["Ärger"]
    assert names_of(split(songs, [])[0]) == names_of(split(songs, 0)[0]) == ["Ärger", "b", "c"]
    assert len({tuple(names_of(split(songs, 0.3, seed)[1])) for seed in range(20)}) == 3
    for source, validation, message in (
        (songs, ["Arger"], "there is no song Arger in there; there is Ärger"),
        (songs, ["ärger", "b", "c"], "none is left to train with"),
        (named("a"), 0.1, "of 1 song in there none is left to train with: at least two are needed"),
        (named("a", "b"), 0.9, "of 2 songs .* none is left to train with: set fewer aside"),
        (songs, 1.5, "between 0 and 1, not 1.5"),
    ):
        with pytest.raises(SeparationError, match=message):
            split(source, validation)
