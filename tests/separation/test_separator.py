import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest
import soundfile
import soxr
from support.common import RATE, files_below

from evaluation.metrics import sdr
from spleeter_2 import SeparationError, Separator
from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.reader import AudioReader
from spleeter_2.config.loading import has_weights, load_configuration
from spleeter_2.separation.separator import first_frames

# Whole-track SDR in dB of spleeter_2:grouped on stempeg's excerpt, vocals and accompaniment
PINNED = (5.839, 13.018)


def test_pinned_scores(grouped, stems, mixture):
    estimates = grouped.separate(mixture)
    scores = [sdr(stems[name], estimates[name]) for name in ("vocals", "accompaniment")]
    assert scores == pytest.approx(PINNED, abs=0.05)


def test_better_than_spleeters(grouped, stems, mixture):
    """One network is half a dB better than Spleeter's two on the public excerpt."""
    theirs = Separator("spleeter:2stems").separate(mixture)
    ours = grouped.separate(mixture)
    for name, reference in stems.items():
        assert sdr(reference, ours[name]) > sdr(reference, theirs[name]) + 0.5, name


def test_vocals_go_on_above_the_networks_band(grouped, mixture):
    above = int(12000 / RATE * len(mixture))  # the network's band ends at 11 kHz
    vocals, whole = (
        np.sum(np.abs(np.fft.rfft(x * np.hanning(len(x))[:, np.newaxis], axis=0)[above:]) ** 2)
        for x in (grouped.separate(mixture)["vocals"], mixture)
    )
    assert 1e-3 * whole < vocals < whole


@pytest.mark.parametrize("nb_samples", [1, 1000, 3 * RATE])
def test_stems_sum_to_the_mixture(grouped, mixture, nb_samples):
    waveform = mixture[:nb_samples]
    stems = grouped.separate(waveform)
    assert set(stems) == {"vocals", "accompaniment"}
    for estimate in stems.values():
        assert estimate.shape == waveform.shape and estimate.dtype == np.float32
    assert np.abs(stems["vocals"] + stems["accompaniment"] - waveform).max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 48000, 96000, 192000])
def test_any_sample_rate(grouped, mixture, rate):
    waveform = soxr.resample(mixture[: 2 * RATE + 13], RATE, rate).astype(np.float32)
    stems = grouped.separate(waveform, rate)
    assert stems["vocals"].shape == waveform.shape
    assert np.abs(stems["vocals"] + stems["accompaniment"] - waveform).max() < 1e-6
    if rate > RATE:  # the same vocals, at another rate
        vocals = soxr.resample(stems["vocals"], rate, RATE)
        expected = grouped.separate(mixture[: 2 * RATE + 13])["vocals"]
        assert sdr(expected[2000 : 2 * RATE - 2000], vocals[2000 : 2 * RATE - 2000]) > 20


def test_mono_in_mono_out(grouped, mixture):
    mono = mixture[:RATE].mean(axis=1)
    stems = grouped.separate(mono)
    assert stems["vocals"].shape == (RATE, 1)
    doubled = grouped.separate(np.stack([mono, mono], axis=1))
    assert np.allclose(stems["vocals"][:, 0], doubled["vocals"].mean(axis=1), atol=1e-6)


def test_progress_of_a_long_song(grouped, mixture):
    song = np.tile(mixture, (5, 1))  # 30 s, three windows
    seconds = []
    stems = grouped.separate(song, progress=seconds.append)
    assert len(seconds) >= 3 and seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(len(song) / RATE)
    assert np.abs(stems["vocals"]).max() > 0.1


def test_no_click_where_windows_meet(mixture):
    """Estimates fade into each other: no larger jump there than the music makes elsewhere."""
    song = soxr.resample(np.tile(mixture, (5, 1)), RATE, 2000)
    song = soxr.resample(song, 2000, RATE).astype(np.float32)  # below 1 kHz a jump sticks out
    grouped = Separator("spleeter_2:grouped", overlap=0)
    vocals = grouped.separate(song)["vocals"]
    # the third difference leaves of music below 1 kHz next to nothing, and all of a jump
    jump = np.abs(np.diff(vocals, n=3, axis=0)).max(axis=1)
    windows = grouped._windows
    joins = np.zeros(len(jump), bool)
    for start in range(windows.step, len(song), windows.step):
        joins[start - 100 : start + windows.useful - windows.step + 100] = True
    assert 0 < joins.sum() < len(jump) / 50
    assert jump[joins].max() <= jump[~joins][RATE:-RATE].max()


