"""Spleeter 2.4.2 itself, which tests compare with, in the interpreter that UPSTREAM_PYTHON names.

Spleeter pins TensorFlow 2.12.1 and cannot share an environment with a newer one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SERVER = Path(__file__).with_name("upstream_server.py")


class Song(NamedTuple):
    """A file, or a part of it, in seconds."""

    path: Path
    offset: float = 0.0
    duration: float | None = None


class Upstream:
    """A process of Spleeter's, which answers one call after another.

    Args:
        python: an interpreter with spleeter 2.4.2.
    """

    def __init__(self, python: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._messages = Path(self._folder.name) / "messages"
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("PYTHONPATH", None)
        with self._messages.open("w") as messages:
            self._process = subprocess.Popen(
                [python, SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                env=environment,
            )

    def separate(
        self,
        configuration: str | os.PathLike,
        songs: Sequence[Song],
        models: str | os.PathLike,
        mwf: bool = False,
    ) -> list[dict[str, np.ndarray]]:
        """The stems of songs, ``{instrument: float32 [S, 2]}`` each.

        Args:
            configuration: ``spleeter:NAME`` or a JSON file.
            songs: which Spleeter's own adapter decodes.
            models: what ``MODEL_PATH`` names, the parent of the model's folder.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._call(
                "separate",
                configuration=str(configuration),
                songs=[(str(song.path), song.offset, song.duration) for song in songs],
                models=str(models),
                mwf=mwf,
                target=folder,
            )
            files = [np.load(f"{folder}/{number}.npz") for number in range(len(songs))]
            return [dict(file) for file in files]

    def separate_to_file(
        self,
        configuration: str | os.PathLike,
        source: str | os.PathLike,
        models: str | os.PathLike,
        destination: str | os.PathLike,
        codecs: list[str],
    ) -> None:
        """Let Spleeter write the stems ``DESTINATION/SONG/INSTRUMENT.CODEC``."""
        self._call(
            "separate_to_file",
            configuration=str(configuration),
            source=str(source),
            models=str(models),
            destination=str(destination),
            codecs=codecs,
        )

    def write_model(self, configuration: Mapping, folder: Path, seed: int = 0) -> None:
        """Write a checkpoint of Spleeter's own graph with random variables.

        The folder is laid out as a released one, without ``.probe``.

        Args:
            configuration: a JSON object of Spleeter's.
        """
        folder.mkdir(parents=True)
        self._call("write_model", parameters=configuration, folder=str(folder), seed=seed)

    def configuration(self, descriptor: str) -> dict:
        """Spleeter's own JSON object of ``spleeter:NAME``."""
        return self._call("configuration", descriptor=descriptor)

    def run(self, code: str, **arguments):
        """Run Python code there, with the arguments as names; return what it calls ``result``."""
        return self._call("run", code=code, arguments=arguments)

    def _call(self, name: str, **arguments):
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"Spleeter has ended:\n{self._messages.read_text()[-4000:]}")
        error, result = json.loads(answer)
        if error:
            raise RuntimeError(f"Spleeter failed:\n{error}")
        return result

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()
