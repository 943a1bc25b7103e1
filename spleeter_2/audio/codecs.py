"""Output formats: container, encoder, sample rates and sample formats of each codec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from spleeter_2.checks import check_choice, check_text, check_whole
from spleeter_2.errors import SeparationError

# codec -> ffmpeg's container, ffmpeg's encoder, supported sample rates in Hz (None: any)
MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
CODECS = {
    "wav": ("wav", None, None),
    "flac": ("flac", "flac", None),
    "mp3": ("mp3", "libmp3lame", MPEG_RATES),
    "ogg": ("ogg", "libvorbis", None),
    "m4a": ("ipod", "aac", (*MPEG_RATES, 64000, 88200, 96000)),
    "wma": ("asf", "wmav2", MPEG_RATES),
}
BITS = {
    "wav": {"16": {"c:a": "pcm_s16le"}, "24": {"c:a": "pcm_s24le"}, "32f": {"c:a": "pcm_f32le"}},
    "flac": {
        "16": {"sample_fmt": "s16"},
        "24": {"sample_fmt": "s32", "bits_per_raw_sample": "24"},
    },
}


SAMPLE_RATES = (1000, 768000)  # lowest and highest accepted one, in Hz


def check_sample_rate(sample_rate: Any) -> int:
    """Check a sample rate in Hz.

    Raises:
        SeparationError: no whole number, or beyond ``SAMPLE_RATES``.
    """
    return check_whole("sample_rate", sample_rate, *SAMPLE_RATES)


@dataclass(frozen=True)
class Encoding:
    """Format of the stems.

    Args:
        codec: one of ``CODECS``.
        bits: "16", "24" or "32f", for the codecs in ``BITS``.
        bitrate: such as "128k", for the others.

    Raises:
        SeparationError: an unknown codec, bits that it does not support, or an invalid bitrate.
    """

    codec: str = "wav"
    bits: str = "16"
    bitrate: str = "128k"

    def __post_init__(self) -> None:
        check_choice("the codec", self.codec, CODECS)
        check_text("bits", self.bits)
        check_text("bitrate", self.bitrate)
        if self.bits != "16" and self.bits not in BITS.get(self.codec, {}):
            raise SeparationError(f"{self.codec} cannot hold --bits {self.bits}")
        if not re.fullmatch(r"[1-9][0-9]*[kK]?", self.bitrate):
            raise SeparationError(f"--bitrate must be a number such as 192k, not {self.bitrate}")

    @property
    def is_lossless(self) -> bool:
        """True if ``bits`` applies, False if ``bitrate`` does."""
        return self.codec in BITS

    @property
    def sample_rates(self) -> tuple[int, ...] | None:
        """Supported sample rates in Hz, or None for any."""
        return CODECS[self.codec][2]

    def check_sample_rate(self, sample_rate: Any) -> int:
        """Check a sample rate in Hz that the file is to have.

        Raises:
            SeparationError: no sample rate, or one that the codec does not support.
        """
        rate = check_sample_rate(sample_rate)
        if self.nearest_rate(rate) != rate:
            rates = ", ".join(map(str, self.sample_rates))
            raise SeparationError(f"{self.codec} cannot hold {rate} Hz; it can hold {rates}")
        return rate

    def nearest_rate(self, sample_rate: int) -> int:
        """Lowest supported sample rate in Hz that is not below ``sample_rate``, or the highest."""
        rates = self.sample_rates
        if rates is None or sample_rate in rates:
            return sample_rate
        return min((rate for rate in rates if rate > sample_rate), default=max(rates))

    def padding(self, sample_rate: int) -> int:
        """Samples of silence before and after the song, which the codec swallows.

        ffmpeg's WMA loses the first frame, so that the song would come early by a frame.
        """
        if self.codec != "wma":
            return 0
        rate = self.nearest_rate(sample_rate)
        frame = 512 if rate <= 16000 else 1024 if rate <= 22050 else 2048
        return round(frame * sample_rate / rate)

    def ffmpeg_options(self, sample_rate: int) -> dict[str, str]:
        """Output options of ffmpeg for samples at ``sample_rate`` in Hz."""
        container, encoder, _ = CODECS[self.codec]
        options = {"f": container, "ar": str(self.nearest_rate(sample_rate))}
        if encoder:
            options["c:a"] = encoder
        if self.is_lossless:
            options.update(BITS[self.codec][self.bits])
        elif self.codec == "ogg" and sample_rate not in (44100, 48000):
            options["q:a"] = "6"  # libvorbis rejects most bit rates at other sample rates
        else:
            options["b:a"] = self.bitrate
        if self.codec == "wav":
            options["rf64"] = "auto"  # above 4 GB
        return options
