import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import RATE
from support.songs import names_of

from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.stft import Transform
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.config.training import USUAL, Augmentation
from spleeter_2.data.cache import CachedSong, StemCache
from spleeter_2.data.examples import Examples, validation_set
from spleeter_2.data.songs import (
    STREAMS,
    Songs,
    StemFile,
    training_songs,
)
from spleeter_2.errors import SeparationError
from spleeter_2.training.batches import as_tf_dataset, named_spectrograms

TWO = ("vocals", "accompaniment")
FOUR = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="session")
def streams(stems) -> dict[str, np.ndarray]:
    """All streams of stempeg's excerpt, float32 ``[S, 2]``."""
    import stempeg

    waveforms, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    return dict(zip(STREAMS, waveforms.astype(np.float32), strict=True))


def write(path: Path, waveform, rate=RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, **options)
    return path


def encode(path: Path, waveform, rate=RATE) -> Path:
    """Write a lossy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioWriter(path, rate, waveform.shape[1], Encoding(path.suffix[1:])) as writer:
        writer.write(waveform)
        writer.finish()
        writer.publish()
    return path


@pytest.fixture
def folder(tmp_path, stems) -> Path:
    """Two good songs, 16-bit and full scale kept, and what a user's folder holds besides."""
    half = {name: 0.5 * stem for name, stem in stems.items()}
    for name, song in (("a song", half), ("b", {key: -stem for key, stem in half.items()})):
        for instrument, stem in song.items():
            write(tmp_path / "set" / name / f"{instrument}.wav", stem, subtype="PCM_16")
    (tmp_path / "set" / "a song" / "cover.jpg").touch()
    (tmp_path / "set" / "list.txt").touch()
    (tmp_path / "set" / "lyrics").mkdir()
    (tmp_path / "set" / ".hidden").mkdir()
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path) -> StemCache:
    return StemCache(tmp_path / "cache")


def synthetic(tmp_path: Path, lengths, instruments=TWO, offset=0) -> Songs:
    """Decoded songs whose samples say where they come from: song in one channel, place in the
    other."""
    for number, nb_samples in enumerate(lengths):
        for column, instrument in enumerate(instruments):
            ramp = np.arange(nb_samples) + 1
            mark = np.full(nb_samples, 100 * (number + 1) + column + offset)
            samples = np.stack([mark, ramp], axis=1).astype(np.int16)
            write(tmp_path / "ramps" / f"song{number}" / f"{instrument}.wav", samples)
    found = training_songs(tmp_path / "ramps", instruments)
    return StemCache(tmp_path / "cache").decode(found)


def said(songs: Songs, what: str) -> dict[str, str]:
    return {note.song: note.detail for note in songs.notes if note.what.startswith(what)}


# --- cache


def test_sixteen_bits_come_back_as_they_are(folder, cache):
    decoded = cache.decode(training_songs(folder, TWO))
    for song in decoded:
        for name in TWO:
            wanted, _ = soundfile.read(folder / song.name / f"{name}.wav", dtype="float32")
            np.testing.assert_array_equal(song.read(name, 0, song.nb_samples), wanted)
            np.testing.assert_array_equal(song.read(name, 1234, 77), wanted[1234:1311])
    assert "0.2 minutes" in str(decoded) and "GB in the cache" in str(decoded)


def test_samples_beyond_full_scale_are_not_clipped(tmp_path, stems, cache):
    loud = 3.0 * stems["vocals"] / np.abs(stems["vocals"]).max()
    path = write(tmp_path / "loud.wav", loud, subtype="FLOAT")
    stem = cache.stem(StemFile(path))
    out = np.zeros_like(loud)
    stem.add_to(out, 0)
    np.testing.assert_allclose(out, loud, atol=0.51 * 3 / 32767)
    assert stem.peak == pytest.approx(3.0) and stem.scale >= 3.0


@settings(deadline=None, max_examples=15)
@given(low=st.floats(-4, 0, width=32), high=st.floats(0, 4, width=32), channels=st.integers(1, 2))
def test_any_sample_comes_back_within_half_a_step(tmp_path_factory, low, high, channels):
    tmp_path = tmp_path_factory.mktemp("values")
    waveform = np.linspace(low, high, 2000 * channels, dtype=np.float32).reshape(-1, channels)
    stem = StemCache(tmp_path / "cache", RATE, channels).stem(
        StemFile(write(tmp_path / "x.wav", waveform, subtype="FLOAT"))
    )
    out = np.zeros_like(waveform)
    stem.add_to(out, 0)
    step = max(1.0, -low, high * 32768 / 32767) / 32768
    np.testing.assert_allclose(out, waveform, atol=0.51 * step)  # and what float32 rounds
    assert stem.scale == pytest.approx(max(1.0, -low, high * 32768 / 32767))


