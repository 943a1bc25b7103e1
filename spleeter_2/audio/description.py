"""Streams, tags and duration of an input, from ffmpeg's messages and its metadata format.

ffprobe would print the same as JSON, but imageio-ffmpeg does not bring it, and standard input can
be read only once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

TAGS = (
    "title artist album album_artist composer performer genre date track disc comment copyright "
    "language publisher"
).split()
OTHERS = ("Output #", "Stream mapping:")  # lines that follow the description of the input

_STREAM = re.compile(r"\s*Stream #0:(\d+)(?:\[\w+\])?(?:\((.*?)\))?: (\w+): (.*)")
_MAPPING = re.compile(r"\s*Stream #0:(\d+) -> #")
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_DURATION = re.compile(r"\s*Duration: ([^,]*)(?:, start: ([-\d.]+))?")
_FRAME = re.compile(r"0, +-?\d+, +(-?\d+), +\d+, +\d+, 0x[0-9a-f]{8}")
_ENTRY = re.compile(r"(.*?) *(?:: ?(.*))?")
_LINE = re.compile(r"((?:[^\\\n]|\\.)+)\n", re.DOTALL)  # a backslash escapes a line break
_FIELD = re.compile(r"((?:[^\\=]|\\.)*)=(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass
class Stream:
    """A stream of a container.

    Attributes:
        index: among all streams, from 0.
        kind: "Audio", "Video", "Subtitle", "Data" or "Attachment".
        language: ISO code, empty if unknown.
        details: codec, sample rate, layout and others, as ffmpeg prints them.
    """

    index: int
    kind: str
    language: str
    details: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def is_picture(self) -> bool:
        """True for a cover picture."""
        return "(attached pic)" in self.details

    @property
    def layout(self) -> str:
        """Channel layout, such as "5.1" or "6 channels"; empty if ffmpeg prints none."""
        found = re.search(r" Hz, ([^,]+)", self.details)
        return found[1] if found else ""


@dataclass
class Description:
    """An input.

    Attributes:
        streams: all streams, in order.
        tags: of the container.
        chosen: the decoded audio stream.
        seconds: duration of the container, that is of its longest stream, or None.
        is_estimated: ``seconds`` is computed from the bit rate.
        format: short name, such as "wav".
        start: presentation time in seconds at which the container begins.
    """

    streams: list[Stream] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    chosen: Stream | None = None
    seconds: float | None = None
    is_estimated: bool = False
    format: str = ""
    start: float = 0.0

    @property
    def audio(self) -> list[Stream]:
        """The audio streams."""
        return [stream for stream in self.streams if stream.kind == "Audio"]

    @property
    def chosen_seconds(self) -> float | None:
        """Duration of the chosen stream as far as it is known."""
        if self.is_single:
            return self.seconds
        return _seconds(self.chosen.tags.get("duration", "")) if self.chosen else None

    @property
    def is_single(self) -> bool:
        """True if the container holds nothing but one audio stream and perhaps cover pictures."""
        return len(self.audio) == 1 and not self.has_film

    @property
    def has_film(self) -> bool:
        """True if the container holds a video stream other than cover pictures."""
        return any(s.kind == "Video" and not s.is_picture for s in self.streams)


def describe(messages: Sequence[str]) -> Description:
    """Read ffmpeg's messages at level "info"."""
    result = Description()
    begin = next((i for i, line in enumerate(messages) if line.startswith("Input #0")), None)
    if begin is None:
        return result
    result.format = messages[begin].split(", ")[1]
    text = takewhile(lambda line: not line.startswith(OTHERS), messages[begin + 1 :])
    _read_input(result, [line for line in text if line.startswith(" ")])
    estimates = ("Estimating duration from bitrate", "using bitrate for duration")
    own = [line for line in messages if line.startswith("[")]  # tags are indented
    result.is_estimated = any(words in line for line in own for words in estimates)
    mapping = next(filter(None, map(_MAPPING.match, messages)), None)
    if mapping:
        chosen = (stream for stream in result.streams if stream.index == int(mapping[1]))
        result.chosen = next(chosen, None)
    return result


def _read_input(result: Description, lines: Sequence[str]) -> None:
    """Read what is below ``Input #0``: blocks of tags, the duration, chapters, and streams."""
    owner: dict[str, str] = result.tags  # of the next block of tags
    entries: int | None = None  # indent of the entries, inside a block
    key: str | None = None  # of the last entry, unless it is a repeated one
    for line in lines:
        if entries is not None and not line[:entries].strip():
            name, value = _ENTRY.fullmatch(line[entries:]).groups()
            if name:
                key = name.lower() if name.lower() not in owner else None
            if key:  # an entry without a name is one more line of the value
                owner[key] = value if name else f"{owner[key]}\n{value}"
            continue
        entries = None
        if line.strip() == "Metadata:":
            entries = line.index("M") + 2
        elif found := _STREAM.match(line):
            stream = Stream(int(found[1]), found[3], _language(found[2]), found[4])
            result.streams.append(stream)
            owner = stream.tags
        elif found := _DURATION.match(line):
            result.seconds = _seconds(found[1])
            result.start = float(found[2] or 0)
        else:  # a chapter or a program, whose tags are not the song's
            owner = {}


def _seconds(text: str) -> float | None:
    """Seconds of "HH:MM:SS.FRACTION", or None."""
    found = _CLOCK.match(text)
    return found and int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _language(code: str | None) -> str:
    return "" if code in (None, "und") else code


def first_frame(messages: Sequence[str]) -> int | None:
    """Presentation time, in samples, of the first frame in ffmpeg's ``framecrc`` format.

    Another thread of ffmpeg may be in the middle of a line when it is printed.
    """
    frame = next(filter(None, map(_FRAME.search, messages)), None)
    return int(frame[1]) if frame else None


def parse_metadata(text: str) -> list[dict[str, str]]:
    """Tags in ffmpeg's metadata format: those of the container, then those of each section."""
    sections: list[dict[str, str]] = [{}]
    for line in _LINE.findall(text):
        if line.startswith("[") and line.endswith("]"):
            sections.append({})
        elif not line.startswith((";", "#")) and (found := _FIELD.fullmatch(line)):
            name, value = (_ESCAPE.sub(r"\1", part) for part in found.groups())
            sections[-1].setdefault(name.lower(), value)
    return sections


def song_tags(*owners: Mapping[str, str]) -> dict[str, str]:
    """The tags of a song that other formats have too; the first owner of a tag wins."""
    merged: dict[str, str] = {}
    for owner in owners:
        for name in TAGS:
            if owner.get(name) and not (name == "language" and owner[name] == "und"):
                merged.setdefault(name, owner[name])
    return merged
