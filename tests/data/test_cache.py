import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import RATE
from support.songs import TWO, details, names_of, write

from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.data.cache import CachedSong, StemCache
from spleeter_2.data.songs import StemFile, training_songs
from spleeter_2.errors import SeparationError


def encode(path, waveform) -> None:
    """Write a lossy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioWriter(path, RATE, waveform.shape[1], Encoding(path.suffix[1:])) as writer:
        writer.write(waveform)
        writer.finish()
        writer.publish()


def check_samples(decoded, folder) -> None:
    """All stems of a 16-bit data set equal their sources."""
    assert names_of(decoded) == ["a song", "b"]
    for song in decoded:
        for name in TWO:
            expected, _ = soundfile.read(folder / song.name / f"{name}.wav", dtype="float32")
            np.testing.assert_array_equal(song.read(name, 0, song.nb_samples), expected)
            np.testing.assert_array_equal(song.read(name, 1234, 77), expected[1234:1311])


def test_16_bit_samples_and_sources_are_kept(folder, cache):
    decoded = cache.decode(training_songs(folder, TWO))
    check_samples(decoded, folder)
    assert "0.2 minutes" in str(decoded) and "GB in the cache" in str(decoded)
    ends = [path.read_bytes()[-2000:-8] for path in cache.folder.iterdir()]
    sources = {json.loads(end[end.index(b'{"source"') :])["source"] for end in ends}
    assert sources == {str(path) for path in folder.glob("*/*.wav")}


@settings(deadline=None, max_examples=15)
@given(low=st.floats(-4, 0, width=32), high=st.floats(0, 4, width=32), channels=st.integers(1, 2))
def test_any_sample_is_kept_within_half_a_step(tmp_path_factory, low, high, channels):
    """Samples beyond full scale are not clipped."""
    folder = tmp_path_factory.mktemp("values")
    nb_samples = 140_000  # more than one block of the reader
    waveform = np.linspace(low, high, nb_samples * channels, dtype=np.float32)
    waveform = waveform.reshape(nb_samples, channels)
    path = write(folder / "x.wav", waveform, subtype="FLOAT")
    stem = StemCache(folder / "cache", RATE, channels).stem(StemFile(path))
    out = np.zeros_like(waveform)
    stem.add_to(out, 0)
    scale = max(1.0, -low, high * 32768 / 32767)
    np.testing.assert_allclose(out, waveform, atol=0.51 * scale / 32768)  # float32 rounds too
    assert stem.scale == pytest.approx(scale) and stem.peak == pytest.approx(max(-low, high))


def test_formats_rates_mono_and_lengths(tmp_path, stems, cache):
    import soxr

    vocals, accompaniment = 0.5 * stems["vocals"], 0.5 * stems["accompaniment"]
    root = tmp_path / "set"
    write(root / "48k" / "vocals.flac", soxr.resample(vocals, RATE, 48000), 48000)
    write(root / "48k" / "accompaniment.wav", accompaniment)
    write(root / "mono" / "vocals.aiff", vocals[:, 0])
    write(root / "mono" / "accompaniment.wav", accompaniment[: 5 * RATE])
    encode(root / "lossy" / "vocals.mp3", vocals)
    encode(root / "lossy" / "accompaniment.ogg", accompaniment)
    decoded = cache.decode(training_songs(root, TWO))
    songs = {song.name: song for song in decoded}
    assert details(decoded, "resampled to 44100 Hz") == {"48k": "vocals: 48000 Hz"}
    assert "resampled to 44100 Hz: 1 song: 48k (vocals: 48000 Hz)" in str(decoded)
    assert details(decoded, "mono, doubled to stereo") == {"mono": "vocals"}
    surplus = (len(vocals) - 5 * RATE) / RATE
    assert details(decoded, "cut to the shortest")["mono"] == f"by up to {surplus:.3f} s"
    assert songs["mono"].nb_samples == 5 * RATE
    mono = songs["mono"].read("vocals", 0, 5 * RATE)
    np.testing.assert_array_equal(mono[:, 0], mono[:, 1])
    np.testing.assert_allclose(mono[:, 0], vocals[: 5 * RATE, 0], atol=4e-5)  # two roundings
    for name, worst in (("48k", -50), ("lossy", -10)):
        song = songs[name]
        error = song.read("vocals", 0, song.nb_samples) - vocals[: song.nb_samples]
        assert 10 * np.log10(np.mean(error**2) / np.mean(vocals**2)) < worst, name


def test_silent_broken_and_cut_off_stems(folder, cache, stems):
    nothing = np.zeros((RATE, 2))
    write(folder / "instrumental" / "vocals.wav", nothing)
    write(folder / "instrumental" / "accompaniment.wav", 0.5 * stems["accompaniment"][:RATE])
    for name in TWO:
        write(folder / "silent" / f"{name}.wav", nothing)
        write(folder / "broken" / f"{name}.wav", nothing)
        write(folder / "cut" / f"{name}.wav", 0.5 * stems[name])
        write(folder / "nan" / f"{name}.wav", nothing + np.nan, subtype="FLOAT")
    (folder / "broken" / "vocals.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    cut = folder / "cut" / "vocals.wav"
    os.truncate(cut, cut.stat().st_size // 3)
    decoded = cache.decode(training_songs(folder, TWO))
    assert names_of(decoded) == ["a song", "b", "cut", "instrumental"]
    left_out = details(decoded, "left out")
    assert left_out["silent"] == "all its stems are silent"
    assert "is not audio that ffmpeg can read" in left_out["broken"]
    assert "holds NaN or infinity" in left_out["nan"]
    assert details(decoded, "silent") == {"instrumental": "vocals"}
    assert decoded[2].nb_samples == pytest.approx(len(stems["vocals"]) / 3, rel=0.01)
    assert "cut" in details(decoded, "cut to the shortest")


def test_silence_is_below_60_db(tmp_path, cache):
    quiet, loud = (
        cache.stem(StemFile(write(tmp_path / f"{level}.wav", np.full((100, 2), level))))
        for level in (0.0005, 0.002)
    )
    song = CachedSong("x", 100, {"a": (quiet, quiet), "b": (quiet, loud)})
    assert song.is_silent("a") and not song.is_silent("b")
    for name in TWO:
        write(tmp_path / "set" / "x" / f"{name}.wav", np.zeros((RATE, 2)))
    with pytest.raises(SeparationError, match="none of the 1 song .*x: all its stems are silent"):
        cache.decode(training_songs(tmp_path / "set", TWO))


def test_a_stem_is_decoded_again_when_its_source_changes(folder, cache, monkeypatch):
    def times():
        return {path.name: path.stat().st_mtime_ns for path in cache.folder.iterdir()}

    songs = training_songs(folder, TWO)
    cache.decode(songs)
    before = times()
    assert len(before) == 4
    with monkeypatch.context() as patch:
        patch.setattr("spleeter_2.data.cache.AudioReader", None)  # nothing may be decoded
        again = cache.decode(songs)
    write(folder / "b" / "vocals.wav", np.full((RATE, 2), 0.25), subtype="PCM_16")
    changed = cache.decode(songs)
    assert changed[1].nb_samples == RATE and again[1].nb_samples > RATE
    assert changed[1].read("vocals", 0, 1).tolist() == [[0.25, 0.25]]
    assert len(times()) == 5 and before.items() <= times().items()
    StemCache(cache.folder, 22050, 1).decode(songs)  # other settings, other files
    assert len(times()) == 9


def test_a_damaged_cache_file_is_written_again(folder, cache):
    songs = training_songs(folder, TWO)
    cache.decode(songs)
    for start, end in ((100, None), (0, 0)):  # the beginning is missing; an empty file
        for path in cache.folder.iterdir():
            path.write_bytes(path.read_bytes()[start:end])
        decoded = cache.decode(songs)
        check_samples(decoded, folder)
    shutil.rmtree(cache.folder)
    with pytest.raises(SeparationError, match="is gone or damaged: run again"):
        decoded[0].read("vocals", 0, 5000)


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert StemCache().folder == tmp_path / "spleeter-2" / "stems"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert StemCache().folder == tmp_path / "home" / ".cache" / "spleeter-2" / "stems"


def test_without_a_home(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SeparationError, match="no home .*: name a folder with --cache, or in XDG"):
        StemCache()
    assert StemCache(tmp_path).folder == tmp_path


def test_a_home_that_cannot_be_written(folder, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(SeparationError, match="cannot write to the cache /proc/.*--cache"):
        StemCache().decode(training_songs(folder, TWO))


CHILD = """
import os, resource, sys, time
from pathlib import Path
from spleeter_2.data.cache import StemCache
from spleeter_2.data.examples import Examples
from spleeter_2.data.songs import training_songs
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def slow(descriptor):
    os.write(1, b"written\\n")  # print would write the line's end by itself: two threads come here
    time.sleep(float(sys.argv[3]))
    fsync(descriptor)
