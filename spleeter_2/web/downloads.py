"""Files that are made for a download: a stem, the mix, or all stems in a ZIP archive."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.mark import mark_tags
from spleeter_2.audio.reader import BLOCK
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.errors import SeparationError
from spleeter_2.files import writing

from .songs import Song, SongFolder, read_samples

MOST_GAIN = 4.0


def mix_file(
    song: Song, folder: SongFolder, gains: Mapping[str, float], encoding: Encoding, target: Path
) -> None:
    """Encode the sum of stems, each times its gain, as ``spleeter separate`` encodes a stem.

    Args:
        gains: by instrument; those that are not named are left out.

    Raises:
        SeparationError: a stem cannot be read, or the file cannot be written.
    """
    stems = [
        (gain, read_samples(folder.samples(index), song.nb_channels, song.nb_samples))
        for index, name in enumerate(song.instruments)
        if (gain := gains.get(name, 0.0))
    ]
    tags = {**mark_tags(encoding.codec), **song.tags}
    with AudioWriter(target, song.sample_rate, song.nb_channels, encoding, tags) as writer:
        for start in range(0, song.nb_samples, BLOCK):
            length = min(BLOCK, song.nb_samples - start)
            block = np.zeros((length, song.nb_channels), np.float32)
            for gain, samples in stems:
                block += np.float32(gain) * samples[start : start + length]
            writer.write(block)
        writer.finish()
        writer.publish()


def zip_file(song: Song, folder: SongFolder, encoding: Encoding, target: Path) -> None:
    """Write all stems into an archive without compression, in a folder of the song's name.

    Raises:
        SeparationError: a stem cannot be read, or a file cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        with writing(target.parent), zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name in song.instruments:
                mix_file(song, folder, {name: 1.0}, encoding, part)
                archive.write(part, f"{song_title(song.name)}/{safe_name(name)}.{encoding.codec}")
    finally:
        part.unlink(missing_ok=True)


def song_title(name: str) -> str:
    """A song's name for a download, without the suffix."""
    return safe_name(re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name))


def safe_name(name: str) -> str:
    """A file name without folders, and without the characters that Windows reserves."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name).strip(" .")
    return name[:120].rstrip(" .") or "song"


def parse_gains(song: Song, text: str | None) -> dict[str, float]:
    """Gains of a mix such as ``vocals:0.5,drums:0``; instruments that are not named have 1.

    Raises:
        SeparationError: an unknown instrument, or a gain that is no number from 0 to ``MOST_GAIN``.
    """
    gains = dict.fromkeys(song.instruments, 1.0)
    for part in filter(None, (text or "").split(",")):
        name, _, value = part.rpartition(":")
        try:
            gain = float(value)
        except ValueError:
            gain = -1.0
        if name not in gains or not 0 <= gain <= MOST_GAIN:
            raise SeparationError(
                f"gains must be like {song.instruments[0]}:0.5, each from 0 to {MOST_GAIN:g}, for "
                f"{', '.join(song.instruments)}; not {part}"
            )
        gains[name] = gain
    return gains


def content_disposition(name: str) -> str:
    """The header Content-Disposition of a download (RFC 6266)."""
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
