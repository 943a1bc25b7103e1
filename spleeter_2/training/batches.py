"""Training examples as STFTs, in batches of a ``tf.data.Dataset``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from spleeter_2.audio.stft import Transform
from spleeter_2.data.examples import Examples


def named_spectrograms(
    waveforms: np.ndarray, nb_targets: int, transform: Transform, nb_bins: int
) -> dict[str, np.ndarray]:
    """An example as STFTs; the mixture is the sum of the instruments.

    Args:
        waveforms: float32 ``[I, S, C]``, the targets first, then the residual if there is one.
        nb_bins: F, the lowest bins of the STFT.

    Returns:
        complex64 ``mixture`` ``[T, F, C]``, ``targets`` ``[targets, T, F, C]`` and, if there is a
        residual, ``residual`` ``[T, F, C]``.
    """
    stems = [transform.forward(waveform)[:, :nb_bins] for waveform in waveforms]
    example = {"mixture": sum(stems[1:], start=stems[0]), "targets": np.stack(stems[:nb_targets])}
    if len(stems) > nb_targets:
        example["residual"] = stems[nb_targets]
    return example


def as_tf_dataset(
    examples: Examples,
    start: int,
    batch_size: int,
    transform: Callable[[np.ndarray], Any],
    worker: int = 0,
    nb_workers: int = 1,
    nb_devices: int = 1,
) -> tf.data.Dataset:
    """Batches of examples from the index ``start`` on, in the order of their indices, without end.

    Args:
        batch_size: examples in a batch of one worker.
        transform: NumPy function of float32 ``[I, S, C]``, run in parallel to the training; returns
            an array, or a tuple, list or dict of arrays, whose shapes do not depend on the example.
        worker, nb_workers: this worker takes its share of every ``nb_workers * batch_size``
            examples, so that all workers together see the data of a single one with that batch.
        nb_devices: of this worker; its batch is divided into one batch per device, in order.

    Returns:
        A dataset of ``transform``'s structure, batched.
    """
    sample = tf.nest.map_structure(np.asarray, transform(examples[0]))
    flat = tf.nest.flatten(sample)

    def make(index):
        return [np.asarray(part) for part in tf.nest.flatten(transform(examples[int(index)]))]

    @tf.autograph.experimental.do_not_convert
    def load(index):
        parts = tf.numpy_function(make, [index], [part.dtype for part in flat])
        for part, example in zip(parts, flat, strict=True):
            part.set_shape(example.shape)
        return tf.nest.pack_sequence_as(sample, parts)

    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    share = slice(worker * batch_size, (worker + 1) * batch_size)
    return (
        tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        .batch(nb_workers * batch_size)
        .map(lambda indices: indices[share])
        .unbatch()
        .map(load, num_parallel_calls=os.cpu_count(), deterministic=True)
        .batch(batch_size // nb_devices)
        .prefetch(2 * nb_devices)
        .with_options(options)
    )
