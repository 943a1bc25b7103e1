"""Separate waveforms, streams and files with a model, window by window."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spleeter_2.audio.adapter import AdaptedReader, Adapter
from spleeter_2.audio.codecs import Encoding, check_sample_rate
from spleeter_2.audio.mark import mark_tags
from spleeter_2.audio.mixing import residual, with_channels
from spleeter_2.audio.reader import BLOCK, AudioReader
from spleeter_2.audio.resampling import resample
from spleeter_2.audio.stft import Transform
from spleeter_2.audio.waveforms import check_blocks, check_waveform
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.checks import (
    check_flag,
    check_function,
    check_names,
    check_number,
    check_path,
    check_positive,
    check_type,
    check_whole,
)
from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError, model_errors
from spleeter_2.runtime.network import Network, load_network, parse_device
from spleeter_2.weights.resolve import with_weights

from .background import in_background
from .filters import extended_by_power, ratio_masks, wiener
from .paths import plan_outputs
from .remote import is_remote
from .windows import OverlapAdd, Windows

MOST_SHIFTS = 16
Progress = Callable[[float], None]  # called with the seconds of audio done so far


@dataclass(frozen=True)
class SeparationResult:
    """Result of separating one song.

    Attributes:
        outputs: path of each stem by instrument.
        seconds: duration of the song.
        nb_clipped: samples beyond full scale that were clipped, by instrument.
        peaks: largest magnitude of a sample by instrument, full scale 1.0.
        notes: sentences for the user.
    """

    outputs: dict[str, str]
    seconds: float
    nb_clipped: dict[str, int]
    peaks: dict[str, float]
    notes: list[str]


class Separator:
    """Separates waveforms and files with one model, which is loaded at its first use.

    Args:
        descriptor: ``spleeter_2:NAME``, a JSON file, or a folder with ``config.json``.
        stems: list of instruments to separate (default: all of the model's).
        overlap: overlap of the windows, 0 to 0.5, or more with some models' windows (default: the
            model's); see ``Segment.most_overlap``.
        shifts: passes of the network that start at different frames; the estimate is their mean.
        mwf: refine the estimates by multichannel Wiener filtering.
        device: "cpu", "gpu" or "gpu:N" (default: the CPU).

    Raises:
        SeparationError: an invalid configuration or argument, an unknown instrument, or no weights.
    """

    def __init__(
        self,
        descriptor: str | os.PathLike = "spleeter_2:grouped",
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        mwf: bool = False,
        device: str | None = None,
        shifts: int = 1,
    ) -> None:
        self._mwf = check_flag("mwf", mwf)
        if device is not None:
            parse_device(device)
        self.configuration = load_configuration(descriptor)
        if overlap is not None:
            most = self.configuration.segment.most_overlap
            overlap = check_number("the overlap", overlap, 0, most)
        self.stems = choose_stems(self.configuration.name, self.configuration.instruments, stems)
        self._descriptor = os.fspath(descriptor)
        if self.configuration.model_dir is None:
            with_weights(self._descriptor, self.configuration)
        shifts = check_whole("shifts", shifts, 1, MOST_SHIFTS)
        self._starts = first_frames(shifts, self.configuration.shift_frames)
        self._windows = Windows.of(
            self.configuration.stft, self.configuration.segment, overlap, max(self._starts)
        )
        if self._windows.useful <= self.configuration.stft.frame_length:
            raise SeparationError(
                f"the windows of {self.configuration.name}, {self.configuration.segment.nb_frames} "
                f"frames, are too short for {shifts} shifts: give fewer"
            )
        self._device = device
        self._network: Network | None = None

    def find_weights(self) -> None:
        """Find the weights, or fetch Spleeter's released ones; ``load`` does it too.

        Raises:
            ModelError: they are incomplete, or cannot be fetched.
        """
        self.configuration = with_weights(self._descriptor, self.configuration)

    @model_errors()
    def load(self) -> None:
        """Build the network and read its weights; no-op if already done.

        Raises:
            ModelError: weights that are damaged or do not fit, or an unknown device.
        """
        if self._network is not None:
            return
        self.find_weights()
        # the Wiener filter needs the estimates of all instruments
        instruments = None if self._mwf else self.stems
        network = load_network(self.configuration, instruments, self._device)
        stft, centred = self.configuration.stft, self.configuration.segment.join != "frames"
        self._transform = Transform(stft.frame_length, stft.frame_step, network.window, centred)
        self._network = network

    def separate(
        self,
        waveform: np.ndarray,
        sample_rate: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """Separate a waveform of any length.

        Args:
            waveform: float ``[S, C]`` or ``[S]``, C 1 or 2, full scale 1.0.
            sample_rate: in Hz (default: the model's).
            progress: called with the seconds of audio done so far.

        Returns:
            ``{instrument: float32 [S, C]}``, at the waveform's sample rate.

        Raises:
            SeparationError: a waveform of another shape, empty, or with NaN or infinity; another
                invalid argument.
        """
        waveform = check_waveform(waveform)
        rate = self.configuration.sample_rate
        if sample_rate is not None:
            rate = check_sample_rate(sample_rate)
        _check_progress(progress)
        blocks = (waveform[i : i + BLOCK] for i in range(0, len(waveform), BLOCK))
        stems = {name: np.empty_like(waveform) for name in self.stems}
        done = 0
        with contextlib.closing(self._stream(blocks, rate)) as stream:
            for estimates in stream:
                for name, estimate in estimates.items():
                    stems[name][done : done + len(estimate)] = estimate
                done += len(estimate)
                if progress:
                    progress(done / rate)
        return stems

    def separate_to_file(
        self,
        source: str | os.PathLike,
        destination: str | os.PathLike,
        offset: float = 0.0,
        duration: float | None = None,
        codec: str = "wav",
        bitrate: str = "128k",
        filename_format: str = "{filename}/{instrument}.{codec}",
        bits: str = "16",
        sample_rate: int | None = None,
        progress: Progress | None = None,
        stream: int | None = None,
    ) -> SeparationResult:
        """Separate a file into files, with the arguments of Spleeter's method of this name.

        Args:
            source: path of the song.
            destination: folder of the stems.
            offset: seconds to skip.
            duration: seconds to separate (default: all).
            codec, bits, bitrate: see ``Encoding``.
            filename_format: path of a stem below ``destination``.
            sample_rate: of the stems, in Hz (default: the file's, or that of a model of Spleeter).
            progress: called with the seconds of audio done so far.
            stream: number of the audio stream, from 1 (default: the file's default stream).

        Raises:
            SeparationError: a file that cannot be read or written, or an invalid option. Then no
                stem is written.
        """
        source = check_path("source", source)
        destination = check_path("destination", destination)
        offset = check_number("offset", offset, 0)
        if duration is not None:
            duration = check_positive("duration", duration)
        encoding = Encoding(codec, bits, bitrate)
        if sample_rate is not None:
            sample_rate = encoding.check_sample_rate(sample_rate)
        if stream is not None:
            stream = check_whole("stream", stream, 1, 1000) - 1
        filename_format = check_path("filename_format", filename_format)
        _check_progress(progress)
        if is_remote(source) or is_remote(destination):
            raise SeparationError(
                "source and destination must be paths; 'spleeter separate' takes URLs"
            )
        songs = plan_outputs([source], destination, filename_format, codec, self.stems)
        if [song.source for song in songs] != [source]:
            raise SeparationError(f"{source} is a folder or a pattern: give the path of one song")
        sample_rate = self.stem_rate(sample_rate)
        with AudioReader(source, sample_rate, offset, duration, stream) as reader:
            return self.write_stems(reader, songs[0].outputs, encoding, progress)

    def stem_rate(self, sample_rate: int | None) -> int | None:
        """Sample rate of the stems in files in Hz, by default the model's; None: the song's."""
        if sample_rate is None and self.configuration.stem_format == "model":
            return self.configuration.sample_rate
        return sample_rate

    def nb_channels(self, reader: AudioReader | AdaptedReader) -> int:
        """Channels of the stems in files: the song's, or those of a model of Spleeter."""
        if self.configuration.stem_format == "model":
            return self.configuration.nb_channels
        return reader.nb_channels

    def estimates(self, reader: AudioReader | AdaptedReader) -> Iterator[dict[str, np.ndarray]]:
        """Separate the audio of a reader, as it is written to files; see ``stream``.

        Yields:
            ``{instrument: float32 [n, nb_channels(reader)]}``.

        Raises:
            SeparationError: audio that cannot be read.
        """
        nb_channels = self.nb_channels(reader)
        blocks = (with_channels(block, nb_channels) for block in reader.blocks())
        return self._stream(blocks, reader.sample_rate)

    def write_stems(
        self,
        reader: AudioReader | AdaptedReader,
        outputs: Mapping[str, str],
        encoding: Encoding,
        progress: Progress | None = None,
        adapter: Adapter | None = None,
    ) -> SeparationResult:
        """Separate the audio of a reader into files, which appear when all are complete.

        Args:
            outputs: path of each stem by instrument.
            progress: called with the seconds of audio done so far.
            adapter: writes the files (default: ``AudioWriter``).

        Raises:
            SeparationError: audio that cannot be read or written, or an invalid argument. Then no
                stem is written.
        """
        if not isinstance(reader, AdaptedReader):
            check_type("reader", reader, AudioReader)
        check_type("outputs", outputs, Mapping)
        choose_stems(self.configuration.name, self.stems, outputs)
        outputs = {name: check_path(f"the path of {name}", path) for name, path in outputs.items()}
        _check_outputs(outputs, reader.name)
        check_type("encoding", encoding, Encoding)
        _check_progress(progress)
        self.load()
        done, nb_channels = 0, self.nb_channels(reader)
        with contextlib.ExitStack() as stack:
            writers = {}
            for name, path in outputs.items():
                if adapter is None:
                    tags = {**mark_tags(encoding.codec), **reader.tags}
                    writer = AudioWriter(path, reader.sample_rate, nb_channels, encoding, tags)
                else:
                    writer = adapter.writer(path, reader.sample_rate, encoding)
                writers[name] = stack.enter_context(writer)
            for estimates in stack.enter_context(contextlib.closing(self.estimates(reader))):
                for name, writer in writers.items():
                    writer.write(estimates[name])
                done += len(estimates[name])
                if progress:
                    progress(done / reader.sample_rate)
            for writer in writers.values():
                writer.finish()
            for writer in writers.values():
                writer.publish()
        clipped = {name: writer.nb_clipped for name, writer in writers.items()}
        peaks = {name: writer.peak for name, writer in writers.items()}
        return SeparationResult(outputs, done / reader.sample_rate, clipped, peaks, reader.notes)

    def stream(
        self, blocks: Iterable[np.ndarray], sample_rate: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Separate a stream of blocks; memory does not depend on its length.

        Three threads, each one window ahead of the next: the first reads and resamples blocks,
        cuts windows and computes their STFT; the second runs the network; the caller's thread
        computes the inverse STFT, the overlap-add and the residual, and writes the stems.

        The residual is computed at the stream's sample rate and full band, so that the stems sum
        to the mixture independently of the model's band.

        Args:
            blocks: float32 ``[n, C]`` each, C 1 or 2.
            sample_rate: of the blocks, in Hz.

        Yields:
            ``{instrument: float32 [n, C]}``, with the same total number of samples as ``blocks``.

        Raises:
            SeparationError: an invalid argument, or a block that ``separate`` would refuse.
        """
        return self._stream(check_blocks(blocks), check_sample_rate(sample_rate))

    def _stream(
        self, blocks: Iterable[np.ndarray], sample_rate: int
    ) -> Iterator[dict[str, np.ndarray]]:
        self.load()
        model_rate, nb_channels = self.configuration.sample_rate, self.configuration.nb_channels
        nb_bins = self._bins_needed()
        # filled by the first thread, emptied by the caller's thread
        mixture = _SampleQueue()

        def spectrograms() -> Iterator[tuple[np.ndarray, int]]:  # first thread
            samples = (with_channels(block, nb_channels) for block in mixture.fill(blocks))
            samples = resample(samples, sample_rate, model_rate)
            for window, nb_left in self._windows.cut(samples):  # [L, C]
                yield self._transform.forward(window, nb_bins), nb_left  # [T, F, C]

        def estimates() -> Iterator[tuple[dict[str, np.ndarray], int]]:  # second thread
            for spectrogram, nb_left in in_background(spectrograms()):
                yield self._estimate(spectrogram), nb_left  # {target: [T, F, C]}

        def overlap_added() -> Iterator[np.ndarray]:  # the caller's thread, like all code below
            overlap_add = OverlapAdd(self._windows)
            length = self._windows.length
            for estimate, nb_left in in_background(estimates()):
                waveforms = [self._transform.inverse(e, length) for e in estimate.values()]
                stacked = np.stack(waveforms)
                self._check_estimates(stacked)
                ready = overlap_add.add(stacked, nb_left)  # [I, n, C]
                if ready.shape[1]:
                    yield np.concatenate(list(ready), axis=1)  # [n, I * C]

        nb_targets = len(self._network.targets)
        for block in resample(overlap_added(), model_rate, sample_rate):
            # resampling to the model's rate and back may add or lose a sample at the end
            part = mixture.take(len(block))
            yield self._instruments(part, np.split(block[: len(part)], nb_targets, axis=1))
        if len(rest := mixture.take(None)):
            silence = np.zeros((len(rest), nb_channels), np.float32)
            yield self._instruments(rest, [silence] * nb_targets)

    def _check_estimates(self, waveforms: np.ndarray) -> None:
        """Raise SeparationError if a sample is no number."""
        if not np.isfinite(waveforms).all():
            raise SeparationError(
                f"{self.configuration.name} estimates NaN or infinity: put its weights there "
                "again, or lower the exponent of its masks"
            )

    def _bins_needed(self) -> int:
        """Bins of the mixture that the network and the filter need."""
        configuration, masks = self.configuration, self.configuration.ratio_mask
        is_extended = configuration.extension != "zeros" or (
            masks is not None and masks.extension != "zeros"
        )
        return configuration.stft.nb_bins if is_extended else configuration.model.nb_bins

    def _instruments(
        self, mixture: np.ndarray, estimates: list[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The chosen stems ``[n, C]`` from the mixture and the targets' estimates."""
        if mixture.shape[1] != self.configuration.nb_channels:
            estimates = [with_channels(estimate, mixture.shape[1]) for estimate in estimates]
        stems = dict(zip(self._network.targets, estimates, strict=True))
        if self.configuration.residual in self.stems:
            stems[self.configuration.residual] = residual(mixture, stems)
        return {name: stems[name] for name in self.stems}

    def _estimate(self, mixture: np.ndarray) -> dict[str, np.ndarray]:
        """Mean of the passes that start at different frames.

        A pass sees T frames, the segment's. The frames that all passes estimate are those from the
        latest start, K, to T.

        Args:
            mixture: complex64 ``[T + K, F, C]``.

        Returns:
            ``{target: complex64 [T - K, F, C]}``.
        """
        latest = max(self._starts)
        nb_frames = len(mixture) - latest
        total: dict[str, np.ndarray] = {}
        for start in self._starts:
            passed = self._network.estimate(mixture[start : start + nb_frames])
            for name, estimate in passed.items():
                part = estimate[latest - start : nb_frames - start]
                if name in total:
                    total[name] += part
                else:
                    total[name] = part
        if len(self._starts) > 1:
            for estimate in total.values():
                estimate /= len(self._starts)
        return self._filter(mixture[latest:nb_frames], total)

    def _filter(
        self, mixture: np.ndarray, estimates: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Estimates of a window after the model's or the user's filter; see ``filters``."""
        configuration = self.configuration
        with np.errstate(over="ignore", invalid="ignore"):  # see ``_check_estimates``
            if self._mwf:
                estimates = wiener(mixture, estimates, configuration.residual is not None)
            elif configuration.ratio_mask is not None:
                estimates = ratio_masks(mixture, estimates, configuration.ratio_mask)
            if configuration.extension == "power":
                estimates = extended_by_power(mixture, estimates)
            return estimates

    def close(self) -> None:
        """Release the network."""
        self._network = None

    def __enter__(self) -> Separator:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def first_frames(nb_shifts: int, stride: int) -> tuple[int, ...]:
    """First frames of the passes: spread over the stride of the network's deepest level."""
    return tuple(round(index * stride / nb_shifts) for index in range(nb_shifts))


class _SampleQueue:
    """Queue of the mixture's samples whose estimates are not yet computed.

    One thread may call ``fill`` while another calls ``take``: the ends of a deque are thread-safe.
    """

    def __init__(self) -> None:
        self._blocks: deque[np.ndarray] = deque()

    def fill(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield blocks after appending each to the queue."""
        for block in blocks:
            self._blocks.append(block)
            yield block

    def take(self, nb_samples: int | None) -> np.ndarray:
        """Remove and return the oldest samples ``[n, C]``, n at most ``nb_samples`` (None: all)."""
        taken: list[np.ndarray] = []
        while self._blocks and (nb_samples is None or nb_samples > 0):
            block = self._blocks.popleft()
            if nb_samples is not None:
                if len(block) > nb_samples:
                    self._blocks.appendleft(block[nb_samples:])
                    block = block[:nb_samples]
                nb_samples -= len(block)
            taken.append(block)
        return np.concatenate(taken) if taken else np.zeros((0, 1), np.float32)


def choose_stems(
    model: str, instruments: Sequence[str], stems: Sequence[str] | None
) -> tuple[str, ...]:
    """The chosen instruments in the model's order; all if ``stems`` is None.

    Raises:
        SeparationError: an unknown instrument, or an empty list.
    """
    if stems is None:
        return tuple(instruments)
    stems = check_names("stems", stems)
    unknown = [name for name in stems if name not in instruments]
    if unknown or not stems:
        raise SeparationError(
            f"{model} separates {', '.join(instruments)}; "
            f"not {', '.join(unknown) or 'an empty list'}"
        )
    return tuple(name for name in instruments if name in stems)


def _check_outputs(outputs: Mapping[str, str], source: str) -> None:
    """Raise SeparationError if a stem would replace the song or another stem."""
    taken = {os.path.realpath(source)}
    for name, path in outputs.items():
        if (real := os.path.realpath(path)) in taken:
            raise SeparationError(
                f"the {name} would replace the song or another stem, {path}: name another file"
            )
        taken.add(real)


def _check_progress(progress: Progress | None) -> None:
    if progress is not None:
        check_function("progress", progress)