def test_one_stem_only_and_overlap(mixture):
    with Separator("spleeter_2:mask", stems=["vocals"], overlap=0.5) as separator:
        stems = separator.separate(np.tile(mixture, (3, 1)))
    assert list(stems) == ["vocals"]
    assert stems["vocals"].shape == (3 * len(mixture), 2)


def test_mwf_keeps_the_sum(mixture):
    with Separator("spleeter_2:mask", mwf=True) as separator:
        stems = separator.separate(mixture[: 2 * RATE])
    with Separator("spleeter_2:mask") as separator:
        plain = separator.separate(mixture[: 2 * RATE])
    total = stems["vocals"] + stems["accompaniment"]
    assert np.abs(total - mixture[: 2 * RATE]).max() < 1e-5
    assert 1e-4 < np.abs(stems["vocals"] - plain["vocals"]).max()
    assert sdr(plain["vocals"], stems["vocals"]) > 0


def test_to_file(grouped, song, tmp_path):
    done = grouped.separate_to_file(song, tmp_path / "out")
    assert files_below(tmp_path / "out") == ["song/accompaniment.wav", "song/vocals.wav"]
    assert done.seconds == 2.0 and done.nb_clipped == {"vocals": 0, "accompaniment": 0}
    stems = grouped.separate(soundfile.read(song, dtype="float32")[0])
    for name, path in done.outputs.items():
        written, rate = soundfile.read(path)
        assert rate == RATE and np.abs(written - stems[name]).max() < 2**-15


FLAT = np.linspace(-0.5, 0.5, 2000, dtype="f4").reshape(1000, 2)


@pytest.mark.parametrize(
    "waveform, words",
    [
        (np.zeros((0, 2), "f4"), "at least one sample"),
        (np.zeros((10, 3), "f4"), "1 or 2 channels"),
        (np.zeros((2, 1000), "f4"), "1 or 2 channels"),
        (np.zeros((1, 10, 2), "f4"), "shape"),
        (np.float32(0), "shape"),
        (None, "shape"),
        ({"a": 1}, "shape"),
        ("song.wav", "shape"),
        (np.zeros((10, 2), "i2"), "floating point"),
        (np.zeros((10, 2), bool), "floating point"),
        (np.zeros((10, 2), "c8"), "floating point"),
        (np.full((10, 2), None), "floating point"),
        ([["a", "b"]], "floating point"),
        ([[0.0, 1.0], [0.0]], "equal lengths"),
        (np.full((10, 2), np.nan, "f4"), "NaN"),
        (np.full((10, 2), np.inf, "f2"), "NaN"),
        (np.full((10, 2), 3e38, "f4"), "times full scale at sample 0"),
        (np.full((10, 2), 1e300), "times full scale at sample 0"),
        (np.ma.masked_array(np.zeros((10, 2)), mask=np.eye(10, 2)), "masked"),
    ],
)
def test_bad_waveforms(grouped, waveform, words):
    with pytest.raises(SeparationError, match=words) as caught:
        grouped.separate(waveform)
    assert "\n" not in str(caught.value)
    if words != "at least one sample":  # of a stream, an empty block is no fault
        with pytest.raises(SeparationError, match=words):
            list(grouped.stream([waveform], RATE))


@pytest.mark.parametrize(
    "waveform",
    [
        FLAT.astype("f8"),
        FLAT.astype("f2"),
        FLAT.astype(">f4"),
        FLAT[::-1][::-1],
        np.asfortranarray(FLAT),
        np.repeat(FLAT, 2, axis=0)[::2],
        FLAT.tolist(),
        np.ma.masked_array(FLAT, mask=False),
        np.frombuffer(FLAT.tobytes(), "f4").reshape(FLAT.shape),
    ],
)
def test_other_forms_of_a_waveform(grouped, waveform):
    expected = grouped.separate(FLAT)
    found = grouped.separate(waveform)
    for name, estimate in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], estimate, atol=1e-3)


