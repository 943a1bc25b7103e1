import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from spleeter_2.audio.codecs import CODECS, Encoding
from spleeter_2.audio.ffmpeg import ffmpeg_command
from spleeter_2.audio.reader import BLOCK, AudioReader
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.errors import SeparationError

RATE = 44100


def tone(nb_samples: int, rate: int = RATE, channels: int = 2) -> np.ndarray:
    time = np.arange(nb_samples) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * 440 * time)[:, None], channels, 1).astype("f4")


def write(path, waveform, rate=RATE, tags=None, **encoding) -> AudioWriter:
    with AudioWriter(path, rate, waveform.shape[1], Encoding(**encoding), tags) as writer:
        for block in np.array_split(waveform, 3):
            writer.write(block)
        writer.finish()
        writer.publish()
    return writer


def read(path, **options):
    with AudioReader(path, **options) as reader:
        return reader, np.concatenate(list(reader.blocks()))


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3", "ogg", "m4a", "wma"])
@pytest.mark.parametrize("rate, channels", [(44100, 2), (8000, 1), (48000, 1), (96000, 2)])
def test_round_trip(tmp_path, either_ffmpeg, codec, rate, channels):
    waveform = tone(2 * rate + 77, rate, channels)
    path = tmp_path / f"ö 'x'.{codec}"
    tags = {"title": 'Das "Lied"', "artist": "Ä = B; C"}
    write(path, waveform, rate, codec=codec, tags=tags)
    reader, again = read(path)
    assert reader.sample_rate == Encoding(codec).nearest_rate(rate)
    assert reader.nb_channels == channels
    assert reader.tags == tags
    assert os.listdir(tmp_path) == [path.name]
    if reader.sample_rate != rate:
        assert len(again) == pytest.approx(len(waveform) * reader.sample_rate / rate, abs=3000)
        return
    if codec in ("m4a", "wma"):  # whole frames of the codec
        assert 0 <= len(again) - len(waveform) <= 4096
    else:
        assert len(again) == len(waveform)
    error = (again[: len(waveform)] - waveform)[4096:-4096]
    assert np.abs(error).max() < (2e-5 if codec in ("wav", "flac") else 0.2)


@pytest.mark.parametrize(
    "codec, bits, subtype, step",
    [
        ("wav", "16", "PCM_16", 2**-16),
        ("wav", "24", "PCM_24", 2**-24),
        ("wav", "32f", "FLOAT", 0),
        ("flac", "16", "PCM_16", 2**-16),
        ("flac", "24", "PCM_24", 2**-24),
    ],
)
def test_bits(tmp_path, codec, bits, subtype, step):
    waveform = np.random.default_rng(0).uniform(-1, 1, (5000, 2)).astype("f4")
    write(tmp_path / "x", waveform, codec=codec, bits=bits)
    assert soundfile.info(tmp_path / "x").subtype == subtype
    again, _ = soundfile.read(tmp_path / "x")
    assert np.abs(again - waveform).max() <= 2 * step + 1e-9


def test_what_is_beyond_full_scale_is_counted_not_rescaled(tmp_path):
    waveform = np.array([[0.5, 1.5], [-1.5, 1.0], [0.1, 0.1]], "f4")
    assert write(tmp_path / "a.wav", waveform).nb_clipped == 2
    again, _ = soundfile.read(tmp_path / "a.wav")
    assert again[0, 0] == 0.5 and again[0, 1] == pytest.approx(1, abs=1e-4) and again[1, 0] == -1
    assert write(tmp_path / "b.wav", waveform, bits="32f").nb_clipped == 0
    assert np.array_equal(soundfile.read(tmp_path / "b.wav")[0], waveform)


def test_blocks_come_a_block_at_a_time(tmp_path):
    write(tmp_path / "x.wav", tone(300_000))
    with AudioReader(tmp_path / "x.wav") as reader:
        assert max(len(block) for block in reader.blocks()) <= BLOCK
        assert reader.seconds == pytest.approx(300_000 / RATE, abs=0.01)


