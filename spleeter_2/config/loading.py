"""Descriptor -> validated ``Configuration``.

A descriptor is ``spleeter_2:NAME`` or ``spleeter:NAME`` (embedded in ``presets/``), a JSON file, or
a folder with a ``config.json`` (a converted checkpoint, a training run). A JSON file of Spleeter is
read as one of ours. A file with a ``base`` descriptor holds only the changes. Paths in a JSON file
are relative to its folder.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from spleeter_2.checks import check_path, check_type
from spleeter_2.errors import SeparationError
from spleeter_2.files import read_json

from .schema import Configuration
from .upstream import from_upstream, is_upstream
from .validation import parse

PREFIX, UPSTREAM_PREFIX = "spleeter_2:", "spleeter:"
PREFIXES = (PREFIX, UPSTREAM_PREFIX)
PRESETS = Path(__file__).parent / "presets"
FOLDERS = {PREFIX: PRESETS, UPSTREAM_PREFIX: PRESETS / "spleeter"}
CHECKPOINT = "checkpoint"  # prefix of a checkpoint's files in the folder of the weights
ONNX_FILE = "model.onnx"  # in the same folder: the network, exported or, of MDX-Net, the original
WINDOW = "stft/window"  # optional array in the checkpoint: the STFT's window
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".th", ".safetensors")  # suffixes of other programs' files
MODEL = "the descriptor of a model"  # in messages
# value of the converter's --from by the suffix of a file that is no configuration
CONVERTERS = {".onnx": "mdx"}
FORMAT = 1  # value of the key "spleeter_2", which Spleeter's configurations lack


def embedded_models() -> list[str]:
    """Descriptors of the models that ship, sorted: ours, then Spleeter's."""
    return [
        prefix + path.stem
        for prefix, folder in FOLDERS.items()
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)
    ]


def has_weights(folder: Path | None) -> bool:
    """Return True if the folder holds a checkpoint; its contents are not checked."""
    return folder is not None and os.path.isfile(folder / CHECKPOINT)


def read_configuration(descriptor: str | os.PathLike) -> dict[str, Any]:
    """JSON object of a descriptor, merged into its bases.

    Raises:
        SeparationError: the file does not exist, is not JSON or not a configuration of spleeter-2.
    """
    return _resolve(check_path(MODEL, descriptor), seen=())


def read_upstream(descriptor: str | os.PathLike) -> dict[str, Any] | None:
    """JSON object of a file of Spleeter; empty for ``spleeter:NAME``, None for a model of ours.

    Raises:
        SeparationError: see ``read_configuration``.
    """
    descriptor = check_path(MODEL, descriptor)
    if descriptor.startswith(UPSTREAM_PREFIX):
        return {}
    data = read_json(_locate(descriptor), "configuration")
    return data if is_upstream(data) else None


def load_configuration(descriptor: str | os.PathLike) -> Configuration:
    """Read and validate the configuration of a descriptor.

    Raises:
        SeparationError: one sentence with the descriptor, the place and the fault.
    """
    data = read_configuration(descriptor)
    try:
        return parse_configuration(data)
    except SeparationError as error:
        raise SeparationError(f"{descriptor}: {error}") from error


def parse_configuration(data: Mapping[str, Any]) -> Configuration:
    """Validate a JSON object as ``read_configuration`` returns it.

    Raises:
        SeparationError: one sentence with the place and the fault.
    """
    check_type("the configuration", data, Mapping)
    return parse(Configuration, {k: v for k, v in data.items() if k != "spleeter_2"})


def to_json(configuration: Configuration) -> dict[str, Any]:
    """The JSON object of a configuration, defaults included; see ``parse_configuration``."""
    return {"spleeter_2": FORMAT, **msgspec.to_builtins(configuration, enc_hook=str)}


