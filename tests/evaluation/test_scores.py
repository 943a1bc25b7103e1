import museval
import numpy as np
import pytest

from evaluation.bsseval import References
from evaluation.metrics import si_sdr
from evaluation.over_mixture import BANDS, LEVELS, OverMixture, measure
from evaluation.scores import (
    FRAMEWISE,
    SCORERS,
    TrackScorer,
    bss_eval,
    regroup,
    round_to_16_bits,
)
from spleeter_2.errors import SeparationError

RATE = 44100


def score(references, estimates, mixture, sample_rate=RATE, scorer="spleeter_2"):
    return TrackScorer(references, mixture, sample_rate, scorer).score(estimates)


@pytest.fixture(scope="module")
def estimates(stems, mixture):
    """A leaky separation with some noise of its own; ``true_ratios`` knows its scores."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(2, *mixture.shape))
    return {
        "vocals": stems["vocals"] + 0.25 * stems["accompaniment"] + noise[0],
        "accompaniment": stems["accompaniment"] + 0.1 * stems["vocals"] + noise[1],
    }


def ratios(signal, disturbance):
    """In dB, per second."""
    nb_frames = len(signal) // RATE
    energies = [
        np.sum(waveform[: nb_frames * RATE].reshape(nb_frames, -1).astype(float) ** 2, axis=1)
        for waveform in (signal, disturbance)
    ]
    return 10 * np.log10(energies[0] / energies[1])


def test_the_fault_of_band_limited_floats_and_its_cure(stems, estimates):
    """The accompaniment's interference and artifacts are known here: a tenth of the vocals, and
    noise. On decoded AAC as it is, museval misses them by 10 dB and more."""
    names = ("vocals", "accompaniment")
    true = np.stack([stems[name].astype(float) for name in names])
    said = np.stack([estimates[name] for name in names])
    noise = said[1] - true[1] - 0.1 * true[0]
    sir = ratios(true[1], 0.1 * true[0])
    sar = ratios(true[1], noise)
    wrong = bss_eval(true, RATE)(said)
    right = bss_eval(round_to_16_bits(true), RATE)(round_to_16_bits(said))
    plain = sir < 30  # seconds in which the noise does not drown the interference
    assert np.count_nonzero(plain) >= 4
    assert np.max(np.abs(wrong["SIR"][1] - sir)[plain]) > 10
    assert np.max(np.abs(wrong["SAR"][1] - sar)) > 9
    assert np.max(np.abs(right["SIR"][1] - sir)[plain]) < 1.5
    assert np.max(np.abs(right["SAR"][1] - sar)) < 1
    # the SDR needs no projection and is right either way
    assert np.allclose(wrong["SDR"], right["SDR"], atol=0.01)


def test_scores_are_musevals_own(stems, estimates, mixture):
    """On decoded AAC, for which rounding errors of museval's own depend on the CPU."""
    scores = score(stems, estimates, mixture, RATE)
    true, said = ([round_to_16_bits(part[name]) for name in stems] for part in (stems, estimates))
    expected = museval.evaluate(true, said)  # SDR, ISR, SIR, SAR
    for index, name in enumerate(stems):
        for metric, values in zip(("SDR", "ISR", "SIR", "SAR"), expected, strict=True):
            assert np.allclose(scores[name].frames[metric], values[index], atol=2e-6, rtol=0)


def test_models_share_what_depends_on_the_references(stems, estimates, mixture, monkeypatch):
    prepared = []
    monkeypatch.setattr(
        "evaluation.scores.References", lambda *given: prepared.append(1) or References(*given)
    )
    shared = TrackScorer(stems, mixture, RATE)
    for said in (estimates, {name: 0.5 * stem for name, stem in estimates.items()}):
        alone, found = score(stems, said, mixture), shared.score(said)
        for name in stems:
            np.testing.assert_array_equal(found[name].frames["SAR"], alone[name].frames["SAR"])
            assert found[name].sdr == alone[name].sdr
    assert len(prepared) == 1 + 2


def test_whole_track_scores(stems, estimates, mixture):
    short = {name: waveform[:RATE] for name, waveform in stems.items()}
    said = {name: 0.5 * waveform[:RATE] for name, waveform in estimates.items()}
    scores = score(short, said, mixture[:RATE], RATE)
    expected = ratios(short["vocals"], said["vocals"] - short["vocals"])[0]
    assert scores["vocals"].sdr == pytest.approx(expected, abs=1e-3)
    assert scores["vocals"].si_sdr == pytest.approx(
        si_sdr(short["vocals"], 3 * said["vocals"]), abs=0.01
    )


