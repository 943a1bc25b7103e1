"""Batches of training examples as a ``tf.data.Dataset``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from spleeter_2.data.examples import Examples, Windows


def as_tf_dataset(
    examples: Union[Examples, Windows],
    start: int = 0,
    batch_size: int = 1,
    transform: Optional[Callable[[np.ndarray], Any]] = None,
    worker: int = 0,
    nb_workers: int = 1,
    nb_devices: int = 1,
    nb_threads: Optional[int] = None,
):
    """Batches of examples from the index ``start`` on, in the order of their indices.

    Args:
        examples: ``Examples`` give batches without end, ``Windows`` until they are used up.
        batch_size: examples in a batch of one worker.
        transform: NumPy function of float32 ``[I, S, C]`` that runs beside the training; returns
            an array, or a tuple, list or dict of arrays, of shapes that do not depend on the
            example.
        worker, nb_workers: of each ``nb_workers * batch_size`` examples this worker gets its
            share, so that all together see the data of a single one with that batch.
        nb_devices: of this worker; its batch comes as one batch for each of them, in order.
        nb_threads: examples made at a time; None: as many as there are processors.

    Returns:
        a ``tf.data.Dataset`` of ``transform``'s structure, batched.
    """
    end = len(examples) if isinstance(examples, Windows) else np.iinfo(np.int64).max
    function = transform or (lambda stems: stems)
    sample = tf.nest.map_structure(np.asarray, function(examples[0]))
    flat = tf.nest.flatten(sample)

    def make(index):
        return [np.asarray(part) for part in tf.nest.flatten(function(examples[int(index)]))]

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
        tf.data.Dataset.range(start, end)
        .batch(nb_workers * batch_size)
        .map(lambda indices: indices[share])
        .unbatch()
        .map(load, num_parallel_calls=nb_threads or os.cpu_count(), deterministic=True)
        .batch(batch_size // nb_devices)
        .prefetch(2 * nb_devices)
        .with_options(options)
    )
