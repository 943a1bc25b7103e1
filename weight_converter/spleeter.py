"""Conversion of Spleeter's networks (TensorFlow 1) to our U-Net.

The names of the tensors are in ``spleeter_2.weights.spleeter``; their axes stay as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spleeter_2.checks import check_path, check_whole
from spleeter_2.config.loading import load_configuration, parse_configuration, read_configuration
from spleeter_2.config.networks import UNet
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.extras import require_extra
from spleeter_2.weights.bundle import latest_checkpoint, read_bundle, read_index
from spleeter_2.weights.spleeter import FIRST, nb_networks, tensor_names, variable_shapes

from .mapping import Conversion, Row, shown

# configurations of Spleeter's released models, by the number of their networks
RELEASED = {2: "spleeter:2stems", 4: "spleeter:4stems", 5: "spleeter:5stems"}
OF_ANOTHER = ("weights", "model_dir", "card")  # keys about the weights of the given model


def read_spleeter(folder: str | os.PathLike, model: str | None = None, seed: int = 0) -> Conversion:
    """Plan the conversion of a checkpoint of Spleeter's, a released one or one of the user's.

    Args:
        folder: Spleeter's model directory (``checkpoint``, ``model.index``, ...).
        model: descriptor of the configuration, or of another architecture with these layers; a
            JSON file of Spleeter's too. Default: that of the released model with as many networks.
        seed: for the layers that Spleeter lacks; they keep their neutral initial values.

    Raises:
        SeparationError: another kind of checkpoint; an architecture without these layers; layers
            that Spleeter lacks, without TensorFlow.
    """
    folder = Path(check_path("folder", folder))
    seed = check_whole("the seed", seed, 0, 2**32 - 1)
    prefix = latest_checkpoint(folder)
    index = read_index(prefix)
    number = nb_networks(index.entries)
    notes = []
    if model is None:
        model = _released(folder, number)
        notes.append(
            f"{number} networks: taken as those of {model}; --model names another configuration"
        )
    configuration = read_configuration(model)
    parsed = parse_configuration(configuration)
    names = _names(folder, index.entries, number, model, parsed)
    source = read_bundle(prefix, names.values(), verify=True)
    source = {name: _floats(folder, name, array) for name, array in source.items()}
    rows = [
        Row(name, source[name].shape, variable, source[name].shape, _axes(source[name]))
        for variable, name in names.items()
    ]
    values = {row.variable: source[row.source] for row in rows}
    _check_shapes(model, parsed, rows)
    if parsed.model.frequency or parsed.model.head.type == "regression":
        values = {**_initial_values(parsed, seed), **values}
        nb_new = len(values) - len(rows)
        notes.append(f"{nb_new} arrays that Spleeter lacks keep their neutral initial values")
    configuration = {k: v for k, v in configuration.items() if k not in OF_ANOTHER}
    configuration["source"] = _provenance(folder, index.shards)
    ignored = sorted(index.entries.keys() - {row.source for row in rows})
    return Conversion(f"Spleeter, {number} networks", configuration, rows, ignored, values, notes)


def _released(folder: Path, number: int) -> str:
    """The configuration of the released model with so many networks."""
    if not number:
        raise _lacks(folder, FIRST)
    if number not in RELEASED:
        raise SeparationError(
            f"{folder} has {number} network{'s' if number > 1 else ''}, as no released model has: "
            "name its configuration with --model, such as Spleeter's JSON file"
        )
    return RELEASED[number]


def _names(
    folder: Path, stored: Mapping[str, object], number: int, model: str, parsed: Configuration
) -> dict[str, str]:
    """Spleeter's tensor of each of our variables.

    The targets are the networks in their order, or some instruments of a released model.
    """
    targets = parsed.targets
    instruments = targets if len(targets) == number else _instruments(folder, number, model, parsed)
    found = {
        variable: name
        for variable, name in tensor_names(instruments).items()
        if variable.startswith(tuple(f"{target}_" for target in targets))
    }
    for name in found.values():
        if name not in stored:
            layer = name.partition("/")[0]
            known = any(other.startswith(f"{layer}/") for other in stored)
            raise _lacks(folder, name if known else layer)
    return found


def _instruments(folder: Path, number: int, model: str, parsed: Configuration) -> Sequence[str]:
    """Instruments of a released model's networks, of which a configuration has some."""
    released = load_configuration(_released(folder, number))
    for target in parsed.targets:
        if target not in released.targets:
            raise SeparationError(
                f"{folder} has no network for {target}: its {number} networks are taken as those "
                f"of {', '.join(released.targets)}"
            )
    for key in ("encoder_activation", "decoder_activation"):
        ours, theirs = (getattr(x.model, key, None) for x in (parsed, released))
        if ours != theirs:
            raise SeparationError(
                f"{model} has model.{key} {ours}, the networks of {released.name} were trained "
                f"with {theirs}: set it in a configuration of your own"
            )
    return released.targets


def _check_shapes(model: str, parsed: Configuration, rows: list[Row]) -> None:
    """Raise SeparationError unless an architecture has a place for all tensors, and no other."""
    shapes = {}
    if isinstance(parsed.model, UNet):
        shapes = variable_shapes(parsed.targets, parsed.model.filters, parsed.nb_channels)
    for row in rows:
        if shapes.pop(row.variable, None) != row.shape:
            raise SeparationError(
                f"{model} has no place for {row.source} of shape {shown(row.source_shape)}"
            )
    if shapes:
        raise SeparationError(f"{model} has more levels than Spleeter's networks")


def _floats(folder: Path, name: str, array: np.ndarray) -> np.ndarray:
    """A tensor as float32, or float16 if it is stored so."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise SeparationError(
            f"{folder} is damaged: {name} holds other values than finite floating-point numbers"
        )
    return array if array.dtype == np.float16 else array.astype(np.float32, copy=False)


def _initial_values(parsed: Configuration, seed: int) -> dict[str, np.ndarray]:
    """The initial weights of an architecture."""
    require_extra("train", "an architecture with layers that Spleeter lacks")
    from spleeter_2.runtime.tensorflow_import import import_tensorflow

    import_tensorflow().keras.utils.set_random_seed(seed)
    from spleeter_2.models import build_model
    from spleeter_2.models.variables import named_variables

    variables = named_variables(build_model(parsed))
    return {name: variable.numpy() for name, variable in variables.items()}


def _axes(array: np.ndarray) -> str:
    """Return the rule that leaves all axes in place."""
    axes = "tfio"[: array.ndim]
    return f"{' '.join(axes)} -> {' '.join(axes)}"


def _provenance(folder: Path, shards: Mapping[int, str]) -> dict[str, str]:
    data = Path(shards[min(shards)])
    return {
        "project": "Spleeter",
        "file": f"{folder.resolve().name}/{data.name}",
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
    }


def _lacks(folder: Path, name: str) -> SeparationError:
    return SeparationError(f"{folder} is not a checkpoint of Spleeter's: it lacks {name}")
