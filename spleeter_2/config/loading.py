"""Descriptor -> validated ``Configuration``.

A descriptor is ``spleeter_2:NAME`` (embedded in ``presets/``), a JSON file, or a folder that
holds ``config.json`` (a converted checkpoint, a training run). A JSON file may name a ``base``
descriptor and state only what it changes. Files and folders that it names are relative to itself.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

import dacite

from spleeter_2.errors import SeparationError

from .schema import MODELS, Configuration, require

PREFIX = "spleeter_2:"
PRESETS = Path(__file__).parent / "presets"
CHECKPOINT = "checkpoint"  # prefix of a checkpoint's files in the folder of the weights
WINDOW = "stft/window"  # beside the weights, where the STFT has a window of its own
FORMAT = 1  # value of the key "spleeter_2", which tells our configurations from Spleeter's


def embedded_names() -> list[str]:
    """Names that may follow ``spleeter_2:``, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def has_weights(folder: Path | None) -> bool:
    """Whether a folder holds a checkpoint; what is in it shows when it is loaded."""
    return folder is not None and os.path.isfile(folder / f"{CHECKPOINT}.index")


def is_ours(descriptor: str) -> bool:
    """Whether a descriptor is for spleeter-2 rather than for upstream Spleeter.

    Raises:
        SeparationError: a file or folder that does not exist or is not JSON.
    """
    if descriptor.startswith(PREFIX):
        return True
    if descriptor.startswith("spleeter:"):
        return False
    return "spleeter_2" in read_json(_locate(descriptor))


def read_configuration(descriptor: str) -> dict[str, Any]:
    """The JSON object that a descriptor names, complete: laid over its bases.

    Raises:
        SeparationError: a file that does not exist, is not JSON or not ours.
    """
    return _resolve(descriptor, seen=())


def load_configuration(descriptor: str) -> Configuration:
    """Read and validate the configuration that a descriptor names.

    Raises:
        SeparationError: one sentence that names the descriptor and the fault.
    """
    data = read_configuration(descriptor)
    try:
        return parse_configuration(data)
    except SeparationError as error:
        raise SeparationError(f"{descriptor}: {error}") from error


def parse_configuration(data: dict[str, Any]) -> Configuration:
    """Configuration of a JSON object as ``read_configuration`` returns it.

    Raises:
        SeparationError: what is wrong with it.
    """
    data = {key: value for key, value in data.items() if key != "spleeter_2"}
    model = data.get("model")
    if isinstance(model, dict):  # the type says which keys there are
        kind = model.get("type", "unet")
        require(
            isinstance(kind, str) and kind in MODELS,
            f"model.type must be one of {', '.join(MODELS)}, not {kind!r}",
        )
        data = {**data, "model": parse(MODELS[kind], model, "model.")}
    return parse(Configuration, data, "")


def parse(kind: type, data: dict[str, Any], place: str) -> Any:
    """Dataclass of a JSON object; ``place`` stands before the names of its keys."""
    _check(kind, data, place.rstrip("."))
    try:
        return dacite.from_dict(kind, data, dacite.Config(cast=[tuple, Path]))
    except dacite.MissingValueError as error:
        raise SeparationError(
            f"the configuration lacks the key {place}{error.field_path}"
        ) from error
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise SeparationError(f"{place.rstrip('.') or 'the configuration'}: {error}") from error


