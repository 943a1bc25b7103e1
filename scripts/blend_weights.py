"""Weighted mean of a run's initial, best and last weights.

    python scripts/blend_weights.py runs/grouped blended --shares 0.15 0.425 0.425

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
        parts: share and arrays of each part.
    """
    values = {}
    for name in parts[-1][1]:
        present = [(share, arrays[name]) for share, arrays in parts if name in arrays]
        total = 1.0 if name.endswith(LAST_OF_NEW) else sum(share for share, _ in present)
        values[name] = np.float32(sum(share * array for share, array in present) / total)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of spleeter train")
    parser.add_argument("out", type=Path, help="model folder to write")
    parser.add_argument(
        "--shares",
        type=float,
        nargs=3,
        required=True,
        metavar=("START", "BEST", "LAST"),
        help="weights of the mean, with sum 1",
    )
    options = parser.parse_args()
    if min(options.shares) < 0 or abs(sum(options.shares) - 1) > 1e-6:
        parser.error("the shares must not be negative and must add up to 1")
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another folder")
    try:
        blend(options.run, options.out, options.shares)
    except SeparationError as error:
        parser.error(str(error))


def blend(run: Path, out: Path, shares: list[float]) -> None:
    """Write the blended model folder.

    Raises:
        SeparationError: a run without a start model or states, or weights that cannot be read.
    """
    configuration = load_configuration(str(run))
    if not configuration.training.start:
        raise SeparationError(f"{run} is not a run that started from another model")
    start = weights.read_checkpoint(load_configuration(configuration.training.start).weights)
    best = weights.read_checkpoint(configuration.weights)
    sets = (start, best, last_weights(run))
    values = blended(list(zip(shares, sets, strict=True)))
    with atomic_folder(out) as folder:
        weights.write_checkpoint(weights.half_precision(values), folder)
        write_json(folder / "config.json", {**to_json(configuration), "weights": "."})


if __name__ == "__main__":
    main()
