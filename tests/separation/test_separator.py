import json
import threading

import numpy as np
import pytest
import soundfile
import soxr
from support.common import RATE, files_below

from evaluation.metrics import sdr
from spleeter_2 import SeparationError, Separator
from spleeter_2.config.loading import has_weights, load_configuration

# Whole-track SDR in dB of spleeter_2:grouped on stempeg's excerpt, vocals and accompaniment
PINNED = (5.769, 12.948)


def test_pinned_scores(grouped, stems, mixture):
    estimates = grouped.separate(mixture)
    scores = [sdr(stems[name], estimates[name]) for name in ("vocals", "accompaniment")]
    assert scores == pytest.approx(PINNED, abs=0.05)


def test_better_than_upstream(grouped, stems, mixture, deezer_2stems, monkeypatch):
    """One network is half a dB better than Spleeter's two on the public excerpt."""
    monkeypatch.setattr(
        "spleeter.model.provider.ModelProvider.DEFAULT_MODEL_PATH", str(deezer_2stems.parent)
    )
    from spleeter.separator import Separator as Upstream

    upstream = Upstream("spleeter:2stems", multiprocess=False).separate(mixture)
    ours = grouped.separate(mixture)
    for name, reference in stems.items():
        assert sdr(reference, ours[name]) > sdr(reference, upstream[name]) + 0.5, name


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


def test_no_click_where_windows_meet(grouped, mixture):
    """Estimates fade into each other: no larger jump there than the music makes elsewhere."""
    song = soxr.resample(np.tile(mixture, (5, 1)), RATE, 2000)
    song = soxr.resample(song, 2000, RATE).astype(np.float32)  # below 1 kHz a jump sticks out
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


@pytest.mark.parametrize(
    "waveform, words",
    [
        (np.zeros((0, 2), "f4"), "at least one sample"),
        (np.zeros((10, 3), "f4"), "1 or 2 channels"),
        (np.zeros((1, 10, 2), "f4"), "shape"),
        (np.zeros((10, 2), "i2"), "floating point"),
        (np.full((10, 2), np.nan, "f4"), "NaN"),
        (np.full((10, 2), 3e38, "f4"), "times full scale at sample 0"),
    ],
)
def test_bad_waveforms(grouped, waveform, words):
    with pytest.raises(SeparationError, match=words):
        grouped.separate(waveform)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"stems": ["drums"]}, "accompaniment; not drums"),
        ({"stems": []}, "not an empty list"),
        ({"overlap": 0.7}, "between 0 and 0.5"),
        ({"descriptor": "spleeter_2:nothing"}, "known models"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(SeparationError, match=words):
        Separator(**arguments)


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
