import os

import pytest

from spleeter_2.errors import SeparationError
from spleeter_2.separation.paths import plan_outputs

STEMS = ("vocals", "accompaniment")
TEMPLATE = "{filename}/{instrument}.{codec}"


@pytest.fixture
def music(tmp_path):
    """A folder of (empty) songs in a tree."""
    for name in ("a.mp3", "b.wav", "live/c.FLAC", "live/d/e.ogg", "live/cover.jpg", ".x.mp3"):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "music"


def sources(songs, music):
    return [os.path.relpath(song.source, music) for song in songs]


def test_a_folder_is_searched_and_its_tree_kept(music, tmp_path):
    songs = plan_outputs([music], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert sources(songs, music) == ["a.mp3", "b.wav", "live/c.FLAC", "live/d/e.ogg"]
    assert songs[3].outputs["vocals"] == str(tmp_path / "out/live/d/e/vocals.wav")


def test_patterns(music, tmp_path):
    songs = plan_outputs(
        [f"{music}/*.mp3", f"{music}/**/*.ogg"], tmp_path / "out", TEMPLATE, "wav", STEMS
    )
    assert sources(songs, music) == ["a.mp3", "live/d/e.ogg"]
    with pytest.raises(SeparationError, match="no file matches"):
        plan_outputs([f"{music}/*.xyz"], tmp_path / "out", TEMPLATE, "wav", STEMS)


def test_a_name_with_brackets_is_a_name(music, tmp_path):
    (music / "[live].mp3").touch()
    songs = plan_outputs([music / "[live].mp3"], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert sources(songs, music) == ["[live].mp3"]


def test_a_song_given_twice_is_separated_once(music, tmp_path):
    given = [music / "a.mp3", f"{music}/../music/a.mp3"]
    assert len(plan_outputs(given, tmp_path / "out", TEMPLATE, "wav", STEMS)) == 1


def test_template_fields(music, tmp_path):
    template = "{foldername}-{filename}-{instrument}.{codec}"
    (song,) = plan_outputs([music / "a.mp3"], tmp_path, template, "mp3", ["vocals"])
    assert song.outputs == {"vocals": str(tmp_path / "music-a-vocals.mp3")}


@pytest.mark.parametrize(
    "template, words",
    [
        ("../{instrument}.wav", "no file inside"),
        ("/etc/{instrument}.wav", "no file inside"),
        ("{filename}/../../{instrument}.wav", "no file inside"),
        ("{instrument}/", "no file inside"),
        ("", "no file inside"),
        ("{filename}.wav", "would both be written"),
        ("{instrument.__class__}", "has the fields {filename}"),
        ("{artist}", "not {artist}"),
        ("{0}", "not {0}"),
        ("{instrument", "is broken"),
        ("{instrument:d}", "without : or !"),
        ("{instrument:>99999999999}", "without : or !"),
        ("{instrument!r}", "without : or !"),
    ],
)
def test_templates_that_cannot_work(music, tmp_path, template, words):
    with pytest.raises(SeparationError) as raised:
        plan_outputs([music / "a.mp3"], tmp_path / "out", template, "wav", STEMS)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_two_songs_of_one_name_clash_before_any_work(music, tmp_path):
    (music / "a.flac").touch()
    with pytest.raises(SeparationError, match="would both be written to"):
        plan_outputs([music], tmp_path / "out", TEMPLATE, "wav", STEMS)


def test_a_source_is_never_replaced(music, tmp_path):
    with pytest.raises(SeparationError, match="would replace the source"):
        plan_outputs([music / "b.wav"], music, "{filename}.{codec}", "wav", ["vocals"])


def test_standard_output_takes_one_stem(music, tmp_path):
    (song,) = plan_outputs([music / "a.mp3"], "-", TEMPLATE, "wav", ["vocals"])
    assert song.outputs == {"vocals": "-"}
    for arguments in (([music], "wav", ["vocals"]), ([music / "a.mp3"], "wav", STEMS)):
        inputs, codec, stems = arguments
        with pytest.raises(SeparationError, match="one stem of one song"):
            plan_outputs(inputs, "-", TEMPLATE, codec, stems)


def test_standard_input_is_named_stdin(tmp_path):
    (song,) = plan_outputs(["-"], tmp_path, TEMPLATE, "wav", ["vocals"])
    assert song.source == "-" and song.outputs["vocals"] == str(tmp_path / "stdin/vocals.wav")


def test_a_folder_that_cannot_be_searched_is_not_passed_over(music, tmp_path, monkeypatch):
    scandir = os.scandir

    def forbidding(path):
        if os.path.basename(path) == "live":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)  # rights do not bind an administrator
    with pytest.raises(SeparationError, match="cannot search the folder .*live: Permission"):
        plan_outputs([music], tmp_path / "out", TEMPLATE, "wav", STEMS)


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SeparationError, match="no audio file in the folder"):
        plan_outputs([tmp_path / "empty"], tmp_path / "out", TEMPLATE, "wav", STEMS)
