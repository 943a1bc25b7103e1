"""Headers of WAV files."""

import io
import struct

import numpy as np
import soundfile

from spleeter_2.audio.riff import declared_seconds, float_header


def test_a_file_of_floats(tmp_path):
    waveform = np.random.default_rng(0).normal(size=(1000, 2)).astype("f4")
    content = float_header(44100, 2, 1000) + waveform.tobytes()
    found, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == 44100 and np.array_equal(found, waveform)
    (tmp_path / "song.wav").write_bytes(content)
    assert declared_seconds(tmp_path / "song.wav") == 1000 / 44100


def test_a_file_that_grows(tmp_path):
    """ffmpeg and libsndfile read to its end; its duration is unknown."""
    header = float_header(44100, 1, None)
    assert len(header) == len(float_header(44100, 1, 1000))
    (tmp_path / "song.wav").write_bytes(header + bytes(4000))
    assert declared_seconds(tmp_path / "song.wav") is None
    assert len(soundfile.read(tmp_path / "song.wav")[0]) == 1000


def test_four_gigabytes(tmp_path):
    """RF64 from the size on that 32 bits do not hold."""
    most = ((1 << 32) - 1 - 80) // 8
    assert float_header(44100, 2, most)[:4] == b"RIFF"
    header = float_header(44100, 2, most + 1)
    assert header[:4] == b"RF64" and header[12:16] == b"ds64" and len(header) == 80
    size, data, samples = struct.unpack("<QQQ", header[20:44])
    assert (size, data, samples) == ((most + 1) * 8 + 72, (most + 1) * 8, most + 1)
    with open(tmp_path / "song.wav", "wb") as file:
        file.write(header)
        file.truncate(80 + (most + 1) * 8)  # sparse
    assert declared_seconds(tmp_path / "song.wav") == (most + 1) / 44100
    assert soundfile.info(tmp_path / "song.wav").frames == most + 1
