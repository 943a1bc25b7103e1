"""The ffmpeg program itself: broken, missing, ended by a signal."""

import logging
import os
import signal
import sys

import numpy as np
import pytest
import soundfile

from spleeter_2.audio import ffmpeg
from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.errors import SeparationError

BROKEN = {
    "a missing library": (
        "#!/bin/sh\necho 'ffmpeg: error while loading shared libraries: libavdevice.so.59' >&2\n"
        "exit 127\n",
        "error while loading shared libraries: libavdevice.so.59",
    ),
    "killed": ("#!/bin/sh\nkill -9 $$\n", "signal 9"),
    "crashing": ("#!/bin/sh\nkill -11 $$\n", "signal 11"),
    "silent": ("#!/bin/sh\nexit 3\n", "exited with status 3"),
    "another program": ("#!/bin/sh\necho hello\n", "exited with status 0"),
    "failing after its version": (
        "#!/bin/sh\necho 'ffmpeg version 5.1' >&2\necho 'undefined symbol: x' >&2\nexit 127\n",
        "undefined symbol: x",
    ),
    "crashing after its version": (
        "#!/bin/sh\necho 'ffmpeg version 5.1' >&2\nkill -11 $$\n",
        "signal 11",
    ),
    "hanging": ("#!/bin/sh\necho 'ffmpeg version 5.1' >&2\nexec sleep 600\n", "does nothing for 1"),
    "no program": ("not a program", "Exec format error"),
    "no interpreter": ("#!/nowhere/sh\n", "No such file"),
}


@pytest.fixture
def song(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full((1000, 2), 0.5), 44100)
    return tmp_path / "x.wav"


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path, monkeypatch):
    """The only ffmpeg on the path is broken: its path, and words of the message."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    content, words = BROKEN[request.param]
    program.write_text(content)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin")
    if request.param == "hanging":
        monkeypatch.setattr(ffmpeg, "PATIENCE", 1)
    monkeypatch.setattr(logging.getLogger("spleeter_2"), "propagate", True)
    return program, words


def test_the_bundled_program_takes_the_place_of_a_broken_one(song, broken, caplog):
    program, words = broken
    for _ in range(2):
        with AudioReader(song) as reader:
            assert sum(map(len, reader.blocks())) == 1000
    (record,) = caplog.records
    for part in (str(program), "is broken", words, "is used"):
        assert part in record.getMessage()


def test_a_broken_program_is_not_blamed_on_the_song(song, broken, monkeypatch):
    program, words = broken
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    for _ in range(2):
        with pytest.raises(SeparationError) as raised:
            AudioReader(song)
        message = str(raised.value)
        assert "x.wav" not in message and "install it again" in message and "\n" not in message
        assert str(program) in message and words in message
    with pytest.raises(SeparationError, match="is broken"):
        AudioWriter(song.parent / "stems" / "y.wav", 44100, 2)
    assert not (song.parent / "stems").exists()


def test_a_pipe_survives_a_broken_program(song, broken):
    source, sink = os.pipe()
    os.write(sink, song.read_bytes())
    os.close(sink)
    with AudioReader(f"/dev/fd/{source}") as reader:
        os.close(source)
        assert sum(map(len, reader.blocks())) == 1000


def test_a_warning_of_the_dynamic_linker_is_no_fault(song, tmp_path, monkeypatch, caplog):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'ERROR: ld.so: object cannot be preloaded: ignored' >&2\n"
        f'exec {ffmpeg.ffmpeg_command()} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin")
    with AudioReader(song) as reader:
        assert sum(map(len, reader.blocks())) == 1000
    assert not caplog.records


def test_a_wrapper_without_a_banner_works(song, tmp_path, monkeypatch, caplog):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {ffmpeg.ffmpeg_command()} -hide_banner "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin")
    with AudioReader(song) as reader:
        assert sum(map(len, reader.blocks())) == 1000
    with AudioWriter(tmp_path / "y.wav", 44100, 2) as writer:
        writer.write(np.zeros((1000, 2), "f4"))
        writer.finish()
    assert not caplog.records


def test_a_signal_that_ends_the_encoder_is_named(tmp_path):
    with AudioWriter(tmp_path / "x.wav", 44100, 2) as writer:
        writer._ffmpeg.process.send_signal(signal.SIGSEGV)
        with pytest.raises(SeparationError, match=r"cannot write .*x.wav: .*signal 11 \(Segm"):
            for _ in range(100):
                writer.write(np.zeros((44100, 2), "f4"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["wav", "mp3"])
def test_a_file_size_limit_is_named(tmp_path, codec, file_size_limit):
    from spleeter_2.audio.codecs import Encoding

    noise = np.random.default_rng(0).uniform(-1, 1, (44100, 2)).astype("f4")
    file_size_limit(100_000)
    with AudioWriter(tmp_path / "x", 44100, 2, Encoding(codec)) as writer:
        with pytest.raises(SeparationError, match="cannot write .*x: .*(largest size|too large)"):
            for _ in range(30):
                writer.write(noise)
            writer.finish()


def test_a_broken_program_that_others_call_is_named(broken):
    program, words = broken
    with pytest.raises(SeparationError) as raised:
        ffmpeg.require_system_programs("museval")
    message = str(raised.value)
    assert message.startswith("museval needs ffmpeg, but ") and "\n" not in message
    assert str(program) in message and "is broken" in message
    assert words in message or "exited with status 0" in words
