"""Training on several GPUs or machines with ``tf.distribute``.

A worker is a process, one per machine; a replica is a device, which has a copy of the network and
its share of each batch. Gradients and BatchNorm statistics are those of the whole batch, so a step
equals that of a single device. Only worker 0, the chief, reads and writes the run's folder; it
broadcasts the state that it loads and its decisions at the end of an epoch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from spleeter_2.console import signal_handlers
from spleeter_2.data.examples import Examples
from spleeter_2.errors import SeparationError

from .batches import as_tf_dataset

log = logging.getLogger(__name__)


class LostWorker(SeparationError):
    """Another worker stopped in the middle of a step; the weights of this one are inconsistent."""


@dataclass(frozen=True)
class Distribution:
    """The devices that train together; by default one, without a strategy.

    Attributes:
        worker, nb_workers: number of this process, from 0, and of all processes.
    """

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    worker: int = 0
    nb_workers: int = 1

    @classmethod
    def from_environment(cls) -> Distribution:
        """The workers in ``TF_CONFIG``, else all visible GPUs. Waits for the other workers.

        Must be called before TensorFlow's first computation.

        Raises:
            SeparationError: ``TF_CONFIG`` is invalid, or its workers cannot be reached.
        """
        worker, nb_workers = _parse_tf_config(os.environ.get("TF_CONFIG", ""))
        if nb_workers > 1:
            log.info("worker %d of %d waits for the others", worker + 1, nb_workers)
            found = cls(_connect(), worker, nb_workers)
        elif len(tf.config.list_physical_devices("GPU")) > 1:
            found = cls(tf.distribute.MirroredStrategy())
        else:
            return cls()
        log.info("%s", found)
        return found

    @property
    def chief(self) -> bool:
        """True for the process that reads and writes the run's folder."""
        return self.worker == 0

    @property
    def nb_replicas(self) -> int:
        """Number of devices of all workers."""
        return self.strategy.num_replicas_in_sync

    def __str__(self) -> str:
        devices = f"{self.nb_replicas} device{'s' if self.nb_replicas > 1 else ''}"
        return f"worker {self.worker + 1} of {self.nb_workers}, {devices} in all"

    def check_batch_size(self, batch_size: int) -> None:
        """Raise SeparationError if batch_size is not divisible by the number of replicas."""
        if batch_size % self.nb_replicas:
            raise SeparationError(
                f"training.batch_size is shared by {self.nb_replicas} devices, so it must be a "
                f"multiple of that, not {batch_size}"
            )

    def dataset(
        self,
        examples: Examples,
        start: int,
        batch_size: int,
        transform: Callable[[np.ndarray], Any],
    ) -> Any:
        """``as_tf_dataset``, divided over the devices; together they see the same batches."""
        if self.nb_replicas == 1:
            return as_tf_dataset(examples, start, batch_size, transform)
        share = batch_size // self.nb_workers
        devices = self.nb_replicas // self.nb_workers
        batches = as_tf_dataset(
            examples, start, share, transform, self.worker, self.nb_workers, devices
        )
        return self.strategy.distribute_datasets_from_function(lambda _: batches)

    def broadcast(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The chief's arrays; those of the other workers must have equal names, shapes and types.

        They are sent as float64, which is exact for float32 and for integers up to 2^53.
        """
        if self.nb_workers == 1:
            return dict(arrays)
        flat = np.concatenate([np.ravel(array).astype(np.float64) for array in arrays.values()])
        flat = self._sum(flat if self.chief else np.zeros_like(flat))
        ends = np.cumsum([np.size(array) for array in arrays.values()])
        parts = np.split(flat, ends[:-1])
        return {
            name: part.reshape(np.shape(array)).astype(array.dtype)
            for (name, array), part in zip(arrays.items(), parts, strict=True)
        }

    def broadcast_json(self, data: Any) -> Any:
        """The chief's JSON-serialisable object."""
        if self.nb_workers == 1:
            return data
        text = np.frombuffer(json.dumps(data).encode(), np.uint8)
        size = int(self.broadcast({"size": np.array([len(text)])})["size"][0])
        text = text if self.chief else np.zeros(size, np.uint8)
        return json.loads(self.broadcast({"text": text})["text"].tobytes())

    def require_equal(self, facts: Mapping[str, Any]) -> None:
        """Check that all workers have the same values.

        Args:
            facts: JSON-serialisable values by the name in the message.

        Raises:
            SeparationError: in every worker, if a value of any worker differs from the chief's.
        """
        if self.nb_workers == 1:
            return
        mine = json.loads(json.dumps(facts))
        theirs = self.broadcast_json(mine)
        differs = self._sum(np.array([float(mine[name] != theirs[name]) for name in theirs]))
        if differs.any():
            names = [name for name, count in zip(theirs, differs, strict=True) if count]
            raise SeparationError(f"the workers do not have the same {' and '.join(names)}")

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over the workers of a float64 vector."""
        with self.lost_worker_errors():
            found = self.strategy.experimental_local_results(self._sum_of_replicas(values))[0]
        return (
            found.numpy() * self.nb_workers / self.nb_replicas
        )  # every replica of a worker added it

    @functools.cached_property
    def _sum_of_replicas(self) -> Callable[[np.ndarray], Any]:
        """The sum as a function that is traced once for all lengths."""

        def add(values):  # all_reduce needs a tensor on the replica's device: a copy
            return sum_of_replicas([tf.identity(values)])[0]

        return tf.function(
            lambda values: self.strategy.run(add, args=(values,)),
            input_signature=[tf.TensorSpec([None], tf.float64)],
            autograph=False,
        )

    @contextlib.contextmanager
    def lost_worker_errors(self) -> Iterator[None]:
        """Raise LostWorker in place of TensorFlow's errors if there are several workers."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.nb_workers == 1:
                raise
            raise LostWorker(
                "another worker has stopped or cannot be reached (see its own messages): start all "
                "of them again to resume from the last state"
            ) from error


def sum_of_replicas(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums over all devices, within a step; on a single device the tensors themselves."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensors
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _parse_tf_config(text: str) -> tuple[int, int]:
    """``TF_CONFIG`` -> number of this worker, and of all workers; 0 and 1 if it is empty.

    Raises:
        SeparationError: it is invalid.
    """
    if not text:
        return 0, 1
    example = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        cluster = config["cluster"]
        names = [(job, i) for job in ("chief", "worker") for i in range(len(cluster.get(job, ())))]
        place = names.index((config["task"]["type"], int(config["task"]["index"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeparationError(f"TF_CONFIG does not read like {example}") from error
    return place, len(names)


def _connect() -> tf.distribute.Strategy:
    """The workers' strategy; blocks until all workers are connected.

    Raises:
        SeparationError: they cannot be reached.
    """
    try:
        with _default_signal_handlers():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SeparationError(f"cannot connect to the workers of TF_CONFIG: {reason}") from error


@contextlib.contextmanager
def _default_signal_handlers() -> Iterator[None]:
    """Let Ctrl-C end the process: TensorFlow waits in C, where Python's handlers do not run."""
    handlers = signal_handlers()
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
