import shutil
import subprocess
import unicodedata

import musdb
import numpy as np
import pytest
import soundfile
from support.evaluation import NAMES, RATE, excerpt, two, write_folder, write_stem_file

from evaluation.scores import SET_UPS
from evaluation.tracks import file_sizes, find_tracks, load_track, track_seconds
from spleeter_2.errors import SeparationError

TWO, FOUR = SET_UPS[2], SET_UPS[4]


@pytest.mark.parametrize(
    ("layout", "sources"),
    [
        ("musdb18", TWO),
        pytest.param("musdb18_hq", FOUR, marks=pytest.mark.slow),
        pytest.param("musdb18", FOUR, marks=pytest.mark.slow),
        pytest.param("musdb18_hq", TWO, marks=pytest.mark.slow),
    ],
)
def test_samples_are_those_of_musdb(request, layout, sources):
    root = request.getfixturevalue(layout)
    theirs = musdb.DB(str(root), subsets=["test"], is_wav=layout == "musdb18_hq")
    tracks = find_tracks(root)
    assert [track.name for track in tracks] == [track.name for track in theirs] == sorted(NAMES)
    for track, their in zip(tracks, theirs, strict=True):
        song = load_track(track, sources)
        assert song.sample_rate == their.rate == RATE
        assert tuple(song.references) == sources
        assert np.allclose(song.mixture, their.audio, atol=1e-7)
        for name in sources:
            assert np.allclose(song.references[name], their.targets[name].audio, atol=1e-6)


def test_a_plain_folder_of_songs(plain):
    tracks = find_tracks(plain)
    assert [track.name for track in tracks] == sorted(NAMES)
    assert {track.subset for track in tracks} == {"test"}
    song = load_track(tracks[0], TWO)
    expected = two(excerpt(NAMES.index(tracks[0].name), 3))
    for name in TWO:
        assert np.allclose(song.references[name], expected[name], atol=2 / 32768)
    assert track_seconds(tracks[0]) == pytest.approx(3, abs=0.01)
    assert file_sizes(tracks[0])["vocals.wav"] == 3 * RATE * 4 + 44
    with pytest.raises(SeparationError, match="lacks drums, bass, other"):
        load_track(tracks[0], FOUR)


def test_subsets_and_names(musdb18):
    assert [track.name for track in find_tracks(musdb18, "train")] == ["Training"]
    decomposed = unicodedata.normalize("NFD", NAMES[0])
    assert decomposed != NAMES[0]
    assert [t.name for t in find_tracks(musdb18, names=[decomposed, NAMES[2]])] == [
        NAMES[0],
        NAMES[2],
    ]
    with pytest.raises(SeparationError, match="no song Anna - Ete in .*test; there is Anna - Été"):
        find_tracks(musdb18, names=["Anna - Ete"])
    with pytest.raises(SeparationError, match="must be train or test"):
        find_tracks(musdb18, "valid")


def test_how_far_the_mixture_is_from_the_sum(musdb18, musdb18_hq):
    summed, mastered = (
        load_track(find_tracks(root, names=[NAMES[2]])[0], TWO) for root in (musdb18_hq, musdb18)
    )
    assert summed.remainder < -50
    assert -20 < mastered.remainder < -10  # stempeg's excerpt carries a mastered mixture


def test_no_data_set(tmp_path, musdb18_hq):
    with pytest.raises(SeparationError, match="there is no folder"):
        find_tracks(tmp_path / "nowhere")
    with pytest.raises(SeparationError, match="there are no songs in .*MUSDB18-HQ"):
        find_tracks(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "notes.txt").write_text("nothing")
    (tmp_path / "test" / "empty folder").mkdir()
    with pytest.raises(SeparationError, match="there are no songs"):
        find_tracks(tmp_path)
    with pytest.raises(SeparationError, match="has no folder train, but test"):
        find_tracks(musdb18_hq, "train")


def test_two_tracks_of_one_name(tmp_path):
    for form in ("NFC", "NFD"):
        write_folder(tmp_path / unicodedata.normalize(form, "Été"), two(excerpt(0, 1)))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes both for one name")
    with pytest.raises(SeparationError, match="two tracks have the name"):
        find_tracks(tmp_path)


