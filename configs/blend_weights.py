"""Mean of a trained model's weights and of those it started from.

    python configs/blend_weights.py runs/grouped blended --share 0.6

What fine-tuning learns from a few songs it pays for with some of what the network knew of all
others; on the way between both sets of weights lie networks that keep more of it (M. Wortsman et
al., "Robust fine-tuning of zero-shot models", CVPR 2022). OUT is a folder that ``-p`` takes; its
kernels are float16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spleeter_2 import weights
from spleeter_2.configuration import load_configuration, read_configuration
from spleeter_2.folders import new_folder

LAST = ("project/kernel", "project/bias")  # of new parts, which start at zero


def blended(start: dict, trained: dict, share: float) -> dict:
    """``share`` of the trained weights and the rest of the start's, where there is one."""
    values = dict(trained)
    for name, value in trained.items():
        if name in start:
            values[name] = (1 - share) * start[name] + share * value
        elif name.endswith(LAST):
            values[name] = share * value
    return {name: value.astype("float32") for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run of spleeter train")
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the trained weights, 0 to 1")
    options = parser.parse_args()
    content = read_configuration(options.run)
    start, trained = (
        weights.read_checkpoint(load_configuration(descriptor).weights)
        for descriptor in (content["training"]["start"], options.run)
    )
    with new_folder(options.out) as folder:
        weights.write_checkpoint(weights.halved(blended(start, trained, options.share)), folder)
        text = json.dumps({**content, "weights": "."}, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