def test_offset_duration_and_rate(tmp_path):
    waveform = tone(3 * RATE)
    write(tmp_path / "x.wav", waveform, bits="32f")
    _, part = read(tmp_path / "x.wav", offset=1.0, duration=0.5)
    assert np.array_equal(part, waveform[RATE : RATE + RATE // 2])
    reader, low = read(tmp_path / "x.wav", sample_rate=22050)
    assert reader.sample_rate == 22050 and len(low) == 3 * 22050
    with pytest.raises(SeparationError, match="ends before 5 s"):
        read(tmp_path / "x.wav", offset=5.0)


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3", "ogg"])
def test_parts_are_cut_at_samples(tmp_path, codec):
    write(tmp_path / "x", tone(4 * RATE), codec=codec)
    _, whole = read(tmp_path / "x")
    _, part = read(tmp_path / "x", offset=1.5, duration=1.25)
    start = RATE + RATE // 2
    assert np.array_equal(part, whole[start : start + RATE + RATE // 4])
    _, rest = read(tmp_path / "x", offset=1.5)
    assert np.array_equal(rest, whole[start:])


@pytest.mark.parametrize("name", ["-x.wav", "a:b.wav", "%d.wav", "ü 'q' \"z\" $HOME.wav"])
def test_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(name, tone(1000))
    assert len(read(name)[1]) == 1000
    assert os.listdir(tmp_path) == [name]


def test_surround_is_mixed_down_with_a_note(tmp_path):
    soundfile.write(tmp_path / "x.wav", 0.1 * tone(1000, channels=6), RATE)
    reader, stereo = read(tmp_path / "x.wav")
    assert stereo.shape == (1000, 2)
    assert len(reader.notes) == 1 and "mixed down to stereo" in reader.notes[0]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is an empty file"),
        (b"dear diary\n" * 100, "is not audio"),
        (np.random.default_rng(0).bytes(20000), "is not audio"),
        (b"RIFF\0\0\0\0WAVE", "is not audio"),
        (b"{}", "is not audio"),
    ],
)
def test_what_is_not_audio(tmp_path, content, words, either_ffmpeg):
    path = tmp_path / "x.mp3"
    path.write_bytes(content)
    with pytest.raises(SeparationError) as raised:
        read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert words in str(raised.value) or "no audio stream" in str(raised.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(SeparationError, match="there is no file"):
        AudioReader(tmp_path / "x.wav")
    with pytest.raises(SeparationError, match="is a folder"):
        AudioReader(tmp_path)


def test_a_name_that_is_not_utf8(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.wav")
    soundfile.write(path, np.zeros((10, 2)), RATE, format="WAV")
    with pytest.raises(SeparationError, match="rename it"):
        AudioReader(os.fsdecode(path))


def test_a_video_without_sound(tmp_path):
    path = tmp_path / "x.mkv"
    command = "-f lavfi -i testsrc=d=0.2:s=64x64 -c:v mpeg4".split()
    subprocess.run([ffmpeg_command(), "-v", "error", *command, path], check=True)
    with pytest.raises(SeparationError, match="has no audio stream"):
        AudioReader(path)


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(SeparationError, match="no samples|not audio"):
        read(tmp_path / "x.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_named_with_its_time(tmp_path, bad):
    waveform = tone(RATE)
    waveform[RATE // 2, 1] = bad
    soundfile.write(tmp_path / "x.wav", waveform, RATE, subtype="FLOAT")
    with pytest.raises(SeparationError, match=r"NaN or infinity at 0\.500 s"):
        read(tmp_path / "x.wav")


def test_what_is_too_loud_for_any_computation(tmp_path):
    waveform = tone(RATE)
    waveform[RATE // 2] = 3e38
    soundfile.write(tmp_path / "x.wav", waveform, RATE, subtype="FLOAT")
    with pytest.raises(SeparationError, match=r"more than 1e\+09 times full scale at 0\.500 s"):
        read(tmp_path / "x.wav")


@pytest.mark.parametrize("endless", [1e308, np.inf])
def test_offset_and_duration_beyond_any_song(tmp_path, endless):
    write(tmp_path / "x.wav", tone(RATE))
    assert len(read(tmp_path / "x.wav", duration=endless)[1]) == RATE
    with pytest.raises(SeparationError, match="x.wav ends before"):
        read(tmp_path / "x.wav", offset=endless)
    for options in ({"offset": -1.0}, {"offset": np.nan}, {"duration": 0.0}):
        with pytest.raises(SeparationError, match="must be (positive|a number of at least 0)"):
            read(tmp_path / "x.wav", **options)


def test_a_cut_file_gives_what_it_has_and_a_warning(tmp_path):
    write(tmp_path / "x.mp3", tone(20 * RATE), codec="mp3")
    data = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 2])
    reader, waveform = read(tmp_path / "cut.mp3")
    assert 8 * RATE < len(waveform) < 12 * RATE
    assert len(reader.notes) == 1 and "cut.mp3" in reader.notes[0]


def test_a_killed_ffmpeg_is_no_damaged_file(tmp_path):
    write(tmp_path / "x.wav", tone(60 * RATE))
    with AudioReader(tmp_path / "x.wav") as reader:
        blocks = reader.blocks()
        next(blocks)
        reader._ffmpeg.process.kill()
        with pytest.raises(SeparationError, match="killed by signal 9 after .* s: try again"):
            list(blocks)


@pytest.mark.parametrize(
    "codec, rate, words",
    [
        ("ogg", RATE, "--bitrate 1 is not supported"),
        ("flac", 2_000_000, "--sample_rate 2000000 is not supported"),
    ],
)
def test_what_an_encoder_refuses(tmp_path, codec, rate, words):
    with pytest.raises(SeparationError, match=words):
        write(tmp_path / "x", tone(1000), rate, codec=codec, bitrate="1")


def test_an_unfinished_file_leaves_nothing(tmp_path):
    with AudioWriter(tmp_path / "a/b/x.wav", RATE, 2) as writer:
        writer.write(tone(1000))
        assert len(list((tmp_path / "a/b").iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.wav"
    path.write_text("old")
    with AudioWriter(path, RATE, 2) as writer:
        writer.write(tone(1000))
    assert path.read_text() == "old"


def test_no_ffmpeg_at_all(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SeparationError, match="install it"):
        ffmpeg_command()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SeparationError, match="cannot write .*: Not a directory"):
        AudioWriter(tmp_path / "file" / "x.wav", RATE, 2)


@pytest.mark.parametrize("name", ["taken", 300 * "x"])
def test_a_name_that_cannot_be_had_is_told_before_any_work(tmp_path, name):
    (tmp_path / "taken").mkdir()
    with pytest.raises(SeparationError, match="cannot write .*(a folder has|too long)"):
        AudioWriter(tmp_path / name, RATE, 2)
    with pytest.raises(SeparationError, match="too long"):
        AudioWriter(tmp_path / "a" / "b" / (300 * "x"), RATE, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_writer_that_cannot_start_leaves_nothing(tmp_path, monkeypatch):
    def nothing(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", nothing)
    with pytest.raises(SeparationError, match="cannot start ffmpeg: no more"):
        AudioWriter(tmp_path / "a" / "x.wav", RATE, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3"])
def test_a_full_disk(tmp_path, codec):
    """A limit on the size of files stands for a disk that is full."""
    program = (
        "import sys, numpy as np\n"
        "from spleeter_2.audio.codecs import Encoding\n"
        "from spleeter_2.audio.writer import AudioWriter\n"
        "noise = np.random.default_rng(0).uniform(-1, 1, (44100, 2)).astype('f4')\n"
        "with AudioWriter(sys.argv[1], 44100, 2, Encoding(sys.argv[2])) as writer:\n"
        "    for _ in range(60): writer.write(noise)\n"
        "    writer.finish(); writer.publish()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x", codec],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert "SeparationError: cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["No space left on device", "I/O", "Broken pipe"])
def test_words_of_write_errors_in_a_title_and_in_a_path(tmp_path, name):
    path = tmp_path / name / "x.wav"
    with AudioWriter(path, RATE, 1, tags={"title": f"x: {name}"}) as writer:
        writer.write(tone(RATE)[:, :1])
        writer.finish()
        writer.publish()
    reader, waveform = read(path)
    assert len(waveform) == RATE and reader.tags["title"] == f"x: {name}"


@pytest.mark.parametrize("codec", CODECS)
def test_a_tag_longer_than_an_argument_is_shortened(tmp_path, codec):
    write(tmp_path / "x", tone(RATE), codec=codec, tags={"comment": 200_000 * "é", "title": "T"})
    tags = read(tmp_path / "x")[0].tags
    assert tags["title"] == "T" and set(tags.get("comment", "é")) == {"é"}


@pytest.mark.parametrize(
    "argument, value",
    [
        ("path", 3),
        ("path", "a\0b"),
        ("sample_rate", "44100"),
        ("sample_rate", -1),
        ("offset", "1"),
        ("offset", float("nan")),
        ("duration", np.array([1, 2])),
        ("stream", -1),
        ("stream", "first"),
    ],
)
def test_arguments_of_a_reader(song, argument, value):
    with pytest.raises(SeparationError, match=f"{argument} must be "):
        AudioReader(**{"path": song, argument: value})


@pytest.mark.parametrize(
    "argument, value",
    [
        ("path", 3),
        ("sample_rate", float("nan")),
        ("nb_channels", 3),
        ("encoding", "wav"),
    ],
)
def test_arguments_of_a_writer(tmp_path, argument, value):
    given = {"path": tmp_path / "x.wav", "sample_rate": 44100, "nb_channels": 2}
    with pytest.raises(SeparationError, match=f"{argument} must be "):
        AudioWriter(**{**given, argument: value})
    assert list(tmp_path.iterdir()) == []
