"""Upstream Spleeter's models, computed by its own installed code, with checks around it.

Upstream exits with 0 on every error and, after an interrupted download, separates with untrained
weights; both are errors here. Its samples are not changed; by default our writer encodes them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.ffmpeg import STDIO, WRITE_ERRORS, require_system_programs
from spleeter_2.audio.mark import mark_tags
from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.writer import AudioWriter
from spleeter_2.errors import SeparationError, model_errors
from spleeter_2.extras import require_spleeter
from spleeter_2.files import Draft, writing
from spleeter_2.runtime.tensorflow_import import import_tensorflow
from spleeter_2.weights.bundle import latest_checkpoint, read_bundle

from .separator import SeparationResult, choose_stems

DEFAULT_ADAPTER = "spleeter.audio.ffmpeg.FFMPEGProcessAudioAdapter"
DEFAULT_DURATION = 600.0  # seconds; upstream drops the rest
# required keys of upstream's configurations and their types
KEYS = {
    "instrument_list": list,
    "model_dir": str,
    "sample_rate": int,
    "frame_length": int,
    "model": dict,
}


class UpstreamSeparator:
    """Separates files with ``spleeter:NAME`` or with a JSON configuration of upstream.

    Raises:
        SeparationError: an unknown model or instrument.
    """

    def __init__(
        self,
        descriptor: str,
        stems: list[str] | None = None,
        adapter: str | None = None,
        mwf: bool = False,
        verbose: bool = False,
    ) -> None:
        self.parameters = upstream_configuration(descriptor)
        self.stems = choose_stems(descriptor, self.parameters["instrument_list"], stems)
        self._descriptor = descriptor
        self._adapter_name = DEFAULT_ADAPTER if adapter is None else adapter
        self._mwf = mwf
        self._verbose = verbose
        self._separator = None

    @model_errors()
    def load(self) -> None:
        """Import upstream, check or download its weights, and build its separator.

        Raises:
            ModelError: ffprobe, the weights or the adapter are missing.
        """
        if self._separator is not None:
            return
        require_programs(self._descriptor)
        import_tensorflow()
        from spleeter import SpleeterError
        from spleeter.audio.adapter import AudioAdapter
        from spleeter.separator import Separator
        from spleeter.utils.logging import configure_logger

        configure_logger(self._verbose)
        if not self._verbose:
            logging.getLogger("spleeter").setLevel(logging.WARNING)
        check_weights(self._descriptor, self.parameters["model_dir"])
        try:
            self._adapter = AudioAdapter.get(self._adapter_name)
        except (SpleeterError, ImportError, AttributeError, ValueError) as error:
            raise SeparationError(
                f"there is no audio adapter {self._adapter_name}: {error}"
            ) from error
        self._separator = Separator(self._descriptor, MWF=self._mwf, multiprocess=False)

    def separate_to_file(
        self,
        source: str,
        outputs: dict[str, str],
        offset: float,
        duration: float | None,
        encoding: Encoding,
    ) -> SeparationResult:
        """Let upstream load, separate and save one file; the stems appear when all are complete."""
        if source == STDIO or STDIO in outputs.values():
            raise SeparationError(f"{self._descriptor} cannot use standard input or output")
        if os.path.exists(source) and not os.path.isfile(source):
            raise SeparationError(f"{self._descriptor} cannot read the pipe {source}")
        length = DEFAULT_DURATION if duration is None else duration
        notes: list[str] = []
        if self._adapter_name == DEFAULT_ADAPTER:  # other adapters need not read files
            notes = self._check(source, offset, length, announce=duration is None)
        self.load()
        try:
            waveform, _ = self._adapter.load(
                source, offset=offset, duration=length, sample_rate=self.parameters["sample_rate"]
            )
            estimates = self._separator.separate(waveform, source)
        except Exception as error:  # third-party code may raise any exception
            raise SeparationError(f"{source}: {_message(error)}") from error
        self._save(estimates, outputs, encoding)
        seconds = len(waveform) / self.parameters["sample_rate"]
        return SeparationResult(outputs, seconds, {}, notes)

    def _check(self, source: str, offset: float, length: float, announce: bool) -> list[str]:
        """Decode the file first: upstream would fail in the middle of its graph.

        Returns:
            Notes for the user.
        """
        with AudioReader(source, None, offset, length) as reader:
            for _ in reader.blocks():
                pass
        notes = list(reader.notes)
        if announce and reader.declared and reader.declared > offset + length:
            notes.append(
                f"{source}: {self._descriptor} stops after {length:g} s of "
                f"{reader.declared - offset:.0f} s; give --duration for more"
            )
        return notes

    def _save(self, estimates, outputs: dict[str, str], encoding: Encoding) -> None:
        """Write the stems: by our writer, which marks them, or by an adapter of the user's."""
        rate = self.parameters["sample_rate"]
        with contextlib.ExitStack() as stack:
            files: list[AudioWriter | _Adapted] = []
            for name, path in outputs.items():
                estimate = estimates[name]
                if self._adapter_name == DEFAULT_ADAPTER:
                    tags = mark_tags(encoding.codec)
                    file = AudioWriter(path, rate, estimate.shape[1], encoding, tags)
                else:
                    file = _Adapted(path, self._adapter, rate, encoding)
                files.append(stack.enter_context(file))
                file.write(estimate)
                file.finish()
            for file in files:
                file.publish()