def test_a_silent_frame_has_no_score(stems, estimates, mixture):
    silenced = dict(stems, vocals=stems["vocals"].copy())
    silenced["vocals"][2 * RATE : 3 * RATE] = 0
    scores = score(silenced, estimates, mixture, RATE)
    for name in stems:
        for metric in FRAMEWISE:
            assert np.flatnonzero(np.isnan(scores[name].frames[metric])).tolist() == [2]


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("which", ["reference", "estimate"])
def test_silence_throughout_has_no_framewise_score(stems, estimates, mixture, which, scorer):
    """museval's own function raises here."""
    silence = {"vocals": np.zeros_like(mixture)}
    true = {**stems, **silence} if which == "reference" else stems
    said = {**estimates, **silence} if which == "estimate" else estimates
    scores = score(true, said, mixture, RATE, scorer)
    for name in stems:
        assert len(scores[name].frames["SDR"]) == len(mixture) // RATE
        assert np.isnan(scores[name].frames["SDR"]).all()
        assert np.isfinite(scores[name].sdr) == (name != "vocals" or which == "estimate")
    assert np.isnan(scores["vocals"].si_sdr)
    assert np.isfinite(scores["accompaniment"].si_sdr)


@pytest.mark.parametrize("peak", [0, 1 / 32768, 0.9e-3])
def test_what_counts_as_silence(stems, estimates, mixture, peak):
    """Not only zeros: the dither of a silent stem has no score either, in frames or as a whole."""
    noise = np.random.default_rng(0).uniform(-peak, peak, mixture.shape)
    scores = score({**stems, "vocals": noise}, estimates, mixture, RATE)
    assert np.isnan([scores["vocals"].sdr, scores["vocals"].si_sdr]).all()
    assert np.isfinite([scores["accompaniment"].sdr, scores["accompaniment"].si_sdr]).all()
    for name in stems:
        assert np.isnan(scores[name].frames["SDR"]).all()


def test_what_is_quiet_is_no_silence(stems, estimates, mixture):
    quiet = stems["vocals"] * 2e-3 / np.abs(stems["vocals"]).max()
    scores = score({**stems, "vocals": quiet}, estimates, mixture, RATE)
    assert np.isfinite([scores["vocals"].sdr, scores["vocals"].si_sdr]).all()
    assert np.isfinite(scores["vocals"].frames["SDR"]).any()


def test_an_estimate_without_error_has_no_whole_track_score(stems, mixture):
    """Its error is no sound, so that a constant of the formula would be its score."""
    silence = np.zeros_like(mixture)
    instrumental = {"vocals": silence, "accompaniment": mixture}
    scores = score(instrumental, {"vocals": mixture, "accompaniment": mixture}, mixture, RATE)
    for name in instrumental:
        assert np.isnan([scores[name].sdr, scores[name].si_sdr]).all()
    for step, is_silent in ((1 / 32768, True), (0.9e-3, True), (1.1e-3, False)):
        nearly = score(stems, {**stems, "vocals": stems["vocals"] + step}, mixture, RATE)
        assert np.isnan(nearly["vocals"].sdr) == np.isnan(nearly["vocals"].si_sdr) == is_silent
        assert np.isnan(nearly["accompaniment"].sdr)


