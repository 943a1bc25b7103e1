"""The folder of a training run: configuration, best weights, states to resume from, history."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.config.loading import (
    differences,
    parse_configuration,
    to_json,
    with_models,
)
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.files import (
    atomic_file,
    atomic_folder,
    is_draft,
    lock,
    read_json,
    remove_stale,
    write_json,
)
from spleeter_2.weights import checkpoint as weights

from .curves import draw_curves

log = logging.getLogger(__name__)

STATES_KEPT = 2
NAME = "progress.json"


@dataclass
class Progress:
    """Progress of a run.

    ``data``: ``Examples.identity``. ``best``: lowest validation loss. ``waited``: epochs since
    then. ``history``: losses and scores of each epoch.
    """

    data: str = ""
    step: int = 0
    best: float = float("inf")
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return len(self.history)


class RunFolder:
    """The files of a run.

    Args:
        path: the folder; created if missing.
        configuration: of the run.

    Raises:
        SeparationError: the folder cannot be written, is in use, or has a run of another
            configuration or other files.
    """

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self.path = path
        self.states = path / "states"
        self.data = {**to_json(configuration), "weights": "best"}
        config = path / "config.json"
        try:
            if config.is_file():
                if not self._never_began():
                    self._check(_read(config))
            elif path.exists() and any(path.iterdir()) and not self._never_began():
                raise SeparationError(f"{path} holds other files: name a folder for the run")
            self.states.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path, f"another training is at work in {path}")
            remove_stale(self.states)
            write_json(config, self.data)
        except OSError as error:
            raise SeparationError(f"cannot write {path}: {error.strerror or error}") from error

    def release(self) -> None:
        """Release the lock on the folder."""
        self._lock.release()

    def _never_began(self) -> bool:
        """True if a run stopped here before it saved its first state."""
        left = {"config.json", "states", "tensorboard", ".lock"}
        others = {path.name for path in self.path.iterdir() if not is_draft(path)} - left
        return not others and self.states.is_dir() and not any(self.states.glob("[0-9]*"))

    def _check(self, found: Mapping[str, Any]) -> None:
        """Raise SeparationError if more than ``epochs`` or ``patience`` differs."""
        # older versions stored paths of models relative to the working folder
        found = with_models(found, os.path.abspath)
        with contextlib.suppress(SeparationError):  # invalid: compared as it is
            found = to_json(parse_configuration(found))  # older runs lack the defaults
        free = ("training.epochs", "training.patience")
        keys = [key for key in differences(found, self.data) if key not in free]
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise SeparationError(
                f"{self.path} holds a run of another configuration ({', '.join(keys[:3])}{more} "
                f"differ{'s' if len(keys) == 1 else ''}): name another folder, or remove it to "
                "start anew"
            )

    def latest(self) -> tuple[dict[str, np.ndarray], Progress] | None:
        """The newest readable state, or None."""
        for folder in sorted(self.states.glob("[0-9]*"), reverse=True):
            try:
                progress = read_json(folder / NAME, "progress")
                return weights.read_checkpoint(folder, verify=True), Progress(**progress)
            except (SeparationError, TypeError):
                continue  # damaged: try the one before
        return None

    def save_state(self, values: Mapping[str, np.ndarray], progress: Progress) -> None:
        """Write a state, then delete all but the newest two."""
        name = f"{progress.step:09d}"
        with atomic_folder(self.states / name) as folder:
            weights.write_checkpoint(values, folder)
            write_json(folder / NAME, asdict(progress))
        for old in sorted(self.states.glob("[0-9]*"))[:-STATES_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def save_best(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace the weights in ``best``."""
        with atomic_folder(self.path / "best") as folder:
            weights.write_checkpoint(values, folder)

    def write_summary(
        self, summary: Mapping[str, Any], history: Sequence[Mapping[str, float]]
    ) -> None:
        """Write ``run.json`` and draw ``history.png``; no picture is a warning."""
        write_json(self.path / "run.json", summary)
        target = self.path / "history.png"
        try:
            with atomic_file(target) as path:
                draw_curves(history, path)
        except SeparationError:
            raise
        except Exception as error:  # of matplotlib, which is no reason to end a training
            log.warning(f"note: {target} is not drawn ({type(error).__name__}: {error})")


def _read(config: Path) -> dict[str, Any]:
    """The JSON object of a run's ``config.json``.

    Raises:
        SeparationError: there is none.
    """
    try:
        return read_json(config, "configuration")
    except SeparationError as error:
        raise SeparationError(f"{config} is damaged: name another folder") from error
