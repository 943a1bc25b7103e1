import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from spleeter_2.separation.upstream import UpstreamSeparator
from support.common import RATE, files_below

from spleeter_2.errors import SeparationError

pytestmark = pytest.mark.spleeter


@pytest.fixture
def model_path(deezer_2stems, monkeypatch):
    """Upstream finds Deezer's weights."""
    return use(monkeypatch, deezer_2stems.parent)


def use(monkeypatch, folder):
    monkeypatch.setattr("spleeter.model.provider.ModelProvider.DEFAULT_MODEL_PATH", str(folder))
    return folder


@pytest.mark.slow
def test_sample_for_sample(spleeter, song, tmp_path, model_path):
    """Behind our front door upstream writes what it writes without it."""
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-o", tmp_path / "ours", song)
    assert status == 0, messages
    program = "from spleeter.__main__ import entrypoint; entrypoint()"
    arguments = ["separate", "-p", "spleeter:2stems", "-o", tmp_path / "theirs", song]
    environment = {"MODEL_PATH": str(model_path), "PATH": __import__("os").environ["PATH"]}
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=environment)
    names = ["song/accompaniment.wav", "song/vocals.wav"]
    assert files_below(tmp_path / "ours") == files_below(tmp_path / "theirs") == names
    for name in names:
        ours, theirs = (soundfile.read(tmp_path / who / name)[0] for who in ("ours", "theirs"))
        assert np.array_equal(ours, theirs) and np.abs(ours).max() > 0.001


@pytest.mark.slow
def test_an_upstream_json_and_one_stem(spleeter, song, tmp_path, model_path):
    from spleeter.utils.configuration import load_configuration

    path = tmp_path / "mine.json"
    path.write_text(json.dumps(load_configuration("spleeter:2stems")))
    status, messages = spleeter(
        "separate", "-p", path, "--stems", "vocals", "-d", 1, "-o", tmp_path / "out", song
    )
    assert status == 0, messages
    assert files_below(tmp_path / "out") == ["song/vocals.wav"]
    assert soundfile.info(tmp_path / "out/song/vocals.wav").frames == RATE


@pytest.mark.slow
def test_dropped_audio_is_announced(spleeter, song, tmp_path, model_path, monkeypatch):
    monkeypatch.setattr("spleeter_2.separation.upstream.DEFAULT_DURATION", 1.0)
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-o", tmp_path, song)
    assert status == 0 and "stops after 1 s of 2 s; give --duration" in messages


@pytest.mark.parametrize("fault", ["empty", "cut", "no download"])
def test_no_separation_with_untrained_weights(
    spleeter, song, tmp_path, deezer_2stems, monkeypatch, fault
):
    folder = use(monkeypatch, tmp_path / "models")
    monkeypatch.setenv("GITHUB_HOST", "http://127.0.0.1:9")  # nobody listens there
    if fault != "no download":
        (folder / "2stems").mkdir(parents=True)
    if fault == "cut":
        for path in deezer_2stems.iterdir():
            (folder / "2stems" / path.name).write_bytes(path.read_bytes()[:100_000])
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-o", tmp_path / "out", song)
    assert status == 1
    assert "weights" in messages and messages.strip().count("\n") == 0, messages
    assert not (tmp_path / "out").exists()
    # the next try may download again
    assert (folder / "2stems").exists() == (fault != "no download")


def test_missing_weights_end_the_run_at_the_first_song(spleeter, song, tmp_path, monkeypatch):
    from spleeter.model.provider import ModelProvider

    use(monkeypatch, tmp_path / "models")
    monkeypatch.setenv("GITHUB_HOST", "http://127.0.0.1:9")  # nobody listens there
    attempts = []
    get = ModelProvider.get
    monkeypatch.setattr(ModelProvider, "get", lambda *args: attempts.append(args) or get(*args))
    other = tmp_path / "other.wav"
    other.write_bytes(song.read_bytes())
    status, messages = spleeter(
        "separate", "-p", "spleeter:2stems", "-o", tmp_path / "out", song, other
    )
    assert status == 1 and "could not be downloaded" in messages
    assert messages.strip().count("\n") == 0, messages
    assert len(attempts) == 1


def test_bad_input_is_told_before_upstream_starts(spleeter, tmp_path, model_path):
    (tmp_path / "x.mp3").write_bytes(b"no audio")
    status, messages = spleeter(
        "separate", "-p", "spleeter:2stems", "-o", tmp_path / "out", tmp_path / "x.mp3"
    )
    assert status == 1 and "is not audio" in messages


