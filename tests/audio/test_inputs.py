"""Inputs as users have them: channel positions, several streams, tags, durations, pipes."""

import os
import socket
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from spleeter_2.audio.ffmpeg import ffmpeg_command
from spleeter_2.audio.reader import AudioReader
from spleeter_2.errors import SeparationError

RATE = 44100
NOISE = "-f lavfi -i anoisesrc=d=20:r=44100"
PCM = bytes.fromhex("0100000000001000800000aa00389b71")  # GUID of WAVE_FORMAT_PCM


def read(path, **options):
    with AudioReader(path, **options) as reader:
        return reader, np.concatenate(list(reader.blocks()))


def ffmpeg(*arguments) -> None:
    """Run ffmpeg; an argument with blanks in it is given as a list's element."""
    words = [word for a in arguments for word in (a.split() if isinstance(a, str) else map(str, a))]
    subprocess.run([ffmpeg_command(), "-v", "error", "-y", *words], check=True)


def sine(frequency=440, seconds=2) -> str:
    return f"-f lavfi -i sine={frequency}:d={seconds}"


def extensible(path, samples: np.ndarray, mask: int) -> None:
    """A WAVE_EXTENSIBLE file of 16 bits, whose channels have the positions of a mask."""
    channels = samples.shape[1]
    data = (samples * 32768).astype("<i2").tobytes()
    fields = (0xFFFE, channels, RATE, RATE * 2 * channels, 2 * channels, 16, 22, 16, mask)
    form = struct.pack("<HHIIHHHHI", *fields) + PCM
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form
    chunks += struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks)


def steps(channels: int) -> np.ndarray:
    """Each channel has a constant of its own."""
    return np.tile(np.arange(1, channels + 1) / 32, (RATE, 1))


@pytest.mark.parametrize("mask", [0, 1, 2, 4, 8, 0x10, 0x200, 0x3F])
def test_one_channel_is_mono_whatever_its_position(tmp_path, either_ffmpeg, mask):
    extensible(tmp_path / "x.wav", 16 * steps(1), mask)
    reader, samples = read(tmp_path / "x.wav")
    assert samples.shape == (RATE, 1) and np.all(samples == 0.5)
    assert reader.notes == []


@pytest.mark.parametrize("mask", [0, 3, 0x5, 0x30, 0x600, 0xC0, 0x9, 0x3F])
def test_two_channels_are_stereo_whatever_their_positions(tmp_path, either_ffmpeg, mask):
    extensible(tmp_path / "x.wav", steps(2), mask)
    reader, samples = read(tmp_path / "x.wav")
    assert np.array_equal(samples, steps(2).astype("f4"))
    assert reader.notes == []


@pytest.mark.parametrize(
    "mask, name, left, right",
    [
        (0x3F, "5.1", [1, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1]),
        (0x60F, "5.1(side)", [1, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1]),
        (0x33, "4.0|quad", [1, 0, 1, 0], [0, 1, 0, 1]),
        (0x7, "3.0", [1, 0, 1], [0, 1, 1]),
    ],
)
def test_a_known_layout_is_mixed_down_by_its_rules(
    tmp_path, either_ffmpeg, mask, name, left, right
):
    channels = bin(mask).count("1")
    extensible(tmp_path / "x.wav", steps(channels), mask)
    reader, samples = read(tmp_path / "x.wav")
    gains = np.array([left, right]) * np.where(np.arange(channels) < 2, 1, np.sqrt(0.5))
    assert np.allclose(samples, steps(channels) @ gains.T, atol=1e-6)
    (note,) = reader.notes
    assert "mixed down to stereo" in note and any(part in note for part in name.split("|"))
    assert reader.faults == reader.notes


@pytest.mark.parametrize("channels, mask", [(6, 0), (4, 0), (9, 0), (3, 0xD), (3, 0x109)])
def test_of_an_unknown_layout_the_first_two_channels_are_taken(
    tmp_path, either_ffmpeg, channels, mask
):
    extensible(tmp_path / "x.wav", steps(channels), mask)
    reader, samples = read(tmp_path / "x.wav")
    assert np.array_equal(samples, steps(channels)[:, :2].astype("f4"))
    (note,) = reader.notes
    assert f"{channels} channels" in note and "the first two are taken" in note


def test_positions_do_not_matter_at_another_sample_rate(tmp_path, either_ffmpeg):
    for channels, mask in ((1, 1), (2, 0x600), (9, 0)):
        extensible(tmp_path / "x.wav", steps(channels), mask)
        _, samples = read(tmp_path / "x.wav", sample_rate=22050)
        assert np.allclose(samples[1000:-1000], steps(channels)[0, :2], atol=1e-3)