BAD_RATES = [0, -1, 44100.5, np.nan, np.inf, "44100", True, 10**9, 10**400, 1e3j, [44100], b"1"]


@pytest.mark.parametrize("rate", BAD_RATES)
def test_bad_sample_rates(grouped, song, tmp_path, rate):
    words = "sample_rate must be a whole number between 1000 and 768000, not "
    with pytest.raises(SeparationError, match=words):
        grouped.separate(FLAT, rate)
    with pytest.raises(SeparationError, match=words):
        grouped.stream([FLAT], rate)
    with pytest.raises(SeparationError, match=words):
        grouped.separate_to_file(song, tmp_path, sample_rate=rate)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("rate", [44100.0, np.int32(44100), np.float32(44100), None])
def test_whole_sample_rates(grouped, rate):
    found, expected = grouped.separate(FLAT, rate), grouped.separate(FLAT, RATE)
    np.testing.assert_array_equal(found["vocals"], expected["vocals"])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"stems": ["drums"]}, "accompaniment; not drums"),
        ({"stems": []}, "not an empty list"),
        ({"stems": "vocals"}, "stems must be a list of names, not 'vocals'"),
        ({"stems": [1]}, "stems must be a list of names"),
        ({"stems": 1}, "stems must be a list of names, not 1"),
        ({"overlap": 0.7}, "between 0 and 0.5"),
        ({"overlap": -0.1}, "between 0 and 0.5"),
        ({"overlap": float("nan")}, "between 0 and 0.5"),
        ({"overlap": "0.5"}, "between 0 and 0.5, not '0.5'"),
        ({"overlap": False}, "between 0 and 0.5, not False"),
        ({"overlap": [0.5]}, "between 0 and 0.5, not a value of type list"),
        ({"mwf": 1}, "mwf must be True or False"),
        ({"mwf": "no"}, "mwf must be True or False"),
        ({"device": 0}, "the device must be a string"),
        ({"device": "tpu"}, "must be cpu"),
        ({"device": ""}, "must be cpu"),
        ({"descriptor": "spleeter_2:nothing"}, "known models"),
        ({"descriptor": None}, "descriptor of a model must be a path, not None"),
        ({"descriptor": b"spleeter_2:mask"}, "descriptor of a model must be a path"),
        ({"descriptor": "a\0b"}, "descriptor of a model must be a path"),
        ({"descriptor": ["spleeter_2:mask"]}, "descriptor of a model must be a path"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(SeparationError, match=words) as caught:
        Separator(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stems", [("vocals",), {"vocals"}, iter(["vocals"]), np.array(["vocals"])])
def test_series_of_stems(stems):
    assert Separator(stems=stems, overlap=np.float32(0.5), mwf=np.False_).stems == ("vocals",)


def test_a_descriptor_can_be_a_path(tiny):
    assert Separator(tiny).configuration.name == "tiny"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"codec": "aac"}, "the codec must be one of wav, flac, .*, not 'aac'"),
        ({"codec": None}, "the codec must be one of"),
        ({"codec": ["wav"]}, "the codec must be one of"),
        ({"bits": "12"}, "wav cannot hold --bits 12"),
        ({"bits": 16}, "bits must be a string, not 16"),
        ({"bits": "24", "codec": "mp3"}, "mp3 cannot hold --bits 24"),
        ({"bitrate": 128}, "bitrate must be a string, not 128"),
        ({"bitrate": "loud"}, "--bitrate must be a number"),
        ({"bitrate": "٣k"}, "--bitrate must be a number"),
        ({"codec": "mp3", "sample_rate": 96000}, "mp3 cannot hold 96000 Hz"),
        ({"offset": "1"}, "offset must be a number of at least 0, not '1'"),
        ({"offset": None}, "offset must be a number"),
        ({"offset": -1}, "offset must be a number of at least 0, not -1"),
        ({"offset": np.nan}, "offset must be a number"),
        ({"offset": np.inf}, "offset must be a number"),
        ({"offset": True}, "offset must be a number"),
        ({"duration": 0}, "duration must be positive"),
        ({"duration": "1"}, "duration must be a number, not '1'"),
        ({"duration": np.nan}, "duration must be a number"),
        ({"duration": np.inf}, "duration must be a number"),
        ({"filename_format": 1}, "filename_format must be a path"),
        ({"filename_format": "{instrument}\0.wav"}, "filename_format must be a path"),
        ({"filename_format": ""}, "no file inside"),
        ({"filename_format": "{}"}, "the filename format has the fields"),
        ({"progress": 1}, "progress must be a function, not 1"),
        ({"destination": None}, "destination must be a path, not None"),
        ({"destination": b"out"}, "destination must be a path"),
        ({"source": None}, "source must be a path, not None"),
        ({"source": b"song.wav"}, "source must be a path"),
        ({"source": ["song.wav"]}, "source must be a path, not a value of type list"),
        ({"source": FLAT}, "source must be a path, not a value of type ndarray"),
        ({"source": "so\0ng.wav"}, "source must be a path"),
        ({"source": "FOLDER"}, "is a folder or a pattern: give the path of one song"),
        ({"source": "FOLDER/*.wav"}, "is a folder or a pattern: give the path of one song"),
        ({"source": ""}, "there is no file"),
    ],
)
def test_bad_arguments_to_file(grouped, song, tmp_path, arguments, words):
    """One sentence, and nothing is written."""
    out = tmp_path / "out"
    arguments = {"source": song, "destination": out, **arguments}
    if isinstance(arguments["source"], str):
        arguments["source"] = arguments["source"].replace("FOLDER", str(song.parent))
    with pytest.raises(SeparationError, match=words) as caught:
        grouped.separate_to_file(**arguments)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    "blocks, words",
    [
        (3, "blocks must be of type Iterable"),
        (FLAT, "series of arrays"),
        ([FLAT, FLAT[:, :1]], "equal channels"),
    ],
)
def test_bad_blocks(grouped, blocks, words):
    with pytest.raises(SeparationError, match=words):
        list(grouped.stream(blocks, RATE))


