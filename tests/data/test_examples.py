from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.songs import FOUR, TWO, synthetic, write

from spleeter_2.audio.stft import Transform
from spleeter_2.config.training import USUAL, Augmentation
from spleeter_2.data.examples import Examples, validation_set
from spleeter_2.data.songs import Songs, training_songs
from spleeter_2.errors import SeparationError
from spleeter_2.training.batches import as_tf_dataset, named_spectrograms

EVERYTHING = Augmentation(
    remix=0.5, gain=(0.25, 1.25), channel_swap=0.5, speed=0.05, equaliser_db=3, clipping=0.5
)


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> Songs:
    return synthetic(tmp_path_factory.mktemp("ramps"), [500, 5000, 900, 1300, 700])


@pytest.mark.parametrize("remix", [0.0, 1.0])
def test_an_example_consists_of_its_places(ramps, remix):
    examples = Examples(ramps, TWO, 100, Augmentation(remix=remix), seed=3)
    remixed = 0
    for index in range(50):
        example, places = examples[index] * 32768, examples.places(index)
        assert example.shape == (2, 100, 2) and examples[index].dtype == np.float32
        for column, (song, start) in enumerate(places):
            assert 0 <= start <= ramps[song].nb_samples - 100
            assert (example[column, :, 0] == 100 * (song + 1) + column).all()
            np.testing.assert_array_equal(example[column, :, 1], np.arange(start, start + 100) + 1)
        remixed += places[0] != places[1]
    assert remixed > 45 if remix else remixed == 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 2**40))
def test_an_example_is_a_function_of_seed_and_index(ramps, seed, index):
    first = Examples(ramps, TWO, 200, EVERYTHING, seed)
    again = Examples(ramps, TWO, 200, EVERYTHING, seed)
    other = Examples(ramps, TWO, 200, EVERYTHING, seed + 1)
    for earlier in range(3):  # earlier reads have no effect
        first[earlier]
    np.testing.assert_array_equal(first[index], again[np.int64(index)])
    assert not np.array_equal(first[index], first[index + 1])
    assert not np.array_equal(first[index], other[index])


@pytest.mark.parametrize("remix", [0.0, 0.5, 1.0])
def test_songs_are_drawn_equally_often(ramps, remix):
    examples = Examples(ramps, TWO, 100, Augmentation(remix=remix), seed=1)
    drawn = [[place[0] for place in examples.places(index)] for index in range(2000)]
    first, second = zip(*drawn, strict=True)
    epochs = [first[start : start + 5] for start in range(0, 2000, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)  # regardless of their lengths
    assert len(set(epochs)) > 80  # of 120 orders
    deviation = max(abs(Counter(second)[song] - 400) for song in range(5))
    assert deviation < 60 if remix == 0.5 else deviation == 0
    together = np.mean([one == two for one, two in drawn])
    assert together == pytest.approx(1 - remix + remix / 5, abs=0.04)


def test_positions_are_uniform_within_a_song(ramps):
    examples = Examples(ramps, TWO, 400, Augmentation(remix=1.0), seed=1)
    places = [examples.places(index) for index in range(4000)]
    starts = [start for both in places for song, start in both if song == 0]
    assert min(starts) == 0 and max(starts) == 100  # 500 - 400, both ends included
    expected = len(starts) / 101
    statistic = np.sum((np.bincount(starts, minlength=101) - expected) ** 2 / expected)
    assert statistic < 150  # chi-square of 100 degrees of freedom: 1 in 1000
    # each instrument has a position of its own
    assert np.mean([one[1] == two[1] for one, two in places]) < 0.02


def test_augmentation_does_not_change_the_places(ramps):
    plain = Examples(ramps, TWO, 100, Augmentation(remix=1.0), seed=2)
    augmented = Examples(ramps, TWO, 100, USUAL, seed=2)
    for index in range(20):
        assert plain.places(index) == augmented.places(index)
    gains = np.abs(augmented[5][:, 50].sum(axis=-1) / plain[5][:, 50].sum(axis=-1))
    assert (gains > 0.24).all() and (gains < 1.26).all() and not np.allclose(gains, 1)


def test_a_song_shorter_than_an_example_is_padded_with_silence(tmp_path):
    examples = Examples(synthetic(tmp_path, [300]), TWO, 1000, seed=0)
    assert examples.places(4) == [(0, 0), (0, 0)]
    assert examples[4][:, :300].all() and not examples[4][:, 300:].any()


def test_examples_have_no_end_and_need_songs(ramps):
    with pytest.raises(IndexError):
        Examples(ramps, TWO, 100)[-1]
    with pytest.raises(TypeError):
        iter(Examples(ramps, TWO, 100))
    with pytest.raises(SeparationError, match="no songs to make examples from"):
        Examples([], TWO, 100)


def test_identity_changes_with_songs_and_options(ramps):
    options = [
        (ramps, TWO, 100, USUAL, 1),
        (ramps[:4], TWO, 100, USUAL, 1),
        (ramps, TWO[::-1], 100, USUAL, 1),
        (ramps, TWO, 101, USUAL, 1),
        (ramps, TWO, 100, Augmentation(), 1),
        (ramps, TWO, 100, USUAL, 2),
    ]
    identities = [Examples(*arguments).identity for arguments in options]
    assert len(set(identities)) == 6
    assert identities == [Examples(*arguments).identity for arguments in options]


def test_accompaniment_is_the_sum_of_its_stems(tmp_path, cache):
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (4, 3 * 65536, 2))
    for name, waveform in zip(FOUR, noise, strict=True):
        write(tmp_path / "set" / "song" / f"{name}.wav", waveform, subtype="PCM_16")
    two, four = (
        Examples(cache.decode(training_songs(tmp_path / "set", names)), names, 65536, seed=4)[2]
        for names in (TWO, FOUR)
    )
    assert np.abs(two[1]).max() > 0.01
    np.testing.assert_allclose(two[1], four[1:].sum(axis=0), atol=1e-6)
    np.testing.assert_allclose(two.sum(axis=0), four.sum(axis=0), atol=1e-6)