@pytest.fixture
def film(tmp_path):
    """A picture, a commentary, and the film's own sound as the default stream."""
    ffmpeg(
        f"-f lavfi -i testsrc=d=2:s=64x64 {sine(300)} {sine(440)}",
        "-map 0 -map 1 -map 2 -c:v mpeg4 -c:a flac -disposition:a:0 0 -disposition:a:1 default",
        ["-metadata:s:a:0", "title=Commentary", "-metadata:s:a:0", "language=eng"],
        ["-metadata:s:a:1", "title=Main sound", "-metadata:s:a:1", "language=fra"],
        [tmp_path / "film.mkv"],
    )
    return tmp_path / "film.mkv"


def frequency(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples[:RATE, 0]))))


def test_the_default_stream_is_taken_and_named(film, either_ffmpeg):
    reader, samples = read(film)
    assert frequency(samples) == 440
    (note,) = reader.notes
    for words in ("2 audio streams", "number 2 (fra, Main sound)", "--stream", "1 (eng, Comm"):
        assert words in note
    assert reader.faults == []


def test_most_channels_win_without_a_default(tmp_path):
    ffmpeg(
        f"{sine(300)} {sine(440)} -map 0 -map 1 -c:a flac -ac:a:0 1 -ac:a:1 2 -disposition:a 0",
        [tmp_path / "x.mka"],
    )
    reader, samples = read(tmp_path / "x.mka")
    assert frequency(samples) == 440 and samples.shape[1] == 2
    assert "number 2 is taken" in reader.notes[0] and "another: 1" in reader.notes[0]


def test_a_stream_can_be_named(film):
    reader, samples = read(film, stream=0)
    assert frequency(samples) == 300 and reader.notes == []
    with pytest.raises(SeparationError, match="film.mkv has no audio stream 3, but 2"):
        read(film, stream=2)


def test_sound_that_begins_after_the_picture_is_noted(tmp_path, either_ffmpeg):
    for suffix in ("mkv", "mp4", "ts"):
        path = tmp_path / f"late.{suffix}"
        picture = "-f lavfi -i testsrc=d=4:s=64x64"
        ffmpeg(f"{picture} -itsoffset 1.5 {sine()} -map 0 -map 1 -c:v mpeg4", [path])
        reader, _ = read(path)
        (note,) = reader.notes
        seconds = float(note.split(" begins ")[1].split(" s ")[0])
        assert seconds == pytest.approx(1.5, abs=0.03)
        ffmpeg(f"{picture} {sine()} -map 0 -map 1 -c:v mpeg4", [path])
        assert read(path)[0].notes == []  # the sound ends before the picture: nothing is missing


def test_a_late_begin_without_a_picture_is_no_fault(tmp_path, either_ffmpeg):
    late = f"-itsoffset 5 {sine()}"
    for suffix in ("mka", "webm", "m4a", "ogg"):
        ffmpeg(late, [tmp_path / f"late.{suffix}"])
        assert read(tmp_path / f"late.{suffix}")[0].notes == []
    ffmpeg(f"{late} {sine(300, 8)} -map 0 -map 1 -c:a flac", [tmp_path / "two.mka"])
    (note,) = read(tmp_path / "two.mka")[0].notes
    assert "2 audio streams" in note


def test_a_title_of_several_lines_is_one_line_of_a_note(tmp_path):
    ffmpeg(
        f"{sine(300)} {sine(440)} -map 0 -map 1 -c:a flac",
        ["-metadata:s:a:1", "title=a\nb", tmp_path / "x.mka"],
    )
    assert read(tmp_path / "x.mka")[0].notes[0].endswith("another: 2 (a b)")


def test_a_stream_without_a_decoder_is_named(tmp_path, either_ffmpeg):
    ffmpeg(f"{sine(300)} {sine(440)} -map 0 -map 1 -c:a flac", [tmp_path / "x.mka"])
    content = (tmp_path / "x.mka").read_bytes()
    (tmp_path / "x.mka").write_bytes(content.replace(b"A_FLAC", b"A_NONE", 1))
    with pytest.raises(SeparationError, match="no decoder .* --stream N takes another of its 2"):
        read(tmp_path / "x.mka")
    assert frequency(read(tmp_path / "x.mka", stream=1)[1]) == 440


