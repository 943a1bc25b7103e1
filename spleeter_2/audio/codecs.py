"""Output formats: container, encoder, sample rates and sample formats of each codec."""

from __future__ import annotations

# codec -> container, encoder of ffmpeg, sample rates in Hz that it can hold (None: any)
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


def nearest_rate(codec: str, sample_rate: int) -> int:
    """The sample rate in Hz at which a codec can hold audio of ``sample_rate``: the next higher
    one, or its highest."""
    rates = CODECS[codec][2]
    if rates is None or sample_rate in rates:
        return sample_rate
    return min((rate for rate in rates if rate > sample_rate), default=max(rates))


def encoder_options(codec: str, bits: str, bitrate: str, sample_rate: int) -> dict[str, str]:
    """ffmpeg's output options."""
    container, encoder, _ = CODECS[codec]
    options = {"f": container, "ar": str(nearest_rate(codec, sample_rate))}
    if encoder:
        options["c:a"] = encoder
    if codec in BITS:
        options.update(BITS[codec][bits])
    elif codec == "ogg" and sample_rate not in (44100, 48000):
        options["q:a"] = "6"  # libvorbis refuses most bit rates at other sample rates
    else:
        options["b:a"] = bitrate
    if codec == "wav":
        options["rf64"] = "auto"  # above 4 GB
    return options
