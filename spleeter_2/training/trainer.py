"""Train a model: Keras ``fit``, with what a long run needs around it.

A run has a folder of its own::

    config.json       what ``-p`` takes: the configuration, with its weights in best/
    best/             the weights with the lowest validation loss
    states/STEP/      everything to go on from there; the newest two are kept
    run.json          configuration, versions, data, history
    history.png       losses and SDR over the epochs
    tensorboard/      the same numbers, and a validation example to look at and listen to

A second call with the same folder goes on where the first one stopped. Every example is a function
of the seed and of its number, so it sees the same data in the same order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf

from spleeter_2 import __version__
from spleeter_2.config.loading import load_configuration, to_json, with_models
from spleeter_2.config.schema import Configuration
from spleeter_2.data.cache import StemCache
from spleeter_2.data.examples import Examples, ValidationSet, validation_set
from spleeter_2.data.songs import split, training_songs
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models import checkpoint as weights

from .batches import named_spectrograms
from .distillation import Teachers
from .distribution import Distribution, LostWorker
from .losses import build_loss
from .mixed_precision import check_mixed_precision, layers_in
from .model import TrainingModel
from .run_folder import Progress, RunFolder
from .tensorboard import Diary
from .validation import Validation


class Keeper(tf.keras.callbacks.Callback):
    """Validates, keeps the best, saves states, stops early, stops at a loss that is no number."""

    def __init__(self, run: Trainer) -> None:
        super().__init__()
        self.run = run

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            self.run.broken = True
            raise SeparationError(
                f"the loss is {logs['loss']} at step {self.run.step}, batch "
                f"{self.run.describe(self.run.step - 1)}: nothing of it is saved; a lower "
                "learning_rate or clip_norm may help"
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model.data_wait()

    def on_epoch_end(self, epoch, logs=None):
        logs["data_wait"] = self.model.data_wait()
        if self.run.end_epoch(logs):
            self.model.stop_training = True


class Trainer:
    """Trains one model on one set of examples, in a folder.

    Args:
        configuration: model and training.
        examples: float32 ``[I, S, C]`` by number, for any number; S is ``crop_samples``.
        validation: examples to validate with.
        folder: of the run; only the chief of several workers looks at it.
        distribution: the devices that train; None: one.

    Raises:
        SeparationError: an impossible configuration; a folder of another run; workers that do not
            have the same.
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
        self.distribution = distribution or Distribution()
        self.distribution.check(self.options.batch_size)
        # each machine may have the models to train with in a folder of its own
        content = with_models(to_json(configuration), os.path.basename)
        self.distribution.agree({"configuration": content})
        self.examples = examples
        self.validation = Validation(configuration, validation)
        if self.distribution.chief:
            self.folder = RunFolder(folder, configuration)
            self.summary = {**_versions(), "configuration": self.folder.data, **(summary or {})}
            self.diary = Diary(
                folder / "tensorboard", configuration.sample_rate, self.validation.transform
            )
        self.progress = Progress()
        self.broken = False
        tf.keras.utils.set_random_seed(self.options.seed)
        with self.distribution.watching(), self.distribution.strategy.scope():
            self.model = self._build()
        self._go_on()

    def _build(self) -> TrainingModel:
        with layers_in(self.options.mixed_precision):
            network = build_model(self.configuration, band_only=True)
        pretrained = start_from(network, self.options.start) if self.options.start else frozenset()
        targets, teachers = self.configuration.targets, self.options.teachers
        found = Teachers(self.configuration, teachers) if teachers else None
        loss = build_loss(self.options.loss, self.configuration.stft.frame_length)
        return TrainingModel(network, targets, self.options, loss, pretrained, found)

    def _go_on(self) -> None:
        """Take the newest state of the folder, if there is one; all workers take the chief's."""
        if self.distribution.chief and (latest := self.folder.latest()):
            values, self.progress = latest
            self.model.restore(values, self.folder.states)
        if self.distribution.nb_workers > 1:
            self._follow_chief()
            self.model.restore(self.distribution.from_chief(self.model.values()), "the chief")
            # noise such as dropout's may differ
            tf.keras.utils.set_random_seed(self.options.seed + self.distribution.worker)

    def _follow_chief(self) -> None:
        self.progress = Progress(**self.distribution.told_by_chief(asdict(self.progress)))

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.model.step.numpy())

    def fit(self, verbose: int | str = "auto") -> Progress:
        """Train until the epochs are over, or ``patience`` is.

        An interrupt saves a state before it goes on its way.

        Raises:
            SeparationError: the loss is not a number; the folder cannot be written to.
        """
        options = self.options
        try:
            done_in_epoch = self.step - self.progress.epoch * options.steps_per_epoch
            if done_in_epoch == options.steps_per_epoch:  # stopped while it validated
                self.end_epoch({})
            elif done_in_epoch:  # stopped in the middle of an epoch
                self._fit(1, options.steps_per_epoch - done_in_epoch, verbose)
            if not self._is_over():
                self._fit(options.epochs - self.progress.epoch, options.steps_per_epoch, verbose)
        except LostWorker:  # in the middle of a step
            raise
        except BaseException:
            if not self.broken and self.distribution.chief and self.step > self.progress.step:
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
        with self.distribution.watching():
            self.model.fit(
                self._dataset(self.step * self.options.batch_size),
                initial_epoch=first,
                epochs=first + epochs,
                steps_per_epoch=steps,
                callbacks=[Keeper(self)],
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

    def describe(self, step: int) -> str:
        """Which examples a step has seen."""
        first = step * self.options.batch_size
        return f"{step} (examples {first} to {first + self.options.batch_size - 1})"

    def end_epoch(self, logs: dict[str, float]) -> bool:
        """Validate, keep what is best, save; whether training is over."""
        if self.distribution.chief:
            self._validate_and_save(logs)
        self._follow_chief()
        return self._is_over()

    def _validate_and_save(self, logs: dict[str, float]) -> None:
        with self.model.with_averages():
            logs.update(self.validation.run(self.model))
            self.diary.write(self.step, logs, self.validation.sounds(self.model))
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
        """Write everything to go on from here."""
        self.folder.save_state(self.model.values(), replace(self.progress, step=self.step))
        self.progress.step = self.step  # not before: one that is interrupted is not saved


def start_from(network: tf.keras.Model, descriptor: str) -> frozenset[str]:
    """Take another model's weights where name and shape agree.

    Returns:
        The names of what was taken.

    Raises:
        SeparationError: a model without weights, or nothing that agrees.
    """
    folder = load_configuration(descriptor).weights
    if folder is None:
        raise SeparationError(f"training.start: {descriptor} has no weights")
    arrays = weights.read_checkpoint(folder)
    taken = []
    for name, variable in weights.named_variables(network).items():
        if name in arrays and arrays[name].shape == tuple(variable.shape):
            variable.assign(arrays[name])
            taken.append(name)
    if not taken:
        raise SeparationError(f"training.start: nothing of {descriptor} fits this model")
    return frozenset(taken)


def _versions() -> dict[str, str]:
    """What ran, for ``run.json``."""
    found = {"spleeter-2": __version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # installed, not cloned
    return {"versions": found}


def train(
    descriptor: str,
    data: Path,
    folder: Path | None = None,
    cache: Path | None = None,
    verbose: int | str = "auto",
) -> Path:
    """``spleeter train``: find songs, decode them once, train, or go on with training.

    Args:
        descriptor: of the configuration, whose ``training`` object says how.
        data: see ``spleeter_2.data.songs``.
        folder: of the run; None: ``runs/NAME``.
        cache: of the decoded stems; None: see ``StemCache``.
        verbose: as Keras' ``fit`` takes it.

    Returns:
        The run's folder, which ``-p`` takes.

    Raises:
        SeparationError: one sentence.
    """
    # card and source describe the weights of the model that the configuration comes from
    other = {"weights": None, "card": None, "source": None}
    configuration = msgspec.structs.replace(load_configuration(descriptor), **other)
    options = configuration.training
    check_mixed_precision(options.mixed_precision)
    distribution = Distribution.of_machine(_say)
    distribution.check(options.batch_size)
    nb_samples = (configuration.crop_frames - 1) * configuration.stft.frame_step
    folder = folder or Path("runs") / configuration.name
    songs = training_songs(data, configuration.instruments)
    songs = StemCache(cache, configuration.sample_rate, configuration.nb_channels).decode(songs)
    _say(str(songs))
    training, validation = split(songs, options.validation)
    _say(f"validated with: {', '.join(song.name for song in validation)}")
    examples = Examples(training, songs.instruments, nb_samples, options.augmentation, options.seed)
    fixed = validation_set(validation, songs.instruments, nb_samples)
    summary = {"data": {"summary": songs.lines(), "identity": examples.identity}}
    distribution.agree({"songs": examples.identity})
    trainer = Trainer(configuration, examples, fixed, folder, summary, distribution)
    if not distribution.chief:
        trainer.fit(verbose)
        return folder
    if trainer.step:
        _say(f"resumed at step {trainer.step}; remove {folder} to start anew")
        if trainer.progress.data != examples.identity:
            _say("note: the songs are not those that the run has seen so far")
    trainer.progress.data = examples.identity
    _say(f"the run is in {folder}: the same command goes on from where it stops")
    progress = trainer.fit(verbose)
    _say(f"done after {progress.epoch} epochs; the best validation loss is {progress.best:.4g}")
    return folder


def _say(sentence: str) -> None:
    print(f"spleeter: {sentence}", file=sys.stderr)