def test_empty_blocks_are_no_fault(grouped):
    (found,) = grouped.stream([FLAT[:0], FLAT, FLAT[:0]], RATE)
    np.testing.assert_array_equal(found["vocals"], grouped.separate(FLAT)["vocals"])


def test_unknown_outputs(grouped, song, tmp_path):
    with AudioReader(song) as reader, pytest.raises(SeparationError, match="not drums"):
        grouped.write_stems(reader, {"drums": str(tmp_path / "drums.wav")}, Encoding())
    with pytest.raises(SeparationError, match="reader must be of type AudioReader"):
        grouped.write_stems(song, {"vocals": str(tmp_path / "vocals.wav")}, Encoding())
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    "vocals, accompaniment, words",
    [
        ("a.wav", 3, "the path of accompaniment must be a path, not 3"),
        ("a.wav", b"b.wav", "the path of accompaniment must be a path"),
        ("a.wav", "a.wav", "the accompaniment would replace the song or another stem"),
        ("song.wav", "b.wav", "the vocals would replace the song or another stem"),
    ],
)
def test_paths_of_stems(grouped, song, tmp_path, monkeypatch, vocals, accompaniment, words):
    monkeypatch.chdir(tmp_path)
    shutil.copy(song, "song.wav")
    outputs = {"vocals": vocals, "accompaniment": accompaniment}
    with AudioReader("song.wav") as reader, pytest.raises(SeparationError, match=words):
        grouped.write_stems(reader, outputs, Encoding())
    assert files_below(tmp_path) == ["song.wav"]
    assert (tmp_path / "song.wav").read_bytes() == song.read_bytes()


