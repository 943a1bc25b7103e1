"""The trainer: Keras' ``fit`` with validation, checkpoints, early stopping and resumption.

A run has a folder of its own::

    config.json       descriptor for ``-p``: the configuration, with its weights in best/
    best/             weights with the lowest validation loss
    states/STEP/      everything needed to resume; the newest two are kept
    run.json          configuration, versions, data, history
    history.png       loss and SDR over the epochs
    tensorboard/      the same numbers, and a validation example as images and audio

A second call with the same folder resumes. Every example is a function of the seed and its number,
so a resumed run sees the same data in the same order.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spleeter_2 import __version__
from spleeter_2.config.loading import to_json, with_models
from spleeter_2.config.schema import Configuration
from spleeter_2.data.examples import Examples, ValidationSet
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import named_variables
from spleeter_2.weights import checkpoint as weights
from spleeter_2.weights.resolve import load_trained

from .batches import named_spectrograms
from .distillation import Teachers
from .distribution import Distribution, LostWorker
from .losses import build_loss
from .mixed_precision import layers_in
from .model import TrainingModel
from .run_folder import Progress, RunFolder
from .tensorboard import TensorBoardLog
from .validation import Validation


class TrainerCallback(tf.keras.callbacks.Callback):
    """Keras callback: validation, checkpoints, early stopping; raises on a NaN loss."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            self.trainer.diverged = True
            step, size = self.trainer.step, self.trainer.options.batch_size
            raise SeparationError(
                f"the loss is {logs['loss']} at step {step}, batch {step - 1} (examples "
                f"{(step - 1) * size} to {step * size - 1}): nothing of it is saved; a lower "
                "learning_rate or clip_norm may help"
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model.data_wait()  # resets it

    def on_epoch_end(self, epoch, logs=None):
        logs["data_wait"] = self.model.data_wait()
        if self.trainer.end_epoch(logs):
            self.model.stop_training = True


class Trainer:
    """Trains one model on one set of examples, in one folder; resumes the run that is there.

    Args:
        configuration: of the model and its training.
        examples: training examples, float32 ``[I, S, C]``; S is the length of a crop.
        validation: examples to validate with.
        folder: of the run; used by the chief of several workers only.
        summary: further entries of ``run.json``.
        distribution: the devices that train; None: one.

    Raises:
        SeparationError: an invalid configuration, a folder of another run, or workers whose
            configurations differ.
    """

    def __init__(
        self,
        configuration: Configuration,
        examples: Examples,
        validation: ValidationSet,
        folder: Path,
        summary: Mapping[str, Any] | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        self.configuration = configuration
        self.options = configuration.training
        if self.options.loss.two_source and configuration.residual is None:
            raise SeparationError(
                f"training.loss.two_source needs a residual, which {configuration.name} lacks"
            )
        self.distribution = distribution or Distribution()
        self.distribution.check_batch_size(self.options.batch_size)
        # the machines may have the models of start and teachers in different folders
        content = with_models(to_json(configuration), os.path.basename)
        self.distribution.require_equal({"configuration": content})
        self.examples = examples
        self.validation = Validation(configuration, validation)
        if self.distribution.chief:
            self.folder = RunFolder(folder, configuration)
            self.summary = {**_versions(), "configuration": self.folder.data, **(summary or {})}
            self.tensorboard = TensorBoardLog(
                folder / "tensorboard", configuration.sample_rate, self.validation.transform
            )
        self.progress = Progress()
        self.diverged = False
        tf.keras.utils.set_random_seed(self.options.seed)
        with self.distribution.lost_worker_errors(), self.distribution.strategy.scope():
            self.model = self._build()
        self._resume()

    def _build(self) -> TrainingModel:
        with layers_in(self.options.mixed_precision):
            network = build_model(self.configuration, band_only=True)
        pretrained = start_from(network, self.options.start) if self.options.start else frozenset()
        targets, teachers = self.configuration.targets, self.options.teachers
        found = Teachers(self.configuration, teachers) if teachers else None
        loss = build_loss(self.options.loss, self.configuration.stft.frame_length)
        return TrainingModel(network, targets, self.options, loss, pretrained, found)

    def _resume(self) -> None:
        """Load the newest state of the folder, if there is one; all workers load the chief's."""
        if self.distribution.chief and (latest := self.folder.latest()):
            values, self.progress = latest
            self.model.restore(values, self.folder.states)
        if self.distribution.nb_workers > 1:
            self._follow_chief()
            self.model.restore(self.distribution.broadcast(self.model.values()), "the chief")
            # random numbers of layers such as Dropout may differ between workers
            tf.keras.utils.set_random_seed(self.options.seed + self.distribution.worker)

    def _follow_chief(self) -> None:
        self.progress = Progress(**self.distribution.broadcast_json(asdict(self.progress)))

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return int(self.model.step.numpy())

    def fit(self, verbose: int | str = "auto") -> Progress:
        """Train until the last epoch or early stopping; an interrupt saves a state first.

        Raises:
            SeparationError: the loss is NaN or infinite, or the folder cannot be written.
        """
        options = self.options
        try:
            done_in_epoch = self.step - self.progress.epoch * options.steps_per_epoch
            if done_in_epoch == options.steps_per_epoch:  # interrupted during validation
                self.end_epoch({})
            elif done_in_epoch:  # interrupted during an epoch
                self._fit(1, options.steps_per_epoch - done_in_epoch, verbose)
            if not self._is_over():
                self._fit(options.epochs - self.progress.epoch, options.steps_per_epoch, verbose)
        except LostWorker:  # in the middle of a step: the weights are not consistent
            raise
        except BaseException:
            if not self.diverged and self.distribution.chief and self.step > self.progress.step:
                self.save_state()
            raise
        finally:
            if self.distribution.chief:
                self.folder.release()
        return self.progress

    def _is_over(self) -> bool:
        waited_enough = self.options.patience and self.progress.waited >= self.options.patience
        return bool(waited_enough) or self.progress.epoch >= self.options.epochs

    def _fit(self, epochs: int, steps: int, verbose: int | str) -> None:
        first = self.progress.epoch
        with self.distribution.lost_worker_errors():
            self.model.fit(
                self._dataset(self.step * self.options.batch_size),
                initial_epoch=first,
                epochs=first + epochs,
                steps_per_epoch=steps,
                callbacks=[TrainerCallback(self)],
                verbose=verbose if self.distribution.chief else 0,
            )

    def _dataset(self, start: int) -> tf.data.Dataset:
        transform = self.validation.transform
        nb_targets = len(self.configuration.targets)
        model, stft = self.configuration.model, self.configuration.stft
        # a teacher's band may have more bins than the student's
        nb_bins = stft.nb_bins if self.options.teachers else model.nb_bins
        return self.distribution.dataset(
            self.examples,
            start,
            self.options.batch_size,
            lambda x: named_spectrograms(x, nb_targets, transform, nb_bins),
        )

    def end_epoch(self, logs: dict[str, float]) -> bool:
        """Validate and save. Returns True if training is over."""
        if self.distribution.chief:
            self._validate_and_save(logs)
        self._follow_chief()
        return self._is_over()

    def _validate_and_save(self, logs: dict[str, float]) -> None:
        with self.model.with_averages():
            logs.update(self.validation.run(self.model))
            self.tensorboard.write(self.step, logs, self.validation.sounds(self.model))
        progress = self.progress
        progress.history.append({name: float(value) for name, value in logs.items()})
        progress.waited += 1
        if logs["val_loss"] < progress.best:
            progress.best, progress.waited = logs["val_loss"], 0
            self.folder.save_best(self.model.averaged())
        self.save_state()
        summary = {**asdict(progress), **self.summary, "finished": self._is_over()}
        self.folder.write_summary(summary, progress.history)

    def save_state(self) -> None:
        """Save everything that is needed to resume."""
        self.folder.save_state(self.model.values(), replace(self.progress, step=self.step))
        self.progress.step = self.step  # after saving, which may be interrupted


def start_from(network: tf.keras.Model, descriptor: str) -> frozenset[str]:
    """Copy another model's weights where name and shape agree.

    Returns:
        The names of the copied variables.

    Raises:
        SeparationError: a model without weights, or with no variable that agrees.
    """
    start = load_trained(descriptor, "training.start")
    arrays = weights.read_checkpoint(start.weights, start.targets, verify=True)
    taken = []
    for name, variable in named_variables(network).items():
        if name in arrays and arrays[name].shape == tuple(variable.shape):
            variable.assign(arrays[name])
            taken.append(name)
    if not taken:
        raise SeparationError(f"training.start: nothing of {descriptor} fits this model")
    return frozenset(taken)


def _versions() -> dict[str, str]:
    """Versions of the packages and the commit, for ``run.json``."""
    found = {"spleeter-2": __version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # installed, not cloned
    return {"versions": found}
