"""Mean of the weights that a run started from, of its best and of its last ones.

    python scripts/blend_weights.py runs/grouped blended --shares 0.15 0.425 0.425

What fine-tuning learns from a few songs it pays for with some of what the network knew of all
others; between the sets of weights lie networks that keep more of it (M. Wortsman et al., "Robust
fine-tuning of zero-shot models", CVPR 2022, and "Model soups", ICML 2022). OUT is a folder that
``-p`` takes; its kernels are float16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from spleeter_2.config.loading import load_configuration, to_json
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_folder, write_json
from spleeter_2.models import checkpoint as weights

LAST_OF_NEW = ("project/kernel", "project/bias")  # new parts start where these are zero


def last_weights(run: Path) -> dict[str, np.ndarray]:
    """Of the newest state, with the averages in their places."""
    states = sorted(path for path in run.glob("states/*") if path.name.isdecimal())
    if not states:
        raise SeparationError(f"{run} has no states: it is no run of spleeter train")
    state = weights.read_checkpoint(states[-1])
    taken = {}
    for prefix in ("network/", "average/"):  # an average replaces what it is the average of
        names = [name for name in state if name.startswith(prefix)]
        taken.update({name.removeprefix(prefix): state[name] for name in names})
    return taken


def blended(parts: list[tuple[float, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Weighted mean, name by name; what the start lacks is the mean of the others."""
    values = {}
    for name in parts[-1][1]:
        there = [(share, arrays[name]) for share, arrays in parts if name in arrays]
        whole = 1.0 if name.endswith(LAST_OF_NEW) else sum(share for share, _ in there)
        values[name] = np.float32(sum(share * array for share, array in there) / whole)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of spleeter train")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--shares", type=float, nargs=3, required=True, metavar=("START", "BEST", "LAST")
    )
    options = parser.parse_args()
    if min(options.shares) < 0 or abs(sum(options.shares) - 1) > 1e-6:
        parser.error("the shares must not be negative, and add up to 1")
    if options.out.exists():
        parser.error(f"{options.out} is there already: name another folder")
    try:
        blend(options.run, options.out, options.shares)
    except SeparationError as error:
        parser.error(str(error))


def blend(run: Path, out: Path, shares: list[float]) -> None:
    configuration = load_configuration(str(run))
    if not configuration.training.start:
        raise SeparationError(f"{run} is no run that started from another model")
    start = weights.read_checkpoint(load_configuration(configuration.training.start).weights)
    best = weights.read_checkpoint(configuration.weights)
    sets = (start, best, last_weights(run))
    values = blended(list(zip(shares, sets, strict=True)))
    with atomic_folder(out) as folder:
        weights.write_checkpoint(weights.halved(values), folder)
        write_json(folder / "config.json", {**to_json(configuration), "weights": "."})


if __name__ == "__main__":
    main()
