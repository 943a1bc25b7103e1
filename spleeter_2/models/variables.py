"""The variables of a model by name, and arrays assigned to them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from spleeter_2.errors import SeparationError


def named_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """Variables of a model by name, such as ``vocals_encoder_1_conv/kernel``.

    Raises:
        ValueError: two variables have the same name.
    """
    named = {variable.name.removesuffix(":0"): variable for variable in model.weights}
    if len(named) != len(model.weights):
        raise ValueError(f"{model.name}: two variables share a name")
    return named


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], source: object) -> None:
    """Assign arrays to the variables of a model, by name.

    Arrays without a variable are ignored: a model may be built for some of the instruments.

    Args:
        source: origin of the arrays, for the error message.

    Raises:
        SeparationError: an array is missing or has another shape.
    """
    faults = []
    for name, variable in named_variables(model).items():
        if name not in arrays:
            faults.append(f"{name} is missing")
        elif arrays[name].shape != tuple(variable.shape):
            faults.append(
                f"{name} has shape {list(arrays[name].shape)} instead of {list(variable.shape)}"
            )
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise SeparationError(
            f"the weights in {source} do not fit the architecture of {model.name}: "
            f"{faults[0]}{more}"
        )
    for name, variable in named_variables(model).items():
        variable.assign(arrays[name])