def test_formats_rates_mono_and_lengths(tmp_path, stems, cache):
    import soxr

    vocals, accompaniment = stems["vocals"], stems["accompaniment"]
    root = tmp_path / "set"
    write(root / "48k" / "vocals.flac", 0.5 * soxr.resample(vocals, RATE, 48000), 48000)
    write(root / "48k" / "accompaniment.wav", 0.5 * accompaniment)
    write(root / "mono" / "vocals.aiff", 0.5 * vocals[:, 0])
    write(root / "mono" / "accompaniment.wav", 0.5 * accompaniment[: 5 * RATE])
    encode(root / "lossy" / "vocals.mp3", 0.5 * vocals)
    encode(root / "lossy" / "accompaniment.ogg", 0.5 * accompaniment)
    decoded = cache.decode(training_songs(root, TWO))
    by_name = {song.name: song for song in decoded}
    assert said(decoded, "resampled to 44100 Hz") == {"48k": "vocals: 48000 Hz"}
    assert said(decoded, "mono, doubled to stereo") == {"mono": "vocals"}
    surplus = (len(vocals) - 5 * RATE) / RATE
    assert said(decoded, "cut to the shortest")["mono"] == f"by up to {surplus:.3f} s"
    assert by_name["mono"].nb_samples == 5 * RATE
    mono = by_name["mono"].read("vocals", 0, 5 * RATE)
    np.testing.assert_array_equal(mono[:, 0], mono[:, 1])
    np.testing.assert_allclose(mono[:, 0], 0.5 * vocals[: 5 * RATE, 0], atol=4e-5)  # two roundings
    for name, worst in (("48k", -50), ("lossy", -10)):
        song = by_name[name]
        error = song.read("vocals", 0, song.nb_samples) - 0.5 * vocals[: song.nb_samples]
        level = 10 * np.log10(np.mean(error**2) / np.mean((0.5 * vocals) ** 2))
        assert level < worst, name
    text = str(decoded)
    assert "resampled to 44100 Hz: 1 song: 48k (vocals: 48000 Hz)" in text


