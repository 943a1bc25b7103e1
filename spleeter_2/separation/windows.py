"""Chunking of a song into windows, and overlap-add of their estimates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.config.schema import Segment, Stft


@dataclass(frozen=True)
class Windows:
    """Windows of a song, in samples.

    Window i keeps the samples from ``i * step`` to ``i * step + useful``, and has ``trim`` samples
    of context on either side: the song's where it has any, silence elsewhere.

    Attributes:
        length: samples of a window's estimate, including the context.
        trim: samples of context on either side, whose estimates are dropped.
        step: samples between the starts of two windows.
        fade: samples of a linear cross-fade at either end; 0 averages windows where they overlap.
        margin: further samples on either side that the network sees, without an estimate.
        lead: silence in front of the song, of which nothing is kept.
        tail: samples at the end of a window that lack frames of the next one.
        period: 0, or the weights are symmetric Hann windows, the last of which end behind the song:
            after silence up to the next multiple of ``period`` samples, and ``lead`` more.
        norm: sum of the squared windows of the STFT's frames float32 ``[length]``, by which a
            window's samples are weighted; None where every sample has all its frames.
        border: samples by which a song longer than twice as many is extended by reflection at
            either end; nothing is kept of them.
        is_reflected: also a short last window is filled by reflection if more than half is there,
            and fades reach zero: at the start of the first window and at the end of the last one
            there are none.
    """

    length: int
    trim: int
    step: int
    fade: int
    margin: int = 0
    lead: int = 0
    tail: int = 0
    period: int = 0
    norm: np.ndarray | None = None
    border: int = 0
    is_reflected: bool = False

    @classmethod
    def of(
        cls, stft: Stft, segment: Segment, overlap: float | None = None, nb_late: int = 0
    ) -> Windows:
        """Windows of a configuration.

        Args:
            overlap: overlap relative to ``useful``, 0 to the segment's ``most_overlap`` (default:
                the segment's). With linear cross-fades it is at least one STFT frame, since a hard
                cut causes a click.
            nb_late: frames by which the latest pass of the network starts later than the first;
                the estimate has as many frames less than the network's segment.
        """
        overlap = segment.overlap if overlap is None else overlap
        nb_frames, margin = segment.nb_frames - nb_late, nb_late * stft.frame_step
        if segment.join == "hann":
            return cls._of_hann(stft, nb_frames, overlap, margin)
        share = 1 - overlap
        if segment.join == "frames":
            return cls._of_frames(stft, nb_frames, max(int(nb_frames * share), 1), margin)
        length = stft.frame_step * (nb_frames - 1) + segment.extra
        if segment.join == "reflect":
            return cls._reflected(length, share, margin)
        useful = length - 2 * segment.trim
        step = int(useful * share)
        if segment.join == "equal":
            return cls(length, segment.trim, step, 0, margin)
        step = min(step, useful - min(stft.frame_length, useful // 2))
        return cls(length, segment.trim, step, useful - step, margin)

    @classmethod
    def _of_frames(cls, stft: Stft, nb_frames: int, nb_new: int, margin: int) -> Windows:
        """Windows that are cut between STFT frames.

        Spleeter's: a frame length of silence in front of the song, so that its first sample has all
        its frames, and no frame is centred.

        Args:
            nb_new: frames between the starts of two windows.
        """
        tail = stft.frame_length - stft.frame_step
        length = nb_frames * stft.frame_step + tail
        step = nb_new * stft.frame_step
        fade = length - step if nb_new < nb_frames else 0
        norm = Transform(stft.frame_length, stft.frame_step).norm(nb_frames)[:length]
        return cls(length, 0, step, fade, margin, stft.frame_length, tail, norm=norm)

    @classmethod
    def _of_hann(cls, stft: Stft, nb_frames: int, overlap: float | None, margin: int) -> Windows:
        """Windows of which all samples count, weighted by a symmetric Hann window.

        Those of Ultimate Vocal Remover for MDX-Net. Half an STFT frame of silence precedes the
        song. Neighbours overlap by at least two samples, or not at all: the weights are 0 at both
        ends.
        """
        length, lead = stft.frame_step * (nb_frames - 1), stft.frame_length // 2
        period = length - stft.frame_length
        if overlap == 0:
            return cls(length, 0, length, 0, margin, lead)
        step = period if overlap is None else int((1 - overlap) * length)
        step = max(min(step, length - 2), 1)
        return cls(length, 0, step, 0, margin, lead, length - step, period)

    @classmethod
    def _reflected(cls, length: int, share: float, margin: int) -> Windows:
        """Windows of MSST (ZFTurbo/Music-Source-Separation-Training), each weighted by itself.

        They start at every multiple of the step within the extended song, so several may reach
        beyond its end. The fades do not depend on the overlap.
        """
        step = max(int(length * share + 1e-6), 1)  # exact for a share of 1 / n
        border = length - step
        return cls(
            length, 0, step, length // 10, margin, tail=border, border=border, is_reflected=True
        )

    @property
    def useful(self) -> int:
        """Kept samples of a window."""
        return self.length - 2 * self.trim

    @cached_property
    def weight(self) -> np.ndarray:
        """Weights float32 ``[useful, 1]`` of a window's samples in the overlap-add."""
        if self.period:
            return np.hanning(self.useful).astype(np.float32)[:, np.newaxis]
        weight = np.ones((self.useful, 1), np.float32)
        if self.fade:
            ramp = ((np.arange(self.fade) + 0.5) / self.fade).astype(np.float32)
            weight[: self.fade, 0] = ramp
            end = self.useful - self.fade
            weight[end:, 0] = np.minimum(weight[end:, 0], ramp[::-1])
        return weight if self.norm is None else weight * self.norm[:, np.newaxis]

    def weight_of(self, start: int, nb_left: int) -> np.ndarray:
        """Weights ``[useful, 1]`` of one window; all but two joins weigh all windows alike.

        Args:
            start: of its kept part, counted from the first window's.
            nb_left: the number that ``cut`` yielded with it.
        """
        if self.period:
            return self._hann_weight(start, nb_left)
        if self.is_reflected:
            return self._faded_weight(start == 0, self.ends(nb_left))
        return self.weight

    def _hann_weight(self, start: int, nb_left: int) -> np.ndarray:
        """A shorter Hann window for the last windows, which end behind the song."""
        nb_samples = start + nb_left - self.lead  # the song's, or fewer before its end
        silence = self.period - nb_samples % self.period + self.lead
        if nb_left + silence >= self.useful:
            return self.weight
        weight = np.zeros_like(self.weight)
        weight[: nb_left + silence, 0] = np.hanning(nb_left + silence)
        return weight

    def _faded_weight(self, is_first: bool, is_last: bool) -> np.ndarray:
        """Fades that reach zero, but none at the start and the end of the extended song."""
        weight = np.ones((self.useful, 1), np.float32)
        if self.fade:
            ramp = np.linspace(0, 1, self.fade, dtype=np.float32)[:, np.newaxis]
            if not is_first:
                weight[: self.fade] *= ramp
            if is_first or not is_last:  # also a single window has a fade at its end
                weight[-self.fade :] *= ramp[::-1]
        return weight

    def ends(self, nb_left: int) -> bool:
        """True if a window completes the last ``nb_left`` samples from its kept part on."""
        return nb_left <= self.useful - self.tail

    def cut(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        """Cut a stream into windows, reading no more blocks than each window requires.

        Args:
            blocks: float32 ``[n, C]`` each, any n.

        Yields:
            A window float32 ``[length + 2 * margin, C]``, and the number of remaining samples,
            counted from the start of its kept part: exact for the last window, some number for
            which ``ends`` is False before.
        """
        source = iter(_extended(blocks, self.border) if self.border else blocks)
        before, length = self.trim + self.margin, self.length + 2 * self.margin
        buffer: np.ndarray | None = None  # begins ``before`` samples before the window's kept part
        ended, silent = False, before + self.lead  # samples in front of the song
        while True:
            while not ended and (buffer is None or len(buffer) <= length):
                block = next(source, None)
                if block is None:
                    ended = True
                elif buffer is None:
                    silence = np.zeros((silent, block.shape[1]), np.float32)
                    buffer = np.concatenate([silence, block])
                else:
                    buffer = np.concatenate([buffer, block])
            if buffer is None or len(buffer) <= silent:
                return
            window = buffer[:length]
            missing = length - len(window)
            nb_left = len(buffer) - before
            by_reflection = self.is_reflected and len(window) > length // 2
            mode = "reflect" if by_reflection else "constant"
            yield np.pad(window, ((0, missing), (0, 0)), mode=mode), nb_left
            if ended and self.ends(nb_left):
                return
            buffer, silent = buffer[self.step :], before


def _extended(blocks: Iterable[np.ndarray], border: int) -> Iterator[np.ndarray]:
    """A stream with its reflections of ``border`` samples in front and behind.

    One of at most ``2 * border`` samples is not extended.
    """
    source, parts, nb_samples = iter(blocks), [], 0
    while nb_samples <= 2 * border:
        block = next(source, None)
        if block is None:
            yield from parts
            return
        parts.append(block)
        nb_samples += len(block)
    start = np.concatenate(parts)
    yield np.concatenate([start[border:0:-1], start])
    end = start[-border - 1 :]
    for block in source:
        yield block
        end = np.concatenate([end, block])[-border - 1 :]
    yield end[-2::-1]


class OverlapAdd:
    """Weighted overlap-add of the estimates of consecutive windows.

    Every sample is the weighted mean of the windows that keep it. Memory does not depend on the
    song's length.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._sum: np.ndarray | None = None  # [I, useful, C], from the next window's kept part on
        self._weights = np.zeros((windows.useful, 1), np.float32)
        self._start = 0  # of the next window's kept part
        self._lead = windows.lead  # samples in front of the song that are still to be dropped
        self._border = 0  # samples behind the song that are not kept

    def add(self, estimates: np.ndarray, nb_left: int) -> np.ndarray:
        """Add the estimates of the next window.

        Args:
            estimates: float32 ``[I, length, C]`` of I instruments.
            nb_left: the number that ``Windows.cut`` yielded with the window.

        Returns:
            The song's samples that no later window changes, float32 ``[I, n, C]``.
        """
        windows = self._windows
        is_last = windows.ends(nb_left)
        if self._start == 0 and nb_left > 2 * windows.border:  # see ``_extended``
            self._border = windows.border
            self._lead += windows.border
        weight = windows.weight_of(self._start, nb_left)
        kept = estimates[:, windows.trim : windows.trim + windows.useful] * weight
        total = kept if self._sum is None else self._sum + kept
        weights = self._weights + weight
        ready = nb_left if is_last else min(windows.step, nb_left)
        ready = max(min(ready, nb_left - self._border), 0)
        # the next window starts at ``step``
        self._sum = np.pad(total[:, windows.step :], ((0, 0), (0, windows.step), (0, 0)))
        self._weights = np.pad(weights[windows.step :], ((0, windows.step), (0, 0)))
        first = min(self._lead, ready)
        self._lead, self._start = self._lead - first, self._start + windows.step
        # reflected windows have a weight of zero at their ends; so has the sum there
        weights = np.maximum(weights[first:ready], np.finfo(np.float32).tiny)
        return total[:, first:ready] / weights