def test_a_callback_that_fails_leaves_no_file(grouped, song, tmp_path):
    def progress(seconds):
        raise ValueError("mine")

    before = threading.active_count()
    with pytest.raises(ValueError, match="mine"):
        grouped.separate_to_file(song, tmp_path / "out", progress=progress)
    with pytest.raises(ValueError, match="mine"):
        grouped.separate(FLAT, progress=progress)
    assert list(tmp_path.iterdir()) == [] and threading.active_count() <= before


@pytest.mark.parametrize(
    "device, words",
    [("gpu:7", "there is no gpu:7"), ("tpu", "must be cpu"), ("cpu:²", "must be cpu")],
)
def test_bad_devices(device, words):
    with pytest.raises(SeparationError, match=words):
        Separator(device=device).load()


def test_the_cpu_by_name(mixture):
    stems = Separator("spleeter_2:mask", device="cpu").separate(mixture[:RATE])
    assert np.abs(stems["vocals"]).max() > 0


def test_missing_weights_are_told_before_any_work(tmp_path):
    path = tmp_path / "model.json"
    for weights, words in ((None, "train it"), ("nowhere", "are missing in")):
        data = {"spleeter_2": 1, "base": "spleeter_2:grouped", "weights": weights}
        path.write_text(json.dumps(data))
        with pytest.raises(SeparationError, match=words):
            Separator(str(path))


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "model.json"
    changes = {"spleeter_2": 1, "base": "spleeter_2:mask", "model": {"filters": [8, 16, 32]}}
    path.write_text(json.dumps(changes))
    with pytest.raises(SeparationError, match="do not fit the architecture"):
        Separator(str(path)).load()


def test_no_thread_is_left_behind(grouped, mixture):
    before = threading.active_count()
    stream = grouped.stream(iter([np.tile(mixture, (8, 1))]), RATE)
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(timeout=5)
    assert threading.active_count() <= before


def test_every_shipped_model_that_says_so_has_weights():
    for name in ("grouped", "mask"):
        assert has_weights(load_configuration(f"spleeter_2:{name}").weights)


def test_shifts_are_passes_that_start_at_different_frames(tiny, mixture):
    """The estimate is the mean of all passes, each over the frames of a segment."""
    assert first_frames(5, 64) == (0, 13, 26, 38, 51)
    assert first_frames(1, 8) == (0,)
    with Separator(tiny, shifts=2) as separator:
        separator.load()
        seen = []

        def estimate(spectrogram):
            seen.append(spectrogram)
            return {"vocals": spectrogram * (len(seen) % 2) * 2}  # 2, 0, 2, 0, ...

        separator._network = dataclasses.replace(separator._network, estimate=estimate)
        stems = separator.separate(mixture)
    nb_frames = separator.configuration.segment.nb_frames
    assert all(len(spectrogram) == nb_frames for spectrogram in seen)
    late = first_frames(2, separator.configuration.model.stride)[1]
    assert np.array_equal(seen[1][:-late], seen[0][late:])
    with Separator(tiny) as separator:  # one pass of an identity
        separator.load()
        separator._network = dataclasses.replace(
            separator._network, estimate=lambda spectrogram: {"vocals": spectrogram}
        )
        expected = separator.separate(mixture)
    assert np.abs(expected["vocals"]).max() > 0.1
    for name, stem in expected.items():
        assert np.abs(stems[name] - stem).max() < 1e-5


def test_windows_that_are_too_short_for_shifts(tiny, tmp_path):
    configuration = {"spleeter_2": 1, "base": str(tiny), "segment": {"nb_frames": 16, "trim": 1300}}
    (tmp_path / "short.json").write_text(json.dumps(configuration))
    with pytest.raises(SeparationError, match="too short for 16 shifts: give fewer"):
        Separator(tmp_path / "short.json", shifts=16)


@pytest.mark.parametrize("shifts", [0, 17, 1.5, "2", True, None])
def test_numbers_of_shifts(tiny, shifts):
    with pytest.raises(SeparationError, match="shifts must be a whole number between 1 and 16"):
        Separator(tiny, shifts=shifts)
