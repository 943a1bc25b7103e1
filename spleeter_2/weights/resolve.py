"""The folder of a configuration's weights: beside it, in the package, or fetched."""

from __future__ import annotations

import os

from msgspec.structs import replace

from spleeter_2.config.loading import PREFIXES, has_weights, load_configuration
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .folders import find


def is_there(configuration: Configuration) -> bool:
    """True if the weights are on this machine; their contents are not checked.

    Raises:
        ModelError: a folder of Spleeter's lacks a file.
    """
    is_found = configuration.model_dir is not None and find(configuration.model_dir) is not None
    return is_found or has_weights(configuration.weights)


def with_weights(descriptor: str | os.PathLike, configuration: Configuration) -> Configuration:
    """The configuration with the folder of its weights; Spleeter's released ones are fetched.

    A folder of the user's comes before the weights in the package.

    Raises:
        SeparationError: there are no weights.
        ModelError: a folder of Spleeter's lacks a file; the weights cannot be fetched.
    """
    if configuration.model_dir is not None:
        folder = find(configuration.model_dir)
        if folder is None and not has_weights(configuration.weights):
            from .download import find_or_fetch

            folder = find_or_fetch(configuration.model_dir)
        return configuration if folder is None else replace(configuration, weights=folder)
    if configuration.weights is None:
        raise SeparationError(
            f"{descriptor} has no weights: train it, or convert a checkpoint into it"
        )
    if not has_weights(configuration.weights):
        where = "" if str(descriptor).startswith(PREFIXES) else f" in {configuration.weights}"
        raise SeparationError(
            f"the weights of {descriptor} are missing{where}: "
            "reinstall spleeter-2, or train or convert the model again"
        )
    return configuration


def load_trained(descriptor: str | os.PathLike, key: str) -> Configuration:
    """The configuration of a model with weights that another configuration names under a key.

    Raises:
        SeparationError: an unknown model, or one without weights; the key is named.
    """
    try:
        return with_weights(descriptor, load_configuration(descriptor))
    except SeparationError as error:
        raise SeparationError(f"{key}: {error}") from error