def test_silent_broken_and_cut_off_stems(folder, cache, stems):
    nothing = np.zeros((RATE, 2))
    write(folder / "instrumental" / "vocals.wav", nothing)
    write(folder / "instrumental" / "accompaniment.wav", 0.5 * stems["accompaniment"][:RATE])
    for name in TWO:
        write(folder / "silent" / f"{name}.wav", nothing)
        write(folder / "broken" / f"{name}.wav", nothing)
        write(folder / "cut" / f"{name}.wav", 0.5 * stems[name])
        write(folder / "nan" / f"{name}.wav", nothing + np.nan, subtype="FLOAT")
    (folder / "broken" / "vocals.wav").write_bytes(os.urandom(5000))
    whole = (folder / "cut" / "vocals.wav").read_bytes()
    (folder / "cut" / "vocals.wav").write_bytes(whole[: len(whole) // 3])
    decoded = cache.decode(training_songs(folder, TWO))
    assert names_of(decoded) == ["a song", "b", "cut", "instrumental"]
    left_out = said(decoded, "left out")
    assert left_out["silent"] == "all its stems are silent"
    assert "is not audio that ffmpeg can read" in left_out["broken"]
    assert "holds NaN or infinity" in left_out["nan"]
    assert said(decoded, "silent") == {"instrumental": "vocals"}
    assert decoded[2].nb_samples == pytest.approx(len(stems["vocals"]) / 3, rel=0.01)
    assert "cut" in said(decoded, "cut to the shortest")


def test_no_song_that_can_be_decoded(tmp_path, cache):
    for name in TWO:
        write(tmp_path / "set" / "x" / f"{name}.wav", np.zeros((RATE, 2)))
    with pytest.raises(SeparationError, match="none of the 1 song .*x: all its stems are silent"):
        cache.decode(training_songs(tmp_path / "set", TWO))


def test_decoded_once_and_again_when_the_source_changes(folder, cache, monkeypatch):
    songs = training_songs(folder, TWO)
    cache.decode(songs)
    before = {path.name: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    assert len(before) == 4
    with monkeypatch.context() as patch:
        patch.setattr("spleeter_2.data.cache.AudioReader", None)  # nothing may be decoded
        again = cache.decode(songs)
    write(folder / "b" / "vocals.wav", np.full((RATE, 2), 0.25), subtype="PCM_16")
    changed = cache.decode(songs)
    assert changed[1].nb_samples == RATE and again[1].nb_samples > RATE
    assert changed[1].read("vocals", 0, 1).tolist() == [[0.25, 0.25]]
    after = {path.name: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    assert len(after) == 5 and before.items() <= after.items()
    StemCache(cache.folder, 22050, 1).decode(songs)  # other settings, other files
    assert len(list(cache.folder.iterdir())) == 9


def test_a_damaged_cache_file_is_written_anew(folder, cache):
    songs = training_songs(folder, TWO)
    wanted = cache.decode(songs)[0].read("vocals", 0, 5000)
    for path in cache.folder.iterdir():
        path.write_bytes(path.read_bytes()[100:])
    np.testing.assert_array_equal(cache.decode(songs)[0].read("vocals", 0, 5000), wanted)
    for path in cache.folder.iterdir():
        path.write_bytes(b"")
    decoded = cache.decode(songs)
    np.testing.assert_array_equal(decoded[0].read("vocals", 0, 5000), wanted)
    shutil.rmtree(cache.folder)
    with pytest.raises(SeparationError, match="is gone or damaged: run again"):
        decoded[0].read("vocals", 0, 5000)


def test_the_cache_s_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert StemCache().folder == tmp_path / "spleeter-2" / "stems"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert StemCache().folder == tmp_path / "home" / ".cache" / "spleeter-2" / "stems"


def test_a_cache_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SeparationError, match="cannot write to the cache .*/file/x: Not a dir"):
        StemCache(tmp_path / "file" / "x").decode(training_songs(folder, TWO))


CHILD = """
import os, sys, time, resource
from pathlib import Path
from spleeter_2.data.cache import StemCache
from spleeter_2.data.songs import training_songs
from spleeter_2.errors import SeparationError
{setup}
songs = training_songs(Path(sys.argv[1]), ("vocals", "accompaniment"))
try:
    StemCache(Path(sys.argv[2])).decode(songs, jobs=2)
except SeparationError as error:
    sys.exit(f"sentence: {{error}}")
print("done")
"""
SLOW = """
fsync = os.fsync
def slow(descriptor):
    print("written", flush=True)
    time.sleep({seconds})
    fsync(descriptor)
os.fsync = slow
"""


def child(folder, cache, setup="") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(setup=setup), str(folder), str(cache.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_kill_in_the_middle_of_a_write(folder, cache):
    process = child(folder, cache, SLOW.format(seconds=60))
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    left = list(cache.folder.iterdir())
    assert left and all(path.name.startswith(".spleeter-2-") for path in left)
    decoded = cache.decode(training_songs(folder, TWO))
    wanted, _ = soundfile.read(folder / "b" / "vocals.wav", dtype="float32")
    np.testing.assert_array_equal(decoded[1].read("vocals", 0, len(wanted)), wanted)
    assert not any(path.exists() for path in left)
    assert sorted({path.suffix for path in cache.folder.iterdir()}) == [".stem"]


def test_an_interrupt_leaves_nothing_half_written(folder, cache):
    process = child(folder, cache, SLOW.format(seconds=1))
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    files = list(cache.folder.iterdir())
    assert {path.suffix for path in files} == {".stem"} and len(files) < 4


@pytest.mark.slow
def test_two_processes_fill_one_cache(folder, cache):
    processes = [child(folder, cache, SLOW.format(seconds=0.3)) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum(output.count("written") for output, _ in outputs) > 4  # they did meet
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".stem"] * 4
    decoded = cache.decode(training_songs(folder, TWO))
    wanted, _ = soundfile.read(folder / "b" / "vocals.wav", dtype="float32")
    np.testing.assert_array_equal(decoded[1].read("vocals", 0, len(wanted)), wanted)


def test_a_write_that_fails(folder, cache):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))"
    process = child(folder, cache, limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"sentence: cannot write to the cache {cache.folder}: File too large")
    assert "Traceback" not in errors and not list(cache.folder.glob("*"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk(folder, cache, monkeypatch):
    from spleeter_2.data import cache as stem_cache

    monkeypatch.setattr(
        stem_cache, "open", lambda *_, **__: open("/dev/full", "wb", buffering=0), raising=False
    )
    with pytest.raises(SeparationError, match="cannot write to the cache .*: No space left"):
        cache.decode(training_songs(folder, TWO))


# --- examples


def test_an_example_tells_where_it_comes_from(tmp_path):
    songs = synthetic(tmp_path, [500, 900])
    examples = Examples(songs, TWO, 100, seed=3)
    for index in range(50):
        (song, start), second = examples.places(index)
        assert second == (song, start)  # not remixed
        example = examples[index] * 32768
        assert example.shape == (2, 100, 2) and examples[index].dtype == np.float32
        assert 0 <= start <= songs[song].nb_samples - 100
        for column in range(2):
            assert (example[column, :, 0] == 100 * (song + 1) + column).all()
            np.testing.assert_array_equal(example[column, :, 1], np.arange(start, start + 100) + 1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 2**40))
def test_an_example_is_a_function_of_seed_and_index(ramps, seed, index):
    everything = Augmentation(
        remix=0.5, gain=(0.25, 1.25), channel_swap=0.5, speed=0.05, equaliser_db=3, clipping=0.5
    )
    first = Examples(ramps, TWO, 200, everything, seed)
    for other in range(3):  # whatever was asked before
        first[other]
    np.testing.assert_array_equal(
        first[index], Examples(ramps, TWO, 200, everything, seed)[np.int64(index)]
    )
    assert not np.array_equal(first[index], first[index + 1])
    assert not np.array_equal(first[index], Examples(ramps, TWO, 200, everything, seed + 1)[index])


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> Songs:
    return synthetic(tmp_path_factory.mktemp("ramps"), [500, 5000, 900, 1300, 700])


@pytest.mark.parametrize("remix", [0.0, 0.5, 1.0])
def test_songs_are_drawn_equally_often(ramps, remix):
    examples = Examples(ramps, TWO, 100, Augmentation(remix=remix), seed=1)
    drawn = [[place[0] for place in examples.places(index)] for index in range(2000)]
    first, second = zip(*drawn, strict=True)
    assert Counter(first) == dict.fromkeys(range(5), 400)  # the longest no more than the shortest
    for start in range(0, 2000, 5):
        assert sorted(first[start : start + 5]) == list(range(5))
    assert len({first[start : start + 5] for start in range(0, 2000, 5)}) > 80  # of 120 orders
    if remix != 0.5:
        assert Counter(second) == dict.fromkeys(range(5), 400)
    else:
        assert all(abs(count - 400) < 60 for count in Counter(second).values())
    together = np.mean([one == two for one, two in drawn])
    assert together == pytest.approx(1 - remix + remix / 5, abs=0.04)


def test_moments_are_uniform_within_a_song(ramps):
    examples = Examples(ramps, TWO, 400, Augmentation(remix=1.0), seed=1)
    starts = [start for index in range(4000) for song, start in examples.places(index) if song == 0]
    assert min(starts) == 0 and max(starts) == 100  # 500 - 400, both ends included
    counts = np.bincount(starts, minlength=101)
    expected = len(starts) / 101
    statistic = np.sum((counts - expected) ** 2 / expected)
    assert statistic < 150  # chi-square of 100 degrees of freedom: 1 in 1000
    both = [examples.places(index) for index in range(4000)]
    same = np.mean([one[1] == two[1] for one, two in both])
    assert same < 0.02  # instruments have moments of their own


def test_remixed_stems_come_from_their_own_songs(ramps):
    examples = Examples(ramps, TWO, 100, Augmentation(remix=1.0), seed=2)
    example = examples[7] * 32768
    for column, (song, start) in enumerate(examples.places(7)):
        assert (example[column, :, 0] == 100 * (song + 1) + column).all()
        assert example[column, 0, 1] == start + 1


def test_augmentation_leaves_the_places_alone(ramps):
    one = Examples(ramps, TWO, 100, Augmentation(remix=1.0), seed=2)
    other = Examples(ramps, TWO, 100, USUAL, seed=2)
    assert [one.places(index) for index in range(20)] == [
        other.places(index) for index in range(20)
    ]
    gains = np.abs(other[5][:, 50].sum(axis=-1) / one[5][:, 50].sum(axis=-1))
    assert (gains > 0.24).all() and (gains < 1.26).all() and not np.allclose(gains, 1)


def test_a_song_shorter_than_an_example_is_followed_by_silence(tmp_path):
    examples = Examples(synthetic(tmp_path, [300]), TWO, 1000, seed=0)
    assert examples.places(4) == [(0, 0), (0, 0)]
    example = examples[4]
    assert example[:, :300].all() and not example[:, 300:].any()


def test_examples_have_no_end_and_no_songs_are_an_error(ramps):
    with pytest.raises(IndexError):
        Examples(ramps, TWO, 100)[-1]
    with pytest.raises(TypeError):
        iter(Examples(ramps, TWO, 100))
    with pytest.raises(SeparationError, match="no songs to make examples from"):
        Examples([], TWO, 100)


def test_identity_changes_with_the_data(ramps, tmp_path):
    one = Examples(ramps, TWO, 100, USUAL, 1).identity
    assert one == Examples(ramps, TWO, 100, USUAL, 1).identity
    others = [
        Examples(ramps[:4], TWO, 100, USUAL, 1),
        Examples(ramps, TWO[::-1], 100, USUAL, 1),
        Examples(ramps, TWO, 101, USUAL, 1),
        Examples(ramps, TWO, 100, Augmentation(), 1),
        Examples(ramps, TWO, 100, USUAL, 2),
        Examples(synthetic(tmp_path, [500, 5000, 900, 1300, 700], offset=1), TWO, 100, USUAL, 1),
    ]
    # the ramps' peaks are their lengths: an offset of the marks shows only in the shortest song
    assert len({one, *(other.identity for other in others[:5])}) == 6


def test_real_stems_sum_to_their_mixture(tmp_path, streams, cache):
    for name in FOUR:
        write(tmp_path / "set" / "song" / f"{name}.wav", 0.5 * streams[name], subtype="PCM_16")
    two = cache.decode(training_songs(tmp_path / "set", TWO))
    four = cache.decode(training_songs(tmp_path / "set", FOUR))
    assert len(list(cache.folder.iterdir())) == 4  # both share the stems
    ours = Examples(two, TWO, 1 << 16, seed=4)[2]
    theirs = Examples(four, FOUR, 1 << 16, seed=4)[2]
    assert np.abs(ours[1]).max() > 0.01
    np.testing.assert_allclose(ours[1], theirs[1:].sum(axis=0), atol=1e-6)
    np.testing.assert_allclose(ours.sum(axis=0), theirs.sum(axis=0), atol=1e-6)


# --- validation


def test_the_validation_set(tmp_path):
    nb_samples = 4000
    vocals = np.zeros((10 * nb_samples, 2))
    accompaniment = vocals.copy()
    vocals[: 2 * nb_samples] = 0.1
    accompaniment[nb_samples : 4 * nb_samples] = 0.1
    vocals[9 * nb_samples :] = 0.0005  # under -60 dB
    for name, waveform in zip(TWO, (vocals, accompaniment), strict=True):
        write(tmp_path / "set" / "long" / f"{name}.wav", waveform)
        write(tmp_path / "set" / "short" / f"{name}.wav", waveform[: nb_samples // 2])
    songs = StemCache(tmp_path / "cache").decode(training_songs(tmp_path / "set", TWO))
    examples = validation_set(songs, TWO, nb_samples)
    assert examples.places == ((0, 0), (0, 4000), (0, 8000), (0, 12000), (1, 0))
    assert len(examples) == 5 and len(list(examples)) == 5
    np.testing.assert_allclose(examples[1], 0.1, atol=1e-4)
    assert examples[4].shape == (2, nb_samples, 2) and not examples[4][:, 2000:].any()
    halves = validation_set(songs, TWO, nb_samples // 2)
    assert halves.places == tuple((0, 2000 * index) for index in range(8)) + ((1, 0),)
    with pytest.raises(SeparationError, match="no examples to validate with"):
        validation_set([], TWO, 100)


def test_the_validation_set_reaches_the_end_of_a_song(tmp_path):
    songs = synthetic(tmp_path, [1000])
    for nb_samples, starts in ((1000, [0]), (500, [0, 500]), (501, [0]), (400, [0, 400])):
        found = validation_set(songs, TWO, nb_samples)
        assert [start for _, start in found.places] == starts


# --- tf.data


def unchanged(stems):
    return stems


def spectrum(stems):
    return {"mixture": np.fft.rfft(stems.sum(axis=0), axis=0), "level": np.float32(stems.max())}


def test_tf_dataset_is_the_examples_in_order(ramps):
    examples = Examples(ramps, TWO, 100, USUAL, seed=5)
    batches = list(as_tf_dataset(examples, 7, 3, unchanged).take(4).as_numpy_iterator())
    np.testing.assert_array_equal(
        np.concatenate(batches), np.stack([examples[index] for index in range(7, 19)])
    )


def test_tf_dataset_transforms(ramps):
    examples = Examples(ramps, TWO, 100, seed=5)
    dataset = as_tf_dataset(examples, 2, 2, spectrum)
    assert dataset.element_spec["mixture"].shape.as_list() == [None, 51, 2]
    batch = next(iter(dataset))
    assert set(batch) == {"mixture", "level"}
    wanted = [spectrum(examples[index]) for index in (2, 3)]
    for key in batch:
        np.testing.assert_array_equal(batch[key], np.stack([one[key] for one in wanted]))
    pair = next(iter(as_tf_dataset(examples, 0, 1, lambda stems: (stems[0], stems))))
    assert isinstance(pair, tuple) and pair[1].shape == (1, 2, 100, 2)


@pytest.mark.parametrize("nb_instruments", [1, 2, 3])
def test_an_example_has_names(nb_instruments):
    """Of two targets; a third instrument is the residual."""
    waveforms = np.random.default_rng(0).normal(size=(nb_instruments, 2048, 2)).astype(np.float32)
    transform = Transform(256, 64)
    nb_targets = min(nb_instruments, 2)
    example = named_spectrograms(waveforms, nb_targets, transform, 100)
    stems = [transform.forward(waveform)[:, :100] for waveform in waveforms]
    assert set(example) == {"mixture", "targets", *["residual"] * (nb_instruments == 3)}
    np.testing.assert_array_equal(example["targets"], stems[:nb_targets])
    np.testing.assert_allclose(
        example["mixture"], transform.forward(waveforms.sum(axis=0))[:, :100], atol=1e-4
    )
    assert {stft.dtype for stft in example.values()} == {np.dtype(np.complex64)}
    if nb_instruments == 3:
        np.testing.assert_array_equal(example["residual"], stems[2])


def test_workers_share_a_batch(ramps):
    examples = Examples(ramps, TWO, 100, USUAL, seed=5)
    alone = list(as_tf_dataset(examples, 4, 6, unchanged).take(3).as_numpy_iterator())
    shares = [
        list(as_tf_dataset(examples, 4, 2, unchanged, worker, 3).take(3).as_numpy_iterator())
        for worker in range(3)
    ]
    for step in range(3):
        np.testing.assert_array_equal(
            alone[step], np.concatenate([share[step] for share in shares])
        )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(tmp_path):
    """Examples of a song of 200 MB are made in a process that may not have as much."""
    minutes = 20
    path = tmp_path / "set" / "long"
    noise = (np.random.default_rng(0).standard_normal((RATE * 60, 2)) * 1000).astype(np.int16)
    path.mkdir(parents=True)
    for name in TWO:
        with soundfile.SoundFile(path / f"{name}.wav", "w", RATE, 2, "PCM_16") as file:
            for _ in range(minutes):
                file.write(noise)
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from spleeter_2.data.cache import StemCache
from spleeter_2.data.examples import Examples
from spleeter_2.data.songs import training_songs
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = peak()
TWO = ("vocals", "accompaniment")
songs = StemCache(Path(sys.argv[2])).decode(training_songs(Path(sys.argv[1]), TWO))
examples = Examples(songs, TWO, 44100)
for index in range(50):
    examples[index]
print(peak() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "set", tmp_path / "cache"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100  # MB, where a stem has 212 MB in the cache, 423 MB as float
    facts = [path.stat().st_size for path in (tmp_path / "cache").iterdir()]
    assert min(facts) > 200e6


def test_the_footer_tells_where_a_cache_file_comes_from(folder, cache):
    cache.decode(training_songs(folder, TWO))
    sources = set()
    for path in cache.folder.iterdir():
        text = path.read_bytes()[-2000:]
        sources.add(json.loads(text[text.index(b'{"source"') : -8])["source"])
    assert sources == {str(path) for path in folder.glob("*/*.wav")}


def test_a_decoded_song_is_silent_by_its_peaks(tmp_path, cache):
    for number, level in enumerate((0.0005, 0.002)):
        write(tmp_path / f"{number}.wav", np.full((100, 2), level))
    quiet, loud = (cache.stem(StemFile(tmp_path / f"{number}.wav")) for number in range(2))
    song = CachedSong("x", 100, {"a": (quiet, quiet), "b": (quiet, loud)})
    assert song.is_silent("a") and not song.is_silent("b")
