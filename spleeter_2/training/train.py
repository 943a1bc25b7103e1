"""``spleeter train``: from a folder of songs to a trained model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from spleeter_2.checks import check_path
from spleeter_2.config.loading import load_configuration, read_upstream
from spleeter_2.config.schema import Configuration
from spleeter_2.config.upstream import check_trainable, parse_upstream, unused_keys
from spleeter_2.data.cache import StemCache
from spleeter_2.data.examples import Examples, validation_set
from spleeter_2.data.songs import Songs, split, training_songs
from spleeter_2.errors import SeparationError
from spleeter_2.runtime.export import write_model_file
from spleeter_2.weights.resolve import refuse_onnx

from .distribution import Distribution
from .mixed_precision import check_mixed_precision
from .trainer import Trainer

log = logging.getLogger(__name__)


def train(
    descriptor: str,
    data: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    verbose: int | str = "auto",
) -> Path:
    """Find songs, decode them into the cache, and start or resume training.

    Args:
        descriptor: of the configuration with its ``training`` object.
        data: see ``spleeter_2.data.songs``.
        folder: of the run; None: ``runs/NAME``.
        cache: folder of the decoded stems; None: see ``StemCache``.
        verbose: argument of Keras' ``fit``.

    Returns:
        The run's folder, a descriptor of the trained model.

    Raises:
        SeparationError: invalid configuration or data, or a training that cannot continue.
    """
    given = read_upstream(descriptor)
    data = Path(check_path("data", data))
    folder = None if folder is None else Path(check_path("folder", folder))
    cache = None if cache is None else Path(check_path("cache", cache))
    if verbose not in ("auto", 0, 1, 2):
        raise SeparationError(f"verbose must be 'auto', 0, 1 or 2, not {verbose!r}")
    # card and source describe the weights of the model that the configuration comes from
    other = {"weights": None, "model_dir": None, "card": None, "source": None}
    configuration = replace(load_configuration(descriptor), **other)
    refuse_onnx(descriptor, configuration)
    lists = {} if given is None else _csv_files(given, data)
    if given is not None:
        _note_upstream(descriptor, given, lists)
    options = configuration.training
    check_mixed_precision(options.mixed_precision)
    distribution = Distribution.from_environment()
    distribution.check_batch_size(options.batch_size)
    nb_samples = (configuration.crop_frames - 1) * configuration.stft.frame_step
    folder = folder or Path("runs") / configuration.name
    stems = StemCache(cache, configuration.sample_rate, configuration.nb_channels)
    songs = stems.decode(_songs(configuration, data, lists.get("train_csv")))
    log.info("%s", songs)
    if "validation_csv" in lists:
        training = songs
        validation = stems.decode(_songs(configuration, data, lists["validation_csv"]))
    else:
        training, validation = split(songs, options.validation)
    log.info("validated with: %s", ", ".join(song.name for song in validation))
    examples = Examples(training, songs.instruments, nb_samples, options.augmentation, options.seed)
    fixed = validation_set(validation, songs.instruments, nb_samples)
    summary = {"data": {"summary": songs.lines(), "identity": examples.identity}}
    distribution.require_equal({"songs": examples.identity})
    trainer = Trainer(configuration, examples, fixed, folder, summary, distribution)
    if not distribution.chief:
        trainer.fit(verbose)
        return folder
    if trainer.step:
        log.info("resumed at step %d; remove %s to start again", trainer.step, folder)
        if trainer.progress.data != examples.identity:
            log.info("note: the songs differ from those that the run has been trained with so far")
    trainer.progress.data = examples.identity
    log.info("the run is in %s; the same command resumes it", folder)
    progress = trainer.fit(verbose)
    write_model_file(load_configuration(str(folder)))
    log.info(
        "done after %d epochs; the best validation loss is %.4g", progress.epoch, progress.best
    )
    return folder


def _songs(configuration: Configuration, data: Path, file: Path | None) -> Songs:
    """Songs of a folder, or of a CSV file with paths relative to the folder."""
    if file is None:
        return training_songs(data, configuration.instruments)
    return training_songs(file, configuration.instruments, data)


def _csv_files(given: Mapping[str, Any], data: Path) -> dict[str, Path]:
    """``train_csv`` and ``validation_csv`` of a configuration of Spleeter, where they exist.

    As in Spleeter they are relative to the working folder; or else to the data.
    """
    found = {}
    for key in ("train_csv", "validation_csv"):
        for path in (Path(str(given.get(key, ""))), data / str(given.get(key, ""))):
            if path.is_file():
                found.setdefault(key, path)
    return found if "train_csv" in found and data.is_dir() else {}


def _note_upstream(descriptor: str, given: Mapping[str, Any], lists: Mapping[str, Path]) -> None:
    """Log what our trainer does with a configuration of Spleeter.

    Raises:
        SeparationError: a loss or an optimizer that it does not have.
    """
    unused = []
    if given:
        check_trainable(parse_upstream(given, descriptor), descriptor)
        absent = [key for key in ("train_csv", "validation_csv") if key in {*given} - {*lists}]
        unused = absent + unused_keys(given)
    *most, last = unused or [""]
    keys = f"{', '.join(most)} and {last}" if most else last
    effect = f"; {keys} {'have' if most else 'has'} no effect here" if unused else ""
    log.info(
        "note: %s is a configuration of Spleeter: the same network is trained by spleeter-2's "
        "trainer%s",
        descriptor,
        effect,
    )