class _Adapted(Draft):
    """A stem that an audio adapter writes, with the interface of ``AudioWriter``."""

    def __init__(self, path: str, adapter, rate: int, encoding: Encoding) -> None:
        self._name, self._adapter, self._rate, self._encoding = path, adapter, rate, encoding
        with writing(path):  # adapters choose the container by the suffix
            super().__init__(path)

    def write(self, waveform) -> None:
        from spleeter.audio import Codec

        codec, bitrate = Codec(self._encoding.codec), self._encoding.bitrate
        try:
            self._adapter.save(self.path, waveform, self._rate, codec, bitrate)
        except Exception as error:  # third-party code
            raise SeparationError(f"cannot write {self._name}: {_message(error)}") from error

    def finish(self) -> None:
        if not self.path.is_file() or not self.path.stat().st_size:
            raise SeparationError(f"cannot write {self._name}: the audio adapter wrote nothing")

    def publish(self) -> None:
        with writing(self._name):
            super().publish()


def upstream_configuration(descriptor: str) -> dict:
    """Upstream's own configuration of a descriptor.

    Raises:
        SeparationError: no package spleeter, an unknown name, or a file that is not a
            configuration of Spleeter.
    """
    require_spleeter(descriptor)
    from importlib import resources

    from spleeter import SpleeterError
    from spleeter.utils.configuration import load_configuration

    try:
        parameters = load_configuration(descriptor)
    except (SpleeterError, OSError, ValueError) as error:
        known = ""
        if descriptor.startswith("spleeter:"):
            names = sorted(
                path.name.removesuffix(".json")
                for path in resources.files("spleeter.resources").iterdir()
                if path.name.endswith("stems.json") or path.name.endswith("kHz.json")
            )
            known = "; known models: " + ", ".join(f"spleeter:{name}" for name in names)
        raise SeparationError(f"there is no configuration {descriptor}{known}") from error
    for key, kind in KEYS.items():
        if not isinstance(parameters, dict) or key not in parameters:
            raise SeparationError(f"{descriptor} is not a Spleeter configuration: it lacks {key}")
        if not isinstance(parameters[key], kind):
            raise SeparationError(
                f"{descriptor} is not a Spleeter configuration: {key} must be of type "
                f"{kind.__name__}, not {parameters[key]!r}"
            )
    instruments = parameters["instrument_list"]
    if not instruments or not all(isinstance(name, str) and name for name in instruments):
        raise SeparationError(f"{descriptor}: instrument_list must name instruments")
    return parameters


def require_programs(descriptor: str) -> None:
    """Check that the system's ffmpeg and ffprobe run, which upstream calls.

    Raises:
        SeparationError: one of them is missing or broken.
    """
    require_system_programs(f"{descriptor}, which is computed by Spleeter's own code,")


def check_weights(descriptor: str, model_directory: str) -> None:
    """Check that upstream's weights are complete, and let it download them if there are none.

    Raises:
        SeparationError: the download failed, or the checkpoint is incomplete.
    """
    from spleeter.model.provider import ModelProvider

    provider = ModelProvider.default()
    folder = Path(model_directory)
    if not folder.is_absolute():
        folder = Path(provider.DEFAULT_MODEL_PATH) / model_directory
    advice = f"put the model's files into {folder}, or name their parent folder in MODEL_PATH"
    if not folder.exists():
        try:
            provider.get(model_directory)
        except BaseException as error:
            # an empty folder would make upstream separate with untrained weights next time
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            raise SeparationError(
                f"the weights of {descriptor} could not be downloaded ({error}): {advice}"
            ) from error
    try:
        path = latest_checkpoint(folder)
    except SeparationError as error:
        raise SeparationError(
            f"there are no weights of {descriptor} in {folder}: {advice}"
        ) from error
    read_bundle(path, verify=True)


def run_upstream(command: str, adapter: str | None, **options) -> None:
    """Run upstream's own ``train`` or ``evaluate``, by default with its ffmpeg adapter.

    Raises:
        SeparationError: upstream's error.
    """
    upstream_configuration(options["params_filename"])
    require_programs(options["params_filename"])
    import_tensorflow()
    import spleeter.__main__ as program
    import typer

    try:
        adapter = DEFAULT_ADAPTER if adapter is None else adapter
        getattr(program, command)(adapter=adapter, **options)
    except typer.Exit:
        raise
    except Exception as error:  # third-party code may raise any exception
        raise SeparationError(f"upstream's {command} failed: {_message(error)}") from error


def _message(error: Exception) -> str:
    """Message of an exception of third-party code, in one line."""
    # upstream has all of ffmpeg's messages in one line, as the repr of bytes
    lines = str(error).replace("\\n", "\n").strip().splitlines()
    lines = [line for line in lines if WRITE_ERRORS.search(line)] or lines
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