def test_the_validation_set_omits_silence(tmp_path, cache):
    vocals, accompaniment = np.zeros((2, 40000, 2))
    vocals[:8000] = 0.1
    accompaniment[4000:16000] = 0.1
    vocals[36000:] = 0.0005  # below -60 dB
    for name, waveform in zip(TWO, (vocals, accompaniment), strict=True):
        write(tmp_path / "set" / "long" / f"{name}.wav", waveform)
        write(tmp_path / "set" / "short" / f"{name}.wav", waveform[:2000])
    songs = cache.decode(training_songs(tmp_path / "set", TWO))
    examples = validation_set(songs, TWO, 4000)
    assert examples.places == ((0, 0), (0, 4000), (0, 8000), (0, 12000), (1, 0))
    assert len(examples) == 5 and len(list(examples)) == 5
    np.testing.assert_allclose(examples[1], 0.1, atol=1e-4)
    assert examples[4].shape == (2, 4000, 2) and not examples[4][:, 2000:].any()
    halves = validation_set(songs, TWO, 2000)
    assert halves.places == (*((0, 2000 * index) for index in range(8)), (1, 0))
    with pytest.raises(SeparationError, match="no examples to validate with"):
        validation_set([], TWO, 100)


def test_the_validation_set_reaches_the_end_of_a_song(tmp_path):
    songs = synthetic(tmp_path, [1000])
    for nb_samples, starts in ((1000, [0]), (500, [0, 500]), (501, [0]), (400, [0, 400])):
        places = validation_set(songs, TWO, nb_samples).places
        assert [start for _, start in places] == starts


@pytest.mark.parametrize("nb_workers", [1, 3])
def test_workers_share_batches_of_consecutive_examples(ramps, nb_workers):
    examples = Examples(ramps, TWO, 100, USUAL, seed=5)
    shares = [
        as_tf_dataset(examples, 4, 6 // nb_workers, np.copy, worker, nb_workers)
        for worker in range(nb_workers)
    ]
    steps = zip(*(share.take(3).as_numpy_iterator() for share in shares), strict=True)
    batches = [np.concatenate(step) for step in steps]
    expected = [[examples[4 + 6 * step + index] for index in range(6)] for step in range(3)]
    np.testing.assert_array_equal(batches, expected)


def test_tf_dataset_transforms(ramps):
    def spectrum(stems):
        return {"mixture": np.fft.rfft(stems.sum(axis=0), axis=0), "level": np.float32(stems.max())}

    examples = Examples(ramps, TWO, 100, seed=5)
    dataset = as_tf_dataset(examples, 2, 2, spectrum)
    assert dataset.element_spec["mixture"].shape.as_list() == [None, 51, 2]
    batch = next(iter(dataset))
    expected = [spectrum(examples[index]) for index in (2, 3)]
    assert set(batch) == {"mixture", "level"}
    for key in batch:
        np.testing.assert_array_equal(batch[key], np.stack([one[key] for one in expected]))
    pair = next(iter(as_tf_dataset(examples, 0, 1, lambda stems: (stems[0], stems))))
    assert isinstance(pair, tuple) and pair[1].shape == (1, 2, 100, 2)


@pytest.mark.parametrize("nb_instruments", [1, 2, 3])
def test_named_spectrograms(nb_instruments):
    """Two targets at most; the third instrument is the residual."""
    waveforms = np.random.default_rng(0).normal(size=(nb_instruments, 2048, 2)).astype(np.float32)
    transform = Transform(256, 64)
    example = named_spectrograms(waveforms, min(nb_instruments, 2), transform, 100)
    stems = [transform.forward(waveform)[:, :100] for waveform in waveforms]
    mixture = transform.forward(waveforms.sum(axis=0))[:, :100]
    assert set(example) == {"mixture", "targets", *["residual"] * (nb_instruments == 3)}
    np.testing.assert_array_equal(example["targets"], stems[:2])
    np.testing.assert_allclose(example["mixture"], mixture, atol=1e-4)
    assert {stft.dtype for stft in example.values()} == {np.dtype(np.complex64)}
    if nb_instruments == 3:
        np.testing.assert_array_equal(example["residual"], stems[2])