@pytest.mark.parametrize("stems, words", [(["drums"], "not drums"), ([], "not an empty list")])
def test_stems_that_the_model_does_not_have(stems, words):
    with pytest.raises(SeparationError, match=f"spleeter:2stems separates vocals, .*{words}"):
        UpstreamSeparator("spleeter:2stems", stems)


def test_a_stem_that_cannot_be_written_leaves_no_empty_folder(
    spleeter, song, tmp_path, model_path, file_size_limit
):
    file_size_limit(100_000)
    out = tmp_path / "a" / "b"
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-o", out, song)
    assert status == 1 and "cannot write" in messages and "ulimit -f" in messages
    assert messages.strip().count("\n") == 0, messages
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["an exception", "nothing written"])
def test_an_adapter_that_fails_leaves_no_empty_folder(
    spleeter, song, tmp_path, model_path, monkeypatch, fault
):
    """The first stem is there, under its temporary name, when the second fails."""
    from spleeter.audio.ffmpeg import FFMPEGProcessAudioAdapter

    saved = []

    class Broken(FFMPEGProcessAudioAdapter):
        def save(self, path, *arguments):
            saved.append(path)
            if len(saved) == 1:
                super().save(path, *arguments)
                assert path.stat().st_size > RATE
            elif fault == "an exception":
                raise RuntimeError("FFMPEG error: b'a\\nx: No space left on device\\nsize=1'")

    monkeypatch.setattr("spleeter.audio.ffmpeg.Broken", Broken, raising=False)
    out, adapter = tmp_path / "a" / "b", "spleeter.audio.ffmpeg.Broken"
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-a", adapter, "-o", out, song)
    words = {
        "an exception": "accompaniment.wav: RuntimeError: x: No space left on device\n",
        "nothing written": "the audio adapter wrote nothing",
    }
    assert status == 1 and "cannot write" in messages and words[fault] in messages
    assert messages.strip().count("\n") == 0, messages
    assert len(saved) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_stems_of_upstream_beside_the_song_are_no_songs(spleeter, song, tmp_path, model_path):
    shutil.copy(song, tmp_path / "song.wav")
    names = ("-f", "{filename}_{instrument}.{codec}", "-o", tmp_path, tmp_path)
    for _ in range(2):
        status, messages = spleeter("separate", "-p", "spleeter:2stems", *names)
        assert status == 0, messages
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "song.wav",
            "song_accompaniment.wav",
            "song_vocals.wav",
        ]


@pytest.mark.parametrize(
    "codec",
    ["mp3", *(pytest.param(x, marks=pytest.mark.slow) for x in ("ogg", "m4a", "wma", "flac"))],
)
def test_whole_stems_of_every_codec_are_taken_for_whole(
    spleeter, song, tmp_path, model_path, codec
):
    status, messages = spleeter(
        "separate", "-p", "spleeter:2stems", "-c", codec, "-o", tmp_path, song
    )
    assert status == 0, messages
    assert files_below(tmp_path) == [f"song/accompaniment.{codec}", f"song/vocals.{codec}"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"instrument_list": 3}, "instrument_list must be of type list"),
        ({"instrument_list": [1]}, "instrument_list must name instruments"),
        ({"sample_rate": "high"}, "sample_rate must be of type int"),
    ],
)
def test_a_configuration_that_upstream_would_trip_over(spleeter, song, tmp_path, changes, words):
    from spleeter.utils.configuration import load_configuration

    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**load_configuration("spleeter:2stems"), **changes}))
    status, messages = spleeter("separate", "-p", path, "-o", tmp_path / "out", song)
    assert status == 1 and words in messages and messages.strip().count("\n") == 0


def test_an_unknown_adapter(spleeter, song, tmp_path, model_path):
    status, messages = spleeter(
        "separate", "-p", "spleeter:2stems", "-a", "no.such.Adapter", "-o", tmp_path / "out", song
    )
    assert status == 1 and "no audio adapter no.such.Adapter" in messages


def test_without_ffprobe(spleeter, song, tmp_path, monkeypatch):
    which = __import__("shutil").which
    monkeypatch.setattr(
        "spleeter_2.separation.upstream.shutil.which",
        lambda name: None if name == "ffprobe" else which(name),
    )
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-o", tmp_path / "out", song)
    assert status == 1 and "needs ffprobe: install it (apt-get install ffmpeg)" in messages


def test_train_passes_through_and_fails_in_one_sentence(spleeter, tmp_path, monkeypatch):
    """Upstream's own configuration names CSV files that nobody has."""
    monkeypatch.chdir(tmp_path)
    status, messages = spleeter("train", "-p", "spleeter:2stems", "-d", tmp_path)
    assert status == 1
    assert "upstream's train failed" in messages and "path/to/t" in messages
