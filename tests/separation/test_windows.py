import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spleeter_2.audio.stft import Transform
from spleeter_2.config.schema import Segment, Stft
from spleeter_2.separation.windows import OverlapAdd, Windows

SMALL = Stft(64, 16)


def overlap_add(blocks, windows, estimate):
    """Stream of blocks -> stream of ``[n, C]``; ``estimate`` takes a window and its index."""
    joined = OverlapAdd(windows)
    for index, (window, nb_left) in enumerate(windows.cut(blocks)):
        yield joined.add(estimate(window, index)[np.newaxis], nb_left)[0]


def through(waveform, stft, windows, cuts=()):
    """A waveform through STFT, inverse STFT and overlap-add of an identity."""
    transform = Transform(stft.frame_length, stft.frame_step)
    late = windows.margin // stft.frame_step  # frames without an estimate, on either side

    def identity(window, index):
        spectrogram = transform.forward(window)
        return transform.inverse(spectrogram[late : len(spectrogram) - late], windows.length)

    blocks = np.split(waveform, sorted(cuts))
    return np.concatenate(list(overlap_add(blocks, windows, identity)))


@settings(deadline=None, max_examples=150)
@given(
    nb_samples=st.integers(1, 5000),
    channels=st.integers(1, 2),
    frames=st.sampled_from([16, 33, 64]),
    trim=st.sampled_from([0, 5, 32, 64]),
    overlap=st.floats(0, 0.5),
    join=st.sampled_from(["linear", "equal", "hann"]),
    stft=st.sampled_from([SMALL, Stft(96, 40), Stft(128, 64)]),
    nb_late=st.integers(0, 5),
    data=st.data(),
)
def test_identity_gives_back_every_sample(
    nb_samples, channels, frames, trim, overlap, join, stft, nb_late, data
):
    waveform = np.random.default_rng(nb_samples).normal(size=(nb_samples, channels))
    waveform = waveform.astype(np.float32)
    cuts = data.draw(st.lists(st.integers(0, nb_samples), max_size=4))
    trim = 0 if join == "hann" else trim
    windows = Windows.of(stft, Segment(frames, trim, overlap, join), nb_late=nb_late)
    assume(windows.useful > stft.frame_length)
    result = through(waveform, stft, windows, cuts)
    assert result.shape == waveform.shape
    assert np.abs(result - waveform).max() < 1e-5