@pytest.mark.parametrize("nb_samples", [1, 100, RATE // 2])
def test_a_track_shorter_than_a_frame(stems, estimates, mixture, nb_samples):
    start = slice(RATE, RATE + nb_samples)
    parts = [{name: part[start] for name, part in group.items()} for group in (stems, estimates)]
    scores = score(*parts, mixture[start], RATE)
    for name in stems:
        assert len(scores[name].frames["SDR"]) == 1 and np.isfinite(scores[name].sdr)


def test_what_cannot_be_scored(stems, estimates, mixture):
    """museval pads or cuts an estimate of another length and scores it without a word."""
    with pytest.raises(SeparationError, match="estimate of vocals has 264600 samples"):
        score(stems, {**estimates, "vocals": estimates["vocals"][:264600]}, mixture, RATE)
    with pytest.raises(SeparationError, match="no estimate of accompaniment"):
        score(stems, {"vocals": estimates["vocals"]}, mixture, RATE)
    with pytest.raises(SeparationError, match="NaN or infinity"):
        score(stems, {**estimates, "vocals": estimates["vocals"] * np.nan}, mixture, RATE)
    with pytest.raises(SeparationError, match="the mixture 1000 samples"):
        score(stems, estimates, mixture[:1000], RATE)
    with pytest.raises(SeparationError, match="a sample rate of 500 Hz is too low"):
        score(stems, estimates, mixture, 500)


def test_regrouping():
    four = {name: np.full((3, 2), 2.0**i) for i, name in enumerate(("drums", "vocals", "bass"))}
    two = regroup({**four, "other": np.ones((3, 2))}, ("vocals", "accompaniment"))
    assert list(two) == ["vocals", "accompaniment"]
    assert two["vocals"][0, 0] == 2 and two["accompaniment"][0, 0] == 1 + 4 + 1
    with pytest.raises(SeparationError, match="do not give the 4 sources"):
        regroup(two, ("vocals", "drums", "bass", "other"))
    with pytest.raises(SeparationError, match="do not give the 2 sources"):
        regroup({"vocals": np.ones((3, 2))}, ("vocals", "accompaniment"))


def test_si_sdr():
    generator = np.random.default_rng(0)
    reference, noise = generator.normal(size=(2, 1000, 2))
    noise -= np.sum(noise * reference) / np.sum(reference**2) * reference  # orthogonal
    noise *= np.sqrt(np.sum(reference**2) / np.sum(noise**2)) / 10
    for gain in (0.1, 1, -3):
        assert si_sdr(reference, gain * (reference + noise)) == pytest.approx(20, abs=1e-9)
    assert si_sdr(reference, reference) > 200
    assert np.isnan(si_sdr(reference, 0 * reference))
    assert np.isnan(si_sdr(0 * reference, reference))
    with pytest.raises(ValueError, match="shapes differ"):
        si_sdr(reference, reference[:3])


def tone(frequency, amplitude, seconds=2.0):
    time = np.arange(int(seconds * RATE)) / RATE
    return np.repeat(amplitude * np.sin(2 * np.pi * frequency * time)[:, None], 2, axis=1)


def test_over_the_mixture_where_and_by_how_much():
    mixture = tone(3000, 0.5)
    result = measure(mixture, 1.9 * mixture, RATE)
    assert result.share == 1
    assert result.mean_excess == pytest.approx(20 * np.log10(1.9), abs=0.01)
    assert result.histogram.tolist() == [0, 0, result.over.sum(), 0, 0, 0]
    loud = np.unravel_index(np.argmax(result.bins[:, -1]), (len(BANDS),))[0]
    assert BANDS[loud] == 2000  # the loudest bins are those around 3 kHz
    assert result.bins[:, LEVELS.index(-30.0)].sum() > 2 * 80  # two channels, 87 frames


def test_what_the_mixture_has_is_not_over_it():
    mixture = tone(3000, 0.5) + np.random.default_rng(0).normal(scale=0.01, size=(2 * RATE, 2))
    assert measure(mixture, mixture, RATE).share == 0
    assert measure(mixture, 0.9 * mixture, RATE).share == 0
    assert measure(mixture, -1.1 * mixture, RATE).share == 1
    # rounding moves many bins by a little and is no fault of the estimate
    silence = np.zeros_like(mixture)
    rounding = mixture - round_to_16_bits(mixture)
    assert measure(silence, rounding, RATE).bins.sum() == 0


def test_over_nothing_at_all_is_finite():
    result = measure(np.zeros((3 * RATE, 2)), tone(1000, 0.5, 3), RATE)
    assert result.share == 1 and result.mean_excess == 60
    assert np.isnan(measure(np.zeros((100, 2)), np.zeros((100, 2)), RATE).share)


def test_tables_add_up_and_survive_json():
    mixture = tone(400, 0.1) + tone(5000, 0.01)
    first = measure(mixture, tone(400, 0.2), RATE)
    second = measure(mixture, tone(5000, 0.02), RATE)
    total = first + OverMixture.of_counts(second.counts())
    assert total.over.sum() == first.over.sum() + second.over.sum()
    assert 0 < total.share < 1
    assert first.share < total.share + second.share
    with pytest.raises(ValueError, match="shapes differ"):
        measure(mixture, mixture[:5], RATE)