def test_a_folder_and_a_stem_file_of_one_name(tmp_path):
    write_folder(tmp_path / "test" / "Song", excerpt(0, 1))
    write_stem_file(tmp_path / "test" / "Song.stem.mp4", excerpt(0, 1))
    with pytest.raises(SeparationError, match="two tracks have the name Song"):
        find_tracks(tmp_path)


@pytest.fixture
def broken(tmp_path, musdb18_hq):
    """A copy of one song, to be broken; and a function that loads it."""
    folder = tmp_path / "test" / "Song"
    shutil.copytree(musdb18_hq / "test" / NAMES[0], folder)

    def load(sources=FOUR):
        (track,) = find_tracks(tmp_path)
        return load_track(track, sources)

    return folder, load


def test_a_missing_stem(broken):
    """musdb would call the rest of the stems the accompaniment."""
    folder, load = broken
    (folder / "drums.wav").unlink()
    for sources in (TWO, FOUR):
        with pytest.raises(SeparationError, match="Song lacks drums"):
            load(sources)


def test_a_missing_mixture(broken):
    folder, load = broken
    (folder / "mixture.wav").unlink()
    with pytest.raises(SeparationError, match="lacks mixture"):
        load()


def test_stems_of_different_lengths_rates_and_channels(broken):
    folder, load = broken
    drums, _ = soundfile.read(folder / "drums.wav")
    soundfile.write(folder / "drums.wav", drums[:-1], RATE)
    with pytest.raises(
        SeparationError, match="drums has 132299 samples .* cut them to the same length"
    ):
        load()
    soundfile.write(folder / "drums.wav", drums[:, 0], RATE)
    with pytest.raises(SeparationError, match=r"in 1 channel\(s\)"):
        load()
    soundfile.write(folder / "drums.wav", drums, 48000)
    with pytest.raises(SeparationError, match="sample rates differ: .*drums 48000 Hz"):
        load()


def test_a_corrupt_file(broken):
    folder, load = broken
    (folder / "bass.wav").write_bytes(b"this is no audio" * 100)
    with pytest.raises(SeparationError, match="bass.wav is not audio"):
        load()


def test_two_files_of_one_stem(broken):
    folder, load = broken
    shutil.copy(folder / "bass.wav", folder / "bass.flac")
    with pytest.raises(SeparationError, match="bass.flac and bass.wav: keep one"):
        load()


def test_broken_stem_files(tmp_path, musdb18, song):
    folder = tmp_path / "test"
    folder.mkdir()
    whole = (musdb18 / "test" / f"{NAMES[0]}.stem.mp4").read_bytes()
    (folder / "cut.stem.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.stem.mp4").write_bytes(b"")
    shutil.copy(song, folder / "one stream.stem.mp4")
    tracks = {track.name: track for track in find_tracks(tmp_path)}
    assert len(tracks) == 3  # musdb cannot even list these
    for name in ("cut", "empty"):
        with pytest.raises(SeparationError, match=f"{name}.stem.mp4 cannot be read"):
            load_track(tracks[name], TWO)
        assert track_seconds(tracks[name]) == 0
    with pytest.raises(SeparationError, match=r"has 1 audio stream\(s\)"):
        load_track(tracks["one stream"], TWO)


def test_a_stem_file_that_ends_early(tmp_path, musdb18):
    """Its table of contents comes first, so ffmpeg decodes what is left and says nothing."""
    (tmp_path / "test").mkdir()
    source = musdb18 / "test" / f"{NAMES[0]}.stem.mp4"
    moved = tmp_path / "moved.mp4"
    command = ["ffmpeg", "-v", "error", "-i", source, "-map", "0", "-c", "copy"]
    subprocess.run([*command, "-movflags", "+faststart", moved], check=True)
    whole = moved.read_bytes()
    for percent in range(40, 95, 10):
        (tmp_path / "test" / "cut.stem.mp4").write_bytes(whole[: len(whole) * percent // 100])
        (track,) = find_tracks(tmp_path)
        with pytest.raises(SeparationError, match="damaged"):
            load_track(track, TWO)