def _check(kind: Any, data: Any, place: str) -> None:
    """Refuse unknown keys and values of a wrong type, in words that are not Python's."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Union else (kind,)
    chosen = next((choice for choice in choices if _is(choice, data)), None)
    require(chosen is not None, f"{place} must be {' or '.join(map(_told, choices))}, not {data!r}")
    if typing.get_origin(chosen) is tuple:
        for index, value in enumerate(data):
            _check(typing.get_args(chosen)[0], value, f"{place}[{index}]")
    elif is_dataclass(chosen) and isinstance(data, dict):
        kinds = typing.get_type_hints(chosen)
        unknown = sorted(set(data) - set(kinds))
        known = f"; known are {', '.join(kinds)}" if len(kinds) <= 10 else ""
        require(
            not unknown,
            f"{place}{': ' if place else ''}unknown key{'s' if len(unknown) > 1 else ''} "
            f"{', '.join(map(repr, unknown))}{known}",
        )
        for key, value in data.items():
            _check(kinds[key], value, f"{place}{'.' if place else ''}{key}")
    elif typing.get_origin(chosen) is dict:
        for key, value in data.items():
            _check(typing.get_args(chosen)[1], value, f"{place}.{key}")


def _is(kind: Any, data: Any) -> bool:
    """Whether a JSON value, not its contents, has a type; what is parsed already has its own."""
    origin = typing.get_origin(kind) or kind
    if kind is Any or origin is Literal:
        return kind is Any or data in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(data, (int, kind)) and not isinstance(data, bool)
    if origin is tuple:
        return isinstance(data, (list, tuple))
    if kind is Path:
        return isinstance(data, (str, Path))
    return isinstance(data, origin) or (is_dataclass(kind) and isinstance(data, dict))


def _told(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    names |= {str: "a string", Path: "a string", tuple: "a list"}
    return names.get(kind) or names.get(typing.get_origin(kind)) or "an object"


def _locate(descriptor: str) -> Path:
    """File behind a descriptor."""
    if descriptor.startswith(PREFIX):
        name = descriptor[len(PREFIX) :]
        if name not in embedded_names():
            known = ", ".join(PREFIX + known for known in embedded_names())
            raise SeparationError(f"there is no model {descriptor}; known models: {known}")
        return PRESETS / f"{name}.json"
    path = Path(descriptor)
    if os.path.isdir(path):
        path = path / "config.json"
    if not os.path.isfile(path):  # unlike Path's, false if a folder must not be entered
        raise SeparationError(
            f"there is no configuration {path}; give spleeter_2:NAME (see 'spleeter models'), "
            "a JSON file or a folder with config.json"
        )
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        SeparationError: there is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SeparationError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(data, dict):
        raise SeparationError(f"the configuration {path} must be a JSON object")
    return data


def _resolve(descriptor: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    """JSON of a descriptor laid over its bases; relative paths become absolute ones."""
    path = _locate(descriptor).resolve()
    if path in seen:
        raise SeparationError(f"the configuration {path} is its own base")
    return complete(read_json(path), path, seen)


def complete(data: dict[str, Any], path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A JSON object that stands in the file ``path``, laid over its bases.

    Raises:
        SeparationError: it is not ours, or its base is not there.
    """
    if data.get("spleeter_2") != FORMAT:
        raise SeparationError(
            f"{path} is not a spleeter-2 configuration of format {FORMAT}: "
            f'it must say "spleeter_2": {FORMAT}'
        )
    data = anchored(data, path.parent)
    base = data.pop("base", None)
    if base is None:
        if isinstance(data.get("model"), dict):
            data["model"].setdefault("type", "unet")
        return data
    if not isinstance(base, str):
        raise SeparationError(f"{path}: base must be a descriptor, not {base!r}")
    if not base.startswith(PREFIX):
        base = str(path.parent / base)
    return merge(_resolve(base, (*seen, path)), data)


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A JSON object whose weights, and models to train with, do not depend on its place.

    Args:
        folder: what its relative paths are relative to.
    """
    if isinstance(data.get("weights"), str):
        data = {**data, "weights": str(folder / data["weights"])}
    return with_models(data, lambda model: os.path.normpath(folder / model))


def with_models(data: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A JSON object with ``change`` of every path in ``training.start`` and ``training.teachers``.

    Names of models (``spleeter_2:NAME``, ``spleeter:NAME``) and what is no descriptor stay.
    """

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        is_path = isinstance(value, str) and not value.startswith((PREFIX, "spleeter:"))
        return change(value) if is_path else value

    training = data.get("training")
    if not isinstance(training, dict):
        return dict(data)
    models = {key: changed(training[key]) for key in ("start", "teachers") if key in training}
    return {**data, "training": {**training, **models}}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``; objects merge unless their types differ, all else replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        alike = both and value.get("type", old.get("type")) == old.get("type", value.get("type"))
        merged[key] = merge(old, value) if alike else value
    return merged


def differences(one: Mapping[str, Any], two: Mapping[str, Any], place: str = "") -> list[str]:
    """Keys whose values differ, sorted: ``training.loss.spectrogram``, where both have objects."""
    found = []
    for key in sorted({*one, *two}):
        old, new = one.get(key), two.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{place}{key}.")
        elif old != new:
            found.append(f"{place}{key}")
    return found
