"""Training and validation examples from cached songs.

    songs = training_songs(Path("MUSDB18"), ("vocals", "accompaniment"))
    songs = StemCache(sample_rate=44100, nb_channels=2).decode(songs)
    training, validation = split(songs, 0.1, seed=0)
    examples = Examples(training, songs.instruments, nb_samples, USUAL, seed=0)
    waveforms = examples[1000]  # [I, S, C]

The mixture of an example is the sum of its instruments; a data set's own mixture may differ.
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
from .cache import SILENCE, CachedSong

_ORDER, _CROP, _AUGMENT = range(3)  # independent random streams, one per purpose


@dataclass(frozen=True)
class Examples:
    """An endless sequence of training examples; each is a pure function of the seed and its index.

    With N songs, the examples ``k N .. (k + 1) N - 1`` take each instrument from each song once, in
    an order that depends on k, at a position uniformly distributed over the song. (If ``remix`` is
    between 0 and 1, instruments other than the first come from each song once on average.) A song
    shorter than an example is padded with silence.

    Args:
        songs: of ``StemCache.decode``.
        instruments: in the order of the axis I.
        nb_samples: S, the length of an example.
        augmentation: see ``Augmentation``; by default none.
        seed: not negative.

    Raises:
        SeparationError: there are no songs.
    """

    songs: Sequence[CachedSong]
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

    # an iteration over __getitem__ would never end
    __iter__ = None

    def places(self, index: int) -> list[tuple[int, int]]:
        """Song and first sample of each instrument of an example."""
        index = operator.index(index)
        if index < 0:
            raise IndexError("examples count from 0")
        epoch, position = divmod(index, len(self.songs))
        rng = np.random.default_rng([self.seed, _CROP, index])
        remixed = rng.random() < self.augmentation.remix
        positions = rng.random(len(self.instruments))
        places = []
        for column, position_in_song in enumerate(positions if remixed else positions[:1]):
            order = np.random.default_rng([self.seed, _ORDER, epoch, column])
            song = int(order.permutation(len(self.songs))[position])
            room = self.songs[song].nb_samples - nb_samples_needed(
                self.augmentation, self.nb_samples
            )
            places.append((song, int(position_in_song * (max(room, 0) + 1))))
        return places if remixed else places * len(self.instruments)

    @functools.cached_property
    def identity(self) -> str:
        """Hash of songs and options; a resumed training sees the same examples if it is equal."""
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


@dataclass(frozen=True)
class ValidationSet(Sequence):
    """Fixed examples without augmentation; see ``validation_set``.

    ``places``: song and first sample of each example.
    """

    songs: Sequence[CachedSong]
    instruments: tuple[str, ...]
    nb_samples: int
    places: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 ``[I, S, C]``."""
        song, start = self.places[operator.index(index)]
        return _read(self.songs[song], self.instruments, start, self.nb_samples)


def validation_set(
    songs: Sequence[CachedSong], instruments: Sequence[str], nb_samples: int
) -> ValidationSet:
    """Cut songs into examples of ``nb_samples``, without those whose mixture is silent.

    An incomplete example at the end of a song is dropped; a song shorter than one example gives
    one, padded with silence.

    Raises:
        SeparationError: no example is left.
    """
    places = [
        (index, start)
        for index, song in enumerate(songs)
        for start in range(0, max(song.nb_samples - nb_samples, 0) + 1, nb_samples)
        if _rms(_read(song, instruments, start, nb_samples).sum(axis=0)) > SILENCE
    ]
    if not places:
        raise SeparationError(
            "there are no examples to validate with: no song is set aside, or all of it is silent"
        )
    return ValidationSet(songs, tuple(instruments), nb_samples, tuple(places))


def _read(song: CachedSong, instruments: Sequence[str], start: int, nb_samples: int) -> np.ndarray:
    """Read float32 ``[I, S, C]`` of a song from ``start`` on."""
    return np.stack([song.read(name, start, nb_samples) for name in instruments])


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def _sample_rate(songs: Sequence[CachedSong]) -> int:
    return next(iter(songs[0].stems.values()))[0].sample_rate
