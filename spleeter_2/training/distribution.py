"""Training on several GPUs or machines: what ``Trainer`` needs of ``tf.distribute``.

A worker is a process, one per machine; a replica is a device, which has the whole network and its
share of each batch. Gradients and BatchNorm's statistics are those of the whole batch, so a step
is the one that a single device would make. Worker 0, the chief, alone reads and writes the run's
folder; what it finds there, and what it decides at the end of an epoch, it tells the others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from spleeter_2.data.examples import Examples
from spleeter_2.errors import SeparationError

from .batches import as_tf_dataset


class LostWorker(SeparationError):
    """A worker is gone in the middle of a step; what this one has is not a state to go on from."""


@dataclass(frozen=True)
class Distribution:
    """The devices that train together; by default one, without any strategy.

    Attributes:
        worker, nb_workers: this process among all.
    """

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    worker: int = 0
    nb_workers: int = 1

    @classmethod
    def of_machine(cls, say: Callable[[str], None]) -> Distribution:
        """What ``TF_CONFIG`` says, else all visible GPUs. It waits for the other workers.

        Must be called before TensorFlow computes anything.

        Args:
            say: is told what there is, if it is more than one device.

        Raises:
            SeparationError: a wrong ``TF_CONFIG``, or its workers cannot be reached.
        """
        worker, nb_workers = _place(os.environ.get("TF_CONFIG", ""))
        if nb_workers > 1:
            say(f"worker {worker + 1} of {nb_workers} waits for the others")
            found = cls(_connected(), worker, nb_workers)
        elif len(tf.config.list_physical_devices("GPU")) > 1:
            found = cls(tf.distribute.MirroredStrategy())
        else:
            return cls()
        say(str(found))
        return found

    @property
    def chief(self) -> bool:
        """Whether this process has the run's folder."""
        return self.worker == 0

    @property
    def nb_replicas(self) -> int:
        """Devices of all workers."""
        return self.strategy.num_replicas_in_sync

    def __str__(self) -> str:
        devices = f"{self.nb_replicas} device{'s' if self.nb_replicas > 1 else ''}"
        return f"worker {self.worker + 1} of {self.nb_workers}, {devices} in all"

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared evenly.

        Raises:
            SeparationError: then.
        """
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
        """``as_tf_dataset`` for ``fit``: all devices together see the batches of a single one."""
        if self.nb_replicas == 1:
            return as_tf_dataset(examples, start, batch_size, transform)
        share = batch_size // self.nb_workers
        devices = self.nb_replicas // self.nb_workers
        batches = as_tf_dataset(
            examples, start, share, transform, self.worker, self.nb_workers, devices
        )
        return self.strategy.distribute_datasets_from_function(lambda _: batches)

    def from_chief(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The chief's arrays; the others give arrays of the same names, shapes and types.

        They travel as float64, which holds every float32 and every whole number up to 2^53.
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

    def told_by_chief(self, data: Any) -> Any:
        """The chief's JSON-serialisable object."""
        if self.nb_workers == 1:
            return data
        text = np.frombuffer(json.dumps(data).encode(), np.uint8)
        size = int(self.from_chief({"size": np.array([len(text)])})["size"][0])
        text = text if self.chief else np.zeros(size, np.uint8)
        return json.loads(self.from_chief({"text": text})["text"].tobytes())

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Compare what every worker must have alike.

        Args:
            facts: by the word that names them in the message, JSON-serialisable.

        Raises:
            SeparationError: in every worker, if any differs from the chief.
        """
        if self.nb_workers == 1:
            return
        mine = json.loads(json.dumps(facts))
        theirs = self.told_by_chief(mine)
        differs = self._sum(np.array([float(mine[name] != theirs[name]) for name in theirs]))
        if differs.any():
            names = [name for name, count in zip(theirs, differs, strict=True) if count]
            raise SeparationError(f"the workers do not have the same {' and '.join(names)}")

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over the workers of a float64 vector."""
        with self.watching():
            found = self.strategy.experimental_local_results(self._sum_of_replicas(values))[0]
        return found.numpy() * self.nb_workers / self.nb_replicas  # a worker's replicas all gave it

    @functools.cached_property
    def _sum_of_replicas(self) -> Callable[[np.ndarray], Any]:
        """One function for all lengths, traced once."""

        def add(values):  # an argument has no device, its copy has the replica's
            return sum_of_replicas([tf.identity(values)])[0]

        return tf.function(
            lambda values: self.strategy.run(add, args=(values,)),
            input_signature=[tf.TensorSpec([None], tf.float64)],
            autograph=False,
        )

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A worker that goes ends the others with a sentence.

        Raises:
            LostWorker: TensorFlow failed, and there are several workers.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if self.nb_workers == 1:
                raise
            raise LostWorker(
                "another worker has stopped or cannot be reached (its own messages say why): "
                "started again, all go on from the last state"
            ) from error


def sum_of_replicas(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Within a step: the sums over all devices. Of one device they are the tensors as they are."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensors
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _place(text: str) -> tuple[int, int]:
    """``TF_CONFIG`` -> number of this worker, and how many there are; 0 and 1 without one."""
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


def _connected() -> tf.distribute.Strategy:
    """The workers' strategy, once all of them are there."""
    try:
        with _signals_as_by_default():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SeparationError(f"the workers of TF_CONFIG do not come together: {reason}") from error


@contextlib.contextmanager
def _signals_as_by_default() -> Iterator[None]:
    """Ctrl-C ends the process at once: TensorFlow waits in C, where no handler of Python's runs."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
