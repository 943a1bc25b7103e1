"""Weighted mean of models' weights.

    python scripts/blend_weights.py OUT --part spleeter_2:mask 0.6 --last runs/a 0.4

A part is a model; of a run of ``spleeter train`` it has the best weights, and ``--last`` the last.
Fine-tuning on a few songs makes a network worse on other songs; a mean of the weights before and
after it is a compromise (M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022,
and "Model soups", ICML 2022). OUT is a model folder for ``-p`` with float16 kernels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from spleeter_2.config.loading import load_configuration, to_json
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_folder, write_json
from spleeter_2.weights import checkpoint as weights

LAST_OF_NEW = ("project/kernel", "project/bias")  # zero at the start of a new part


def last_weights(run: Path) -> dict[str, np.ndarray]:
    """Weights of a run's last state, with the EMA instead of the weights where there is one.

    Raises:
        SeparationError: the run has no states.
    """
    states = sorted(path for path in run.glob("states/*") if path.name.isdecimal())
    if not states:
        raise SeparationError(f"{run} has no states: it is not a run of spleeter train")
    state = weights.read_checkpoint(states[-1])
    taken = {}
    for prefix in ("network/", "average/"):  # the EMA last: it replaces the weight
        names = [name for name in state if name.startswith(prefix)]
        taken.update({name.removeprefix(prefix): state[name] for name in names})
    return taken


def blended(parts: list[tuple[float, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Weighted mean by name; a name that some parts lack is the mean of the other parts.

    Args:
        parts: share and arrays of each part; the last one has all names.
    """
    values = {}
    for name in parts[-1][1]:
        present = [(share, arrays[name]) for share, arrays in parts if name in arrays]
        total = 1.0 if name.endswith(LAST_OF_NEW) else sum(share for share, _ in present)
        values[name] = np.float32(sum(share * array for share, array in present) / total)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="model folder to write")
    for option, what in (
        ("--part", "a model and its share; the last one gives the configuration"),
        ("--last", "a run, for its last weights, and their share"),
    ):
        parser.add_argument(
            option, nargs=2, action="append", default=[], metavar=("MODEL", "SHARE"), help=what
        )
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another folder")
    try:
        shares = [float(share) for _, share in options.last + options.part]
    except ValueError as error:
        parser.error(f"a share must be a number: {error}")
    if not options.part or not (min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6):
        parser.error("give a --part; the shares must not be negative and must add up to 1")
    try:
        blend(options.out, options.part, options.last)
    except SeparationError as error:
        parser.error(str(error))


def blend(out: Path, parts: list[list[str]], lasts: list[list[str]]) -> None:
    """Write the blended model folder.

    Args:
        parts, lasts: descriptor and share of each.

    Raises:
        SeparationError: weights that cannot be read, or a run without states.
    """
    sets = [(float(share), last_weights(Path(run))) for run, share in lasts]
    for descriptor, share in parts:
        configuration = load_configuration(descriptor)
        sets.append((float(share), weights.read_checkpoint(configuration.weights)))
    with atomic_folder(out) as folder:
        weights.write_checkpoint(weights.half_precision(blended(sets)), folder)
        write_json(folder / "config.json", {**to_json(configuration), "weights": "."})


if __name__ == "__main__":
    main()
