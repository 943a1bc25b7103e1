"""The folder of a configuration's weights: beside it, in the package, or fetched."""

from __future__ import annotations

import os

from msgspec.structs import replace

from spleeter_2.config.loading import ONNX_FILE, PREFIXES, has_weights, load_configuration
from spleeter_2.config.networks import Mdx
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .folders import find


def is_there(configuration: Configuration) -> bool:
    """True if the weights are on this machine; their contents are not checked.

    Raises:
        ModelError: a folder of Spleeter's lacks a file.
    """
    is_found = configuration.model_dir is not None and find(configuration.model_dir) is not None
    return is_found or _has_weights(configuration)


def _has_weights(configuration: Configuration) -> bool:
    """True if the folder of the weights holds a checkpoint, or the ONNX file of an MDX-Net."""
    folder = configuration.weights
    if isinstance(configuration.model, Mdx):
        return folder is not None and os.path.isfile(folder / ONNX_FILE)
    return has_weights(folder)


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
    if not _has_weights(configuration):
        where = "" if str(descriptor).startswith(PREFIXES) else f" in {configuration.weights}"
        raise SeparationError(
            f"the weights of {descriptor} are missing{where}: "
            "reinstall spleeter-2, or train or convert the model again"
        )
    return configuration


def with_checkpoint(descriptor: str | os.PathLike, configuration: Configuration) -> Configuration:
    """As ``with_weights``, of a model that is a network of ours.

    Raises:
        SeparationError: no weights; an ONNX file in place of a checkpoint.
    """
    refuse_onnx(descriptor, configuration)
    return with_weights(descriptor, configuration)


def refuse_onnx(descriptor: str | os.PathLike, configuration: Configuration) -> None:
    """Raise SeparationError for a model that is an ONNX file without a checkpoint."""
    if isinstance(configuration.model, Mdx):
        raise SeparationError(
            f"{descriptor} is an MDX-Net, an ONNX file ({ONNX_FILE}) without a checkpoint: it "
            "separates, but cannot be trained or exported"
        )


def load_trained(descriptor: str | os.PathLike, key: str) -> Configuration:
    """The configuration of a model with weights that another configuration names under a key.

    Raises:
        SeparationError: an unknown model, or one without weights; the key is named.
    """
    try:
        return with_checkpoint(descriptor, load_configuration(descriptor))
    except SeparationError as error:
        raise SeparationError(f"{key}: {error}") from error
