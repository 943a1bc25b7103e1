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


@pytest.mark.parametrize("pattern", ["**", "**/"])
def test_a_pattern_that_matches_the_current_folder(music, tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(music)
    songs = plan_outputs([pattern], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert sources(songs, music) == ["a.mp3", "b.wav", "live/c.FLAC", "live/d/e.ogg"]


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


@pytest.fixture
def unreadable(monkeypatch):
    """A function after which the folders of a name cannot be listed."""
    scandir = os.scandir

    def forbid(name):
        def forbidding(path):
            if os.path.basename(path) == name:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", forbidding)  # rights do not bind an administrator

    return forbid


def test_a_folder_that_cannot_be_searched_is_not_passed_over(music, tmp_path, unreadable):
    unreadable("live")
    with pytest.raises(SeparationError, match="cannot search the folder .*live: Permission"):
        plan_outputs([music], tmp_path / "out", TEMPLATE, "wav", STEMS)


def test_folders_that_cannot_be_searched_are_reported_and_the_rest_found(
    music, tmp_path, unreadable
):
    unreadable("d")
    for given, expected in (
        ([str(music)], ["a.mp3", "b.wav", "live/c.FLAC"]),
        ([f"{music}/**/*.[!j]*"], ["a.mp3", "b.wav", "live/c.FLAC"]),
        ([f"{music}/live/d", f"{music}/live/d"], []),
    ):
        errors = []
        songs = plan_outputs(given, tmp_path / "out", TEMPLATE, "wav", STEMS, errors.append)
        assert sources(songs, music) == expected
        message = f"cannot search the folder {music}/live/d: Permission denied"
        assert [str(error) for error in errors] == [message]


SYSTEM = [
    ".Trash-1000",
    ".AppleDouble",
    "__MACOSX",
    "System Volume Information",
    "lost+found",
    "$RECYCLE.BIN",
    "@eaDir",
    "#recycle",
    "Network Trash Folder",
    "@Recently-Snapshot",
]


@pytest.mark.parametrize("name", SYSTEM)
def test_hidden_and_system_folders_are_searched_only_if_they_are_given(music, tmp_path, name):
    (music / "live" / name / "deep").mkdir(parents=True)
    (music / "live" / name / "deep" / "gone.ogg").touch()
    for given, expected in (
        (music, ["a.mp3", "b.wav", "live/c.FLAC", "live/d/e.ogg"]),
        (f"{music}/**/*.ogg", ["live/d/e.ogg"]),
        (f"{music}/live/*", ["live/c.FLAC", "live/cover.jpg", "live/d/e.ogg"]),
        (music / "live" / name, [f"live/{name}/deep/gone.ogg"]),
    ):
        songs = plan_outputs([given], tmp_path / "out", TEMPLATE, "wav", STEMS)
        assert sources(songs, music) == expected


def test_linked_folders_are_followed_once(music, tmp_path):
    (tmp_path / "more" / "f").mkdir(parents=True)
    (tmp_path / "more" / "f" / "g.mp3").touch()
    (music / "a link").symlink_to(tmp_path / "more")
    (music / "live" / "loop").symlink_to(music)
    (music / "0").symlink_to(music / "live")
    expected = ["a link/f/g.mp3", "a.mp3", "b.wav", "live/c.FLAC", "live/d/e.ogg"]
    songs = plan_outputs([music], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert sources(songs, music) == expected
    assert songs[0].outputs["vocals"] == str(tmp_path / "out/a link/f/g/vocals.wav")
    found = plan_outputs([f"{music}/**/*.mp3"], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert {os.path.realpath(song.source) for song in found} == {
        str(tmp_path / "more/f/g.mp3"),
        str(music / "a.mp3"),
    }


def test_what_is_no_file_is_no_song(music, tmp_path):
    os.mkfifo(music / "pipe.wav")  # reading it would never end
    songs = plan_outputs([music], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert "pipe.wav" not in sources(songs, music)


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("[2020] Album/x.wav", "[2020] Album/*.wav"),
        ("Album [2020]/[01] x.wav", "Album [2020]/[01]*.wav"),
        ("Album [2020]/x1.wav", "Album [2020]/x[0-9].wav"),
        ("[a]/[b]/deep/x.wav", "[a]/**/x.wav"),
        ("[live]/x.wav", "[live]"),
    ],
)
def test_brackets_in_a_pattern_may_be_part_of_a_name(music, tmp_path, name, pattern):
    (music / name).parent.mkdir(parents=True)
    (music / name).touch()
    songs = plan_outputs([f"{music}/{pattern}"], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert sources(songs, music) == [name]


def test_a_pattern_as_such_comes_before_names_with_brackets(music, tmp_path):
    for name in ("2/x.wav", "[2020]/x.wav"):
        (music / name).parent.mkdir()
        (music / name).touch()
    songs = plan_outputs([f"{music}/[2020]/*.wav"], tmp_path / "out", TEMPLATE, "wav", STEMS)
    assert sources(songs, music) == ["2/x.wav"]


@pytest.mark.parametrize("output", ["stems", "live/../stems", "link", "live/d"])
@pytest.mark.parametrize("given", ["", "**/*"])
def test_the_output_folder_is_left_out(music, tmp_path, caplog, output, given):
    (music / "live/cover.jpg").unlink()
    (music / "link").symlink_to(music / "stems")
    for name in ("stems/a/vocals.wav", "stems/new name.mp3", "stems/x/y/z.ogg"):
        (music / name).parent.mkdir(parents=True, exist_ok=True)
        (music / name).touch()
    songs = plan_outputs([os.path.join(music, given)], music / output, TEMPLATE, "mp3", STEMS)
    if output == "live/d":
        assert "live/d/e.ogg" not in sources(songs, music)
        assert "1 file(s) in" in caplog.text
    else:
        assert sources(songs, music) == ["a.mp3", "b.wav", "live/c.FLAC", "live/d/e.ogg"]
        assert "3 file(s) in" in caplog.text and "name a file to separate it" in caplog.text
    stem = music / "stems/a/vocals.wav"
    (song,) = plan_outputs([stem], music / output, TEMPLATE, "mp3", STEMS)
    assert song.source == str(stem)


def test_all_that_is_left_out_is_an_error_with_the_reason(music, tmp_path):
    (tmp_path / "all" / "stems").mkdir(parents=True)
    (tmp_path / "all" / "stems" / "vocals.wav").touch()
    for given in ("all", "all/**/*.wav"):
        with pytest.raises(SeparationError, match="all 1 file.s. in .* are left out: stems"):
            plan_outputs([tmp_path / given], tmp_path / "all/stems", TEMPLATE, "wav", STEMS)


@pytest.mark.parametrize("output", ["music", "out"])
def test_folders_of_stems_that_are_named_after_a_song_are_left_out(music, tmp_path, output):
    """As Spleeter writes them, without a mark; other songs may have the names of stems."""
    for name in (
        *("a/vocals.wav", "a/accompaniment.wav", "old/live/c/drums.mp3", "old/live/c/Bass.mp3"),
        *("vocals.wav", "live/vocals.wav", "live/drums.wav", "b/vocals.wav", "b/talk.wav"),
    ):
        (music / name).parent.mkdir(parents=True, exist_ok=True)
        (music / name).touch()
    songs = plan_outputs([music], tmp_path / output, TEMPLATE, "ogg", STEMS)
    assert sources(songs, music) == [
        *("a.mp3", "b.wav", "b/talk.wav", "b/vocals.wav"),
        *("live/c.FLAC", "live/d/e.ogg", "live/drums.wav", "live/vocals.wav", "vocals.wav"),
    ]


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SeparationError, match="no audio file in the folder"):
        plan_outputs([tmp_path / "empty"], tmp_path / "out", TEMPLATE, "wav", STEMS)
