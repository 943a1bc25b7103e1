"""Stems on disk -> training examples.

    songs = find_songs(Path("MUSDB18"), ("vocals", "accompaniment"))
    songs = StemCache(sample_rate=44100, nb_channels=2).decode(songs)
    training, validation = split(songs, 0.1, seed=0)
    examples = Examples(training, songs.instruments, nb_samples, USUAL, seed=0)
    dataset = as_tf_dataset(examples, start=0, batch_size=4, transform=stft)

``stems.py`` says what may be a source, ``stem_cache.py`` where and how large the cache is. The
mixture of an example is always the sum of its instruments: a data set's own mixture need not be.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import asdict

from spleeter_2.config.training import Augmentation
from spleeter_2.errors import SeparationError

from .augmentation import augment, nb_samples_needed
from .songs import SILENCE, DecodedSong

_ORDER, _CROP, _AUGMENT = range(3)  # purposes of random numbers, which do not touch each other


@dataclass(frozen=True)
class Examples:
    """Training examples without end; each is a pure function of the seed and its index.

    Among the examples ``k N .. (k + 1) N - 1``, N being the number of songs, each instrument comes
    from each song once, in an order that changes with k (for instruments that follow another
    because ``remix`` is between 0 and 1: once on average), at a moment that is uniform within the
    song. A song shorter than an example is followed by silence.

    Args:
        songs: decoded ones.
        instruments: the order of I.
        nb_samples: S, the length of an example.
        seed: not negative.
    """

    songs: Sequence[DecodedSong]
    instruments: Sequence[str]
    nb_samples: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.songs):
            raise SeparationError("there are no songs to make examples from")

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 ``[I, S, C]``."""
        nb_samples = nb_samples_needed(self.augmentation, self.nb_samples)
        stems = np.stack(
            [
                self.songs[song].read(instrument, start, nb_samples)
                for instrument, (song, start) in zip(
                    self.instruments, self.places(index), strict=True
                )
            ]
        )
        rng = np.random.default_rng([self.seed, _AUGMENT, index])
        return augment(stems, self.augmentation, rng, self.nb_samples, _sample_rate(self.songs))

    # an iteration would never end
    __iter__ = None

    def places(self, index: int) -> list[tuple[int, int]]:
        """The song and the first sample of each instrument."""
        index = operator.index(index)
        if index < 0:
            raise IndexError("examples count from 0")
        epoch, position = divmod(index, len(self.songs))
        rng = np.random.default_rng([self.seed, _CROP, index])
        remixed = rng.random() < self.augmentation.remix
        moments = rng.random(len(self.instruments))
        places = []
        for column, moment in enumerate(moments if remixed else [moments[0]]):
            order = np.random.default_rng([self.seed, _ORDER, epoch, column])
            song = int(order.permutation(len(self.songs))[position])
            room = self.songs[song].nb_samples - nb_samples_needed(
                self.augmentation, self.nb_samples
            )
            places.append((song, int(moment * (max(room, 0) + 1))))
        return places if remixed else places * len(self.instruments)

    @functools.cached_property
    def identity(self) -> str:
        """Hash of all that the examples depend on: whoever resumes a training with another one
        does not continue with the same data."""
        songs = [
            [
                song.name,
                song.nb_samples,
                [stem.peak for name in song.stems for stem in song.stems[name]],
            ]
            for song in self.songs
        ]
        settings = [list(self.instruments), self.nb_samples, asdict(self.augmentation), self.seed]
        return hashlib.sha256(json.dumps([songs, settings]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Windows(Sequence):
    """Fixed examples, never augmented, of ``fixed_windows``.

    Attributes:
        places: song and first sample of each.
        sounding: bool ``[N, I]``: whether the instrument's RMS there exceeds -60 dB. A score such
            as SDR means nothing where it does not.
    """

    songs: Sequence[DecodedSong]
    instruments: tuple[str, ...]
    nb_samples: int
    places: tuple[tuple[int, int], ...]
    sounding: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 ``[I, S, C]``."""
        song, start = self.places[operator.index(index)]
        return _read(self.songs[song], self.instruments, start, self.nb_samples)


def fixed_windows(
    songs: Sequence[DecodedSong], instruments: Sequence[str], nb_samples: int, hop: int
) -> Windows:
    """All windows of ``nb_samples`` whose mixture is no silence, every ``hop`` samples.

    They lie within their song; a song shorter than a window gives one, followed by silence.

    Raises:
        SeparationError: there are none.
    """
    if hop < 1:
        raise SeparationError(f"the hop between windows must be 1 sample or more, not {hop}")
    places, sounding = [], []
    for index, song in enumerate(songs):
        for start in range(0, max(song.nb_samples - nb_samples, 0) + 1, hop):
            stems = _read(song, instruments, start, nb_samples)
            if _rms(stems.sum(axis=0)) > SILENCE:
                places.append((index, start))
                sounding.append([_rms(stem) > SILENCE for stem in stems])
    if not places:
        raise SeparationError(
            "there is no window to validate with: no song is set aside, or all of it is silent"
        )
    return Windows(songs, tuple(instruments), nb_samples, tuple(places), np.array(sounding))


def _read(song: DecodedSong, instruments: Sequence[str], start: int, nb_samples: int) -> np.ndarray:
    """float32 ``[I, S, C]`` of one moment of a song."""
    return np.stack([song.read(name, start, nb_samples) for name in instruments])


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def _sample_rate(songs: Sequence[DecodedSong]) -> int:
    return next(iter(songs[0].stems.values()))[0].sample_rate