def test_tags_of_pictures_chapters_and_video_are_not_the_songs(tmp_path, either_ffmpeg):
    chapters = "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=Chapter\ncomment=no\n"
    (tmp_path / "chapters.txt").write_text(";FFMETADATA1\n" + chapters)
    ffmpeg(
        f"-f lavfi -i testsrc=d=2:s=64x64 {sine()}",
        ["-i", tmp_path / "chapters.txt"],
        "-map 0 -map 1 -map_chapters 2 -c:v mpeg4 -c:a flac",
        ["-metadata:s:v", "title=Camera", "-metadata:s:v", "comment=video's", "-shortest"],
        ["-metadata", "artist=A", "-metadata:s:a", "composer=C", tmp_path / "film.mkv"],
    )
    assert read(tmp_path / "film.mkv")[0].tags == {"artist": "A", "composer": "C"}
    assert through_a_pipe(tmp_path / "film.mkv")[0].tags == {"artist": "A", "composer": "C"}
    ffmpeg("-f lavfi -i testsrc=d=0.1:s=64x64 -frames:v 1", [tmp_path / "cover.png"])
    ffmpeg(
        [*sine().split(), "-i", tmp_path / "cover.png"],
        "-map 0 -map 1 -c:v copy -disposition:v attached_pic",
        ["-metadata:s:v", "title=Album cover", "-metadata:s:v", "comment=Cover (front)"],
        [tmp_path / "song.mp3"],
    )
    assert read(tmp_path / "song.mp3")[0].tags == {}


COMMENT = "first = line; #1 \\ [x]\nsecond: line\r\n\n" + 400 * "é" + "\nOutput #0\nend"


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mkv", "mp3", "m4a"])
def test_a_tag_is_read_whole(tmp_path, either_ffmpeg, suffix):
    path = tmp_path / f"x.{suffix}"
    ffmpeg(sine(), ["-metadata", f"comment={COMMENT}", "-metadata", "title=T", path])
    assert read(path)[0].tags == {"title": "T", "comment": COMMENT}


@pytest.mark.parametrize("comment", [30_000 * "line\n" + "end", 300_000 * "x"])
def test_a_very_long_tag(tmp_path, either_ffmpeg, comment):
    metadata = comment.replace("\n", "\\\n")
    (tmp_path / "tags.txt").write_text(f";FFMETADATA1\ntitle=T\ncomment={metadata}\n")
    ffmpeg(sine(), ["-i", tmp_path / "tags.txt", "-map_metadata", 1, tmp_path / "x.flac"])
    reader, samples = read(tmp_path / "x.flac")
    assert len(samples) == 2 * RATE and reader.declared == 2
    assert reader.tags == {"title": "T", "comment": comment}


def test_a_tag_with_words_of_ffmpegs_messages(tmp_path, either_ffmpeg):
    title = "Estimating duration from bitrate\nOutput #0\nStream #0:7 -> #0:0"
    ffmpeg(sine(), ["-metadata", f"title={title}", tmp_path / "x.flac"])
    reader, _ = read(tmp_path / "x.flac")
    assert (reader.tags, reader.declared) == ({"title": title}, 2)


def test_a_tag_in_a_pipe_has_all_its_lines(tmp_path, either_ffmpeg):
    ffmpeg(sine(), ["-metadata", "comment=one\n\ntwo : 2\nthree", tmp_path / "x.flac"])
    assert through_a_pipe(tmp_path / "x.flac")[0].tags["comment"] == "one\n\ntwo : 2\nthree"


def through_a_pipe(path):
    """Read a file through a pipe, by the name of its descriptor."""
    source, sink = os.pipe()

    def feed():
        with open(sink, "wb") as pipe:
            try:
                pipe.write(path.read_bytes())
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        return read(f"/dev/fd/{source}")
    finally:
        os.close(source)
        thread.join()


def test_a_socket(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full((1000, 1), 0.5), RATE)
    source, sink = socket.socketpair()
    sink.sendall((tmp_path / "x.wav").read_bytes())
    sink.close()
    with source:
        assert len(read(f"/dev/fd/{source.fileno()}")[1]) == 1000


