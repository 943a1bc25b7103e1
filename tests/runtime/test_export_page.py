"""The programs of docs/export.md, run as they are printed."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.common import RATE
from support.models import CUNET, UNET, small, write_model

from spleeter_2.cli.main import entrypoint
from spleeter_2.separation.separator import Separator

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
HEADINGS = {"onnx": "### ONNX Runtime", "saved_model": "### TensorFlow", "litert": "### LiteRT"}


def program_below(heading: str) -> str:
    text = PAGE.read_text()
    assert f"\n{heading}\n" in text
    return re.search(r"```python\n(.*?)```", text.partition(f"\n{heading}\n")[2], re.S)[1]


def follow(form: str, waveform: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    """Stems ``[S, C]`` that the page's programs compute in the current folder."""
    soundfile.write("song.wav", waveform, rate, subtype="FLOAT")
    names: dict = {}
    for heading in (HEADINGS[form], "## Around the network"):
        exec(program_below(heading), names)
    return names["stems"]


def assert_same(stems, expected, tolerance=1e-4):
    assert stems.keys() == expected.keys()
    for name, stem in expected.items():
        np.testing.assert_allclose(stems[name], stem, rtol=0, atol=tolerance * np.abs(stem).max())


@pytest.mark.parametrize("form", HEADINGS)
def test_the_page_separates_as_the_separator(program, tiny, mixture, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    status, messages = program(entrypoint, "export", "-p", tiny, "-o", "exported", "--format", form)
    assert status == 0, messages
    waveform = 0.25 * mixture[RATE : 2 * RATE]
    assert_same(follow(form, waveform, RATE), Separator(tiny).separate(waveform))


def test_another_window_join_and_overlap(program, mixture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    window = np.sin(np.pi * (np.arange(128) + 0.5) / 128).astype(np.float32)
    write_model(small(CUNET), tmp_path / "model", window)
    assert program(entrypoint, "export", "-p", "model", "-o", "exported")[0] == 0
    waveform = 0.25 * mixture[:4000]
    assert_same(follow("onnx", waveform, 8000), Separator("model").separate(waveform))


def test_an_extended_band(program, mixture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(small(UNET, extension="power"), tmp_path / "model")
    assert program(entrypoint, "export", "-p", "model", "-o", "exported")[0] == 0
    waveform = 0.25 * mixture[10000:16000]
    stems, separator = follow("onnx", waveform, 8000), Separator("model")
    assert separator.configuration.model.nb_bins < separator.configuration.stft.nb_bins
    assert_same(stems, separator.separate(waveform))


@pytest.mark.parametrize(
    "extension, exponent, overlap", [("zeros", 2, 0.0), ("average", 1.5, 0.0), ("zeros", 2, 0.4)]
)
def test_a_model_of_spleeter(program, mixture, tmp_path, monkeypatch, extension, exponent, overlap):
    """Its frames are not centred, its windows are cut between them, its masks sum to one."""
    monkeypatch.chdir(tmp_path)
    segment = {"nb_frames": 32, "trim": 0, "join": "frames", "overlap": overlap}
    masks = {"exponent": exponent, "extension": extension}
    others = {"residual": None, "segment": segment, "ratio_mask": masks}
    write_model(small({**UNET, "level": None}, **others), tmp_path / "model")
    assert program(entrypoint, "export", "-p", "model", "-o", "exported")[0] == 0
    for nb_samples in (4000, 32 * 32 * 2 - 100, 32 * 32 * 2 - 300):  # the last frame may be alone
        waveform = 0.25 * mixture[10000 : 10000 + nb_samples]
        stems, expected = follow("onnx", waveform, 8000), Separator("model").separate(waveform)
        assert_same(stems, expected, 3e-4)  # of quotients of small float32 numbers
