"""What the layers of all models share."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import tensorflow as tf

LEAK = 0.2  # slope of the leaky ReLU below zero, as in Spleeter's encoder


def plain(call: Callable) -> Callable:
    """Decorate a layer's ``call`` to be run as it is written.

    Keras would rewrite its source so that Python's ``if`` may depend on tensors. None of ours
    does, and rewriting them all took a second of every start.
    """
    wrapper = tf.autograph.experimental.do_not_convert(call)
    wrapper.__signature__ = inspect.signature(call)  # Keras looks for arguments such as training
    return wrapper


def pad_bins(x: tf.Tensor, nb_bins: int) -> tf.Tensor:
    """``[B, T, F, C]`` -> ``[B, T, nb_bins, C]``, zeros on top; nothing to do is not done."""
    above = nb_bins - x.shape[2]
    return tf.pad(x, ((0, 0), (0, 0), (0, above), (0, 0))) if above else x