@pytest.mark.parametrize("suffix", "wav flac mp3 ogg opus wma aiff mka wv au".split())
def test_a_pipe_gives_what_the_file_gives(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    ffmpeg(sine(), ["-ac", 2, path])
    _, whole = read(path)
    _, piped = through_a_pipe(path)
    nb_samples = min(len(whole), len(piped))
    assert nb_samples > 1.9 * RATE and np.array_equal(piped[:nb_samples], whole[:nb_samples])


def test_an_index_at_the_end_needs_a_file(tmp_path):
    ffmpeg(NOISE, ["-c:a", "aac", tmp_path / "x.m4a"])
    with pytest.raises(SeparationError, match="index of this container .* save it to a file"):
        through_a_pipe(tmp_path / "x.m4a")
    with open(tmp_path / "x.m4a", "rb") as file:  # a descriptor of a file can be sought
        assert len(read(f"/dev/fd/{file.fileno()}")[1]) >= 20 * RATE


@pytest.mark.parametrize(
    "content, words", [(b"", "not audio"), (b"dear diary\n" * 99, "not audio")]
)
def test_a_pipe_without_audio(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SeparationError, match=words) as raised:
        through_a_pipe(tmp_path / "x")
    assert "index" not in str(raised.value)


@pytest.mark.parametrize("how", ["cat x.wav | {}", "{} < x.wav", "cat x.m4a | {}", "{} < x.m4a"])
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(tmp_path, how, name):
    soundfile.write(tmp_path / "x.wav", 0.5 * np.ones((RATE, 1)), RATE)
    ffmpeg(NOISE, ["-c:a", "aac", tmp_path / "x.m4a"])
    script = (
        "import sys\n"
        "from spleeter_2.audio.reader import AudioReader\n"
        "from spleeter_2.errors import SeparationError\n"
        "try:\n"
        "    with AudioReader(sys.argv[1]) as reader: print(sum(map(len, reader.blocks())))\n"
        "except SeparationError as error: print(error)\n"
    )
    (tmp_path / "read.py").write_text(script)
    command = how.format(f"{sys.executable} read.py {name}")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    if how == "cat x.m4a | {}":
        assert "save it to a file first" in done.stdout
    else:
        assert int(done.stdout) >= (RATE if "wav" in how else 20 * RATE)


def test_an_estimated_duration_is_none(tmp_path, either_ffmpeg):
    ffmpeg(
        f"{NOISE} -f lavfi -i anullsrc=d=10 -filter_complex concat=n=2:v=0:a=1 -q:a 2",
        ["-write_xing", 0, "-id3v2_version", 0, tmp_path / "x.mp3"],
    )
    reader, samples = read(tmp_path / "x.mp3")
    assert len(samples) / RATE == pytest.approx(30, abs=0.1)
    assert (reader.declared, reader.seconds, reader.notes) == (None, None, [])


FILM = "-f lavfi -i testsrc=d=8:s=64x64"


@pytest.mark.parametrize(
    "name, options",
    [(f"x.{suffix}", "") for suffix in "wav w64 aiff au flac mp3 aac wv tta mka".split()]
    + [("x.m4a", "-movflags +faststart"), ("x.rf64", "-f wav -rf64 always")]
    + [(f"film.{suffix}", "") for suffix in ("mkv", "ts")]
    + [(f"film.{suffix}", "-movflags +faststart") for suffix in ("mp4", "mov")],
)
def test_a_file_that_is_cut_short_is_a_fault(tmp_path, either_ffmpeg, name, options):
    path = tmp_path / name
    film = f"{FILM} -c:v mpeg4" if "film" in name else ""
    ffmpeg(f"-f lavfi -i anoisesrc=d=8:r=44100:seed=1 {film} {options}", [path])
    reader, samples = read(path)
    assert reader.faults == [] and len(samples) / RATE == pytest.approx(8, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader, samples = read(path)
    assert len(samples) / RATE == pytest.approx(4, abs=1)
    (fault,) = reader.faults
    assert "cut short or damaged" in fault and f"{len(samples) / RATE:.1f} s" in fault


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFDB])
def test_a_wav_file_of_unknown_size_is_whole(tmp_path, either_ffmpeg, size):
    extensible(tmp_path / "x.wav", steps(2), 3)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[64:68] = struct.pack("<I", size)
    (tmp_path / "x.wav").write_bytes(content)
    for reader, samples in (read(tmp_path / "x.wav"), through_a_pipe(tmp_path / "x.wav")):
        assert len(samples) == RATE and reader.faults == []


@pytest.mark.parametrize("skipped", [100, 1000, 1500, 20000])
def test_an_mp3_that_begins_within_a_frame(tmp_path, either_ffmpeg, skipped):
    ffmpeg(sine(seconds=4), ["-ac", 2, tmp_path / "x.mp3"])
    (tmp_path / "y.mp3").write_bytes((tmp_path / "x.mp3").read_bytes()[skipped:])
    reader, samples = read(tmp_path / "y.mp3")
    assert frequency(samples) == 440 and reader.faults == []
    assert len(samples) / RATE == pytest.approx(4 - skipped / 16000, abs=0.15)


@pytest.mark.parametrize("seconds", [0.03, 0.05, 0.09])
@pytest.mark.parametrize("options", ["", "-write_xing 0 -id3v2_version 0"])
def test_an_mp3_of_a_few_frames(tmp_path, either_ffmpeg, seconds, options):
    ffmpeg(sine(seconds=seconds), options, [tmp_path / "x.mp3"])
    reader, samples = read(tmp_path / "x.mp3")
    assert len(samples) >= round(seconds * RATE) and np.abs(samples).max() > 0.05
    assert reader.faults == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [20_000, 120_000])
def test_random_bytes_are_no_mp3(tmp_path, either_ffmpeg, seed, size):
    (tmp_path / "x.mp3").write_bytes(np.random.default_rng(seed).bytes(size))
    with pytest.raises(SeparationError, match="x.mp3 is not audio"):
        read(tmp_path / "x.mp3")