def _locate(descriptor: str) -> Path:
    """Path of a descriptor's JSON file."""
    for prefix, folder in FOLDERS.items():
        if descriptor.startswith(prefix):
            known = [name for name in embedded_models() if name.startswith(prefix)]
            if descriptor not in known:
                raise SeparationError(
                    f"there is no model {descriptor}; known models: {', '.join(known)}"
                )
            return folder / f"{descriptor[len(prefix) :]}.json"
    path = Path(descriptor)
    if path.suffix.lower() in CHECKPOINTS and os.path.isfile(path):
        raise SeparationError(
            f"{path} is a checkpoint of another program, to be converted first: "
            f"python -m weight_converter --from roformer {path} --config FILE.yaml -o FOLDER "
            "(--from lasaft for LaSAFT's), then give the folder"
        )
    if os.path.isdir(path):
        path = path / "config.json"
    if not os.path.isfile(path):  # Path.is_file raises PermissionError in a closed folder
        raise SeparationError(
            f"there is no configuration {path}; give spleeter_2:NAME or spleeter:NAME (see "
            "'spleeter models'), a JSON file or a folder with config.json"
        )
    if path.suffix.lower() in CONVERTERS:
        raise SeparationError(_advice_to_convert(path))
    return path


def _advice_to_convert(path: Path) -> str:
    """Sentence about a file that is given in place of a converted model's folder."""
    if os.path.isfile(path.parent / "config.json"):
        return (
            f"{path} is the network of a model: give its folder, -p {shlex.quote(str(path.parent))}"
        )
    source, folder = shlex.quote(str(path)), shlex.quote(str(path.with_suffix("")))
    return (
        f"{path} must be converted first: python -m weight_converter --from "
        f"{CONVERTERS[path.suffix.lower()]} {source} -o {folder}, then give -p {folder}"
    )


def _resolve(descriptor: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = _locate(descriptor).resolve()
    if path in seen:
        raise SeparationError(f"the configuration {path} is its own base")
    return complete(read_json(path, "configuration"), path, seen)


def complete(data: dict[str, Any], path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Merge a JSON object into its bases and make its paths absolute.

    Args:
        path: file of the object, which relative paths refer to.
        seen: files that are being resolved.

    Raises:
        SeparationError: another format, or a base that does not exist.
    """
    if is_upstream(data):
        data = from_upstream(data, path)
    if data.get("spleeter_2") != FORMAT:
        raise SeparationError(
            f"{path} is not a spleeter-2 configuration of format {FORMAT}: "
            f'it must contain "spleeter_2": {FORMAT}'
        )
    data = anchored(data, path.parent)
    base = data.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise SeparationError(f"{path}: base must be a descriptor, not {base!r}")
        if not base.startswith(PREFIXES):
            base = str(path.parent / base)
        data = merge(_of_base(_resolve(base, (*seen, path)), data), data)
    if isinstance(data.get("model"), dict):
        data["model"].setdefault("type", "unet")
    return data


def _of_base(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A base without the names of weights that its changes replace."""
    has_other_targets = changes.get("targets", base.get("targets")) != base.get("targets")
    if "weights" in changes or has_other_targets:  # Spleeter's networks have an order, no names
        base.pop("model_dir", None)
    if "model_dir" in changes:
        base.pop("weights", None)
    return base


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Copy of a JSON object with absolute paths: ``weights``, and those of ``with_models``.

    Args:
        folder: relative paths refer to it.
    """
    if isinstance(data.get("weights"), str):
        data = {**data, "weights": str(folder / data["weights"])}
    return with_models(data, lambda model: os.path.normpath(folder / model))


def with_models(data: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Copy of a JSON object with ``change`` applied to the paths of models to train with.

    These are the strings in ``training.start`` and ``training.teachers`` that are no names of
    models (``spleeter_2:NAME``, ``spleeter:NAME``).
    """

    def changed(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [changed(item) for item in value]
        is_path = isinstance(value, str) and not value.startswith(PREFIXES)
        return change(value) if is_path else value

    training = data.get("training")
    if not isinstance(training, dict):
        return dict(data)
    models = {key: changed(training[key]) for key in ("start", "teachers") if key in training}
    return {**data, "training": {**training, **models}}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``changes`` over ``base``: objects of the same ``type`` merge, all else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        same = both and value.get("type", old.get("type")) == old.get("type", value.get("type"))
        merged[key] = merge(old, value) if same else value
    return merged


def differences(one: Mapping[str, Any], two: Mapping[str, Any], place: str = "") -> list[str]:
    """Sorted places with different values, such as ``training.loss.spectrogram``."""
    found = []
    for key in sorted({*one, *two}):
        old, new = one.get(key), two.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{place}{key}.")
        elif old != new:
            found.append(f"{place}{key}")
    return found