@pytest.mark.parametrize("nb_samples", [1, 2, 2047, 523264, 1_200_000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_identity_at_the_shipped_size(nb_samples, overlap):
    waveform = np.random.default_rng(0).normal(size=(nb_samples, 2)).astype(np.float32)
    windows = Windows.of(Stft(), Segment(), overlap)
    assert np.abs(through(waveform, Stft(), windows) - waveform).max() < 1e-5


@pytest.mark.parametrize("kind", ["sine", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_no_clicks_where_windows_disagree(kind, overlap):
    """Neighbouring windows with other gains: the joint is a fade, never a jump."""
    time = np.arange(20000) / 8000
    tone = np.sin(2 * np.pi * 50 * time) if kind == "sine" else np.ones_like(time)
    waveform = np.repeat(tone[:, np.newaxis], 2, axis=1).astype(np.float32)
    windows = Windows.of(SMALL, Segment(64, 32), overlap)

    def alternate(window, index):
        return window * (1.0 if index % 2 else 0.5)

    result = np.concatenate(list(overlap_add([waveform], windows, alternate)))
    fade = 0.5 / (windows.useful - windows.step)
    assert np.abs(result).max() > 0.99 and np.ptp(np.abs(result[64:])) > 0.3
    assert np.abs(np.diff(result, axis=0)).max() <= np.abs(np.diff(waveform, axis=0)).max() + (
        1.1 * fade
    )


def test_equal_join_halves_what_overlaps():
    windows = Windows.of(SMALL, Segment(64, 32, 0.5, "equal"))
    waveform = np.ones((3 * windows.step, 1), np.float32)

    result = np.concatenate(list(overlap_add([waveform], windows, np.full_like)))[:, 0]
    step = windows.step
    assert np.allclose(result[:step], 0)
    assert np.allclose(result[step : 2 * step], 0.5)
    assert np.allclose(result[2 * step :], 1)


@pytest.mark.parametrize("overlap", [0.0, 0.3])
@pytest.mark.parametrize("nb_late", [0, 3])
def test_windows_between_frames_give_back_every_sample(overlap, nb_late):
    """Songs of all lengths: the last samples may begin a window of their own."""
    stft = SMALL
    windows = Windows.of(stft, Segment(12, 0, overlap, "frames"), nb_late=nb_late)
    transform = Transform(stft.frame_length, stft.frame_step, centred=False)

    def identity(window, index):
        spectrogram = transform.forward(window)
        return transform.inverse(spectrogram[nb_late : len(spectrogram) - nb_late], windows.length)

    for nb_samples in range(1, 500):
        waveform = np.random.default_rng(nb_samples).normal(size=(nb_samples, 1)).astype("f4")
        result = np.concatenate(list(overlap_add([waveform], windows, identity)))
        assert result.shape == waveform.shape
        assert np.abs(result - waveform).max() < 1e-5, nb_samples


def join_of_uvr(song, nb_fft, chunk, overlap, estimate):
    """Whole track at once, as Ultimate Vocal Remover joins the windows of MDX-Net.

    Args:
        overlap: None for its default.
        estimate: takes a window ``[chunk]`` and its index.
    """
    trim, nb_samples = nb_fft // 2, len(song)
    period = chunk - 2 * trim
    padded = np.pad(song, (trim, period + trim - nb_samples % period))
    step = period if overlap is None else int((1 - overlap) * chunk)
    total, weights = np.zeros_like(padded), np.zeros_like(padded)
    for index, start in enumerate(range(0, len(padded), step)):
        window = padded[start : start + chunk]
        weight = np.ones(len(window)) if overlap == 0 else np.hanning(len(window))
        estimated = estimate(np.pad(window, (0, chunk - len(window))), index)
        total[start : start + chunk] += weight * estimated[: len(window)]
        weights[start : start + chunk] += weight
    with np.errstate(invalid="ignore"):
        return (total / weights)[trim : trim + nb_samples]


@settings(deadline=None, max_examples=150)
@given(
    nb_samples=st.integers(1, 3000),
    frames=st.sampled_from([6, 9, 20]),
    overlap=st.sampled_from([None, 0.0, 0.02, 0.25, 0.5, 0.75, 0.8]),
    data=st.data(),
)
def test_join_of_mdx_net(nb_samples, frames, overlap, data):
    """Estimates that differ from window to window, in blocks of any size."""
    song = np.random.default_rng(nb_samples).normal(size=(nb_samples, 1)).astype(np.float32)
    windows = Windows.of(SMALL, Segment(frames, 0, overlap, "hann"))
    chunk = windows.length
    assert chunk == SMALL.frame_step * (frames - 1)

    def estimate(window, index):
        ramp = np.arange(chunk).reshape(-1, *[1] * (window.ndim - 1)) / chunk
        return (window * (index % 3 - 1) + ramp).astype(window.dtype)

    cuts = data.draw(st.lists(st.integers(0, nb_samples), max_size=4))
    blocks = np.split(song, sorted(cuts))
    found = np.concatenate(list(overlap_add(blocks, windows, estimate)))[:, 0]
    whole = song[:, 0].astype(np.float64)
    expected = join_of_uvr(whole, SMALL.frame_length, chunk, overlap, estimate)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-6


def test_nothing_in_nothing_out():
    windows = Windows.of(SMALL, Segment(64, 32))
    assert list(overlap_add([], windows, lambda window, index: window)) == []


@pytest.mark.parametrize("segment", [Segment(64, 32), Segment(64, 0, None, "hann")])
def test_reading_is_bounded(segment):
    """Not more of an endless stream is read than the windows asked for need."""
    windows = Windows.of(SMALL, segment)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 100
            yield np.zeros((100, 2), np.float32)

    stream = overlap_add(endless(), windows, lambda window, index: window)
    for _ in range(10):
        next(stream)
    assert read <= 10 * windows.step + windows.length + 200


def joined_by_msst(song, length, number, fade, estimate):
    """A song joined as MSST does at batch size 1, with the whole song in memory."""
    step = length // number
    border = length - step
    is_extended = len(song) > 2 * border and border > 0
    padded = np.pad(song, ((border, border), (0, 0)), mode="reflect") if is_extended else song
    total, weights = np.zeros(padded.shape), np.zeros((len(padded), 1))
    for start in range(0, len(padded), step):
        part = padded[start : start + length]
        mode = "reflect" if len(part) > length // 2 else "constant"
        window = np.pad(part, ((0, length - len(part)), (0, 0)), mode=mode)
        weight = np.ones((length, 1))
        if start:
            weight[:fade, 0] *= np.linspace(0, 1, fade)
        if start == 0 or start + step < len(padded):
            weight[length - fade :, 0] *= np.linspace(1, 0, fade)
        total[start : start + length] += (weight * estimate(window, start // step))[: len(part)]
        weights[start : start + length] += weight[: len(part)]
    result = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    return result[border : len(result) - border] if is_extended else result


@settings(deadline=None, max_examples=200)
@given(
    nb_samples=st.integers(1, 3000),
    nb_frames=st.integers(10, 30),
    extra=st.integers(0, 15),
    number=st.integers(1, 7),
    data=st.data(),
)
def test_reflected_windows_are_joined_as_by_msst(nb_samples, nb_frames, extra, number, data):
    """Also where windows disagree, songs are shorter than a window, or weights are zero."""
    song = np.random.default_rng(nb_samples).normal(size=(nb_samples, 2)).astype(np.float32)
    cuts = data.draw(st.lists(st.integers(0, nb_samples), max_size=4))
    segment = Segment(nb_frames, 0, 1 - 1 / number, "reflect", extra)
    windows = Windows.of(SMALL, segment)
    assert windows.step == windows.length // number

    def louder(window, index):
        return window * (index + 1)

    blocks = np.split(song, sorted(cuts))
    result = np.concatenate(list(overlap_add(blocks, windows, louder)))
    expected = joined_by_msst(song, windows.length, number, windows.length // 10, louder)
    assert result.shape == song.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("nb_samples", [1, 200, 2000])
def test_reflected_windows_with_shifts_give_back_every_sample(nb_samples):
    windows = Windows.of(SMALL, Segment(33, 0, 0.5, "reflect"), nb_late=4)
    song = np.random.default_rng(0).normal(size=(nb_samples, 1)).astype(np.float32)
    result = through(song, SMALL, windows, [nb_samples // 3])
    assert result.shape == song.shape
    assert np.abs(result - song).max() < 1e-5