fsync, os.fsync, start = os.fsync, slow, peak()
songs = training_songs(Path(sys.argv[1]), ("vocals", "accompaniment"))
songs = StemCache(Path(sys.argv[2])).decode(songs, jobs=2)
examples = Examples(songs, songs.instruments, 44100)
for index in range(50):
    examples[index]
print(peak() - start)
"""


def child(folder, cache, seconds=0.0) -> subprocess.Popen:
    """A process that fills the cache, pauses before each fsync and prints the memory growth."""
    command = [sys.executable, "-c", CHILD, folder, cache.folder, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_in_the_middle_of_a_write(folder, cache):
    process = child(folder, cache, 60)
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    left = list(cache.folder.iterdir())
    assert left and all(path.name.startswith(".spleeter-2-") for path in left)
    check_samples(cache.decode(training_songs(folder, TWO)), folder)
    assert not any(path.exists() for path in left)
    assert {path.suffix for path in cache.folder.iterdir()} == {".stem"}


def test_an_interrupt_leaves_nothing_half_written(folder, cache):
    process = child(folder, cache, 1)
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    files = list(cache.folder.iterdir())
    assert {path.suffix for path in files} == {".stem"} and len(files) < 4


@pytest.mark.slow
def test_two_processes_fill_one_cache(folder, cache):
    processes = [child(folder, cache, 0.3) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert (
        sum(output.count("written") for output, _ in outputs) > 4
    )  # four stems, some of them twice
    assert [path.suffix for path in cache.folder.iterdir()] == [".stem"] * 4
    check_samples(cache.decode(training_songs(folder, TWO)), folder)


@pytest.mark.parametrize("reason", ["File too large", "No space left on device"])
def test_a_write_that_fails(folder, cache, reason, monkeypatch, file_size_limit):
    if reason == "File too large":
        file_size_limit(300_000)
    elif os.path.exists("/dev/full"):
        monkeypatch.setattr(
            "spleeter_2.data.cache.open", lambda *_, **__: open("/dev/full", "wb", 0), raising=False
        )
    else:
        pytest.skip("this system has no /dev/full")
    with pytest.raises(SeparationError) as raised:
        cache.decode(training_songs(folder, TWO), jobs=2)
    assert str(raised.value).startswith(f"cannot write to the cache {cache.folder}: {reason}")
    assert not list(cache.folder.glob("*"))


def test_a_folder_that_cannot_be_created(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SeparationError, match="cannot write to the cache .*/file/x: Not a dir"):
        StemCache(tmp_path / "file" / "x").decode(training_songs(folder, TWO))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(tmp_path, cache):
    """A song of 20 minutes: a stem has 212 MB in the cache, 423 MB as float32."""
    noise = (np.random.default_rng(0).standard_normal((RATE * 60, 2)) * 1000).astype(np.int16)
    for name in TWO:
        path = write(tmp_path / "set" / "long" / f"{name}.wav", np.zeros((0, 2)))
        with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
            for _ in range(20):
                file.write(noise)
    process = child(tmp_path / "set", cache)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert float(output.split()[-1]) < 100  # MB
    assert min(path.stat().st_size for path in cache.folder.iterdir()) > 200e6
