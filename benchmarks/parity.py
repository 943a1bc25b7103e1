"""Differences between our samples and upstream's, for each of Spleeter's models.

    UPSTREAM_PYTHON=... python benchmarks/parity.py
    UPSTREAM_PYTHON=... python benchmarks/parity.py --song song.wav 2stems 4stems-16kHz

UPSTREAM_PYTHON names an interpreter with spleeter 2.4.2. The weights of 2stems are Deezer's; those
of 4stems and 5stems, which are not in the package, are random variables of upstream's own graph.
The largest difference and the RMS difference are over all stems, in parts of full scale; the SDR,
of ours with upstream's as reference, is that of the worst stem. "mwf" is 2stems with ``--mwf``:
upstream filters the whole song at once, we filter window by window.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import numpy as np
import soundfile
from support.spleeter_models import write_deezers_model
from support.upstream import Song, Upstream

from evaluation.metrics import sdr
from spleeter_2.separation.separator import Separator

DEMO = REPOSITORY / "demo" / "lets-go-fishin.ogg"
DEEZERS = "2stems"
OTHERS = ("4stems", "5stems")
MODELS = [name + suffix for name in (DEEZERS, *OTHERS) for suffix in ("", "-16kHz")]


def make_models(upstream: Upstream, folder: Path) -> None:
    """Fill the folder of ``MODEL_PATH``."""
    write_deezers_model(folder / DEEZERS)
    for name in OTHERS:
        upstream.write_model(upstream.configuration(f"spleeter:{name}"), folder / name)


def compare(
    upstream: Upstream, model: str, song: Path, waveform: np.ndarray, folder: Path, mwf: bool
) -> None:
    """Print the row of a model."""
    (theirs,) = upstream.separate(f"spleeter:{model}", [Song(song)], folder, mwf)
    with Separator(f"spleeter:{model}", mwf=mwf) as separator:
        ours = separator.separate(waveform)
    differences = np.stack([ours[name] - theirs[name] for name in theirs])
    score = min(sdr(theirs[name], ours[name]) for name in theirs)
    weights = "Deezer's" if model.startswith(DEEZERS) else "random"
    print(
        f"{model + ' mwf' * mwf:14} {weights:9} {np.abs(differences).max():9.1e} "
        f"{np.sqrt(np.mean(differences**2)):9.1e} {score:7.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, help="names of models")
    parser.add_argument("--song", type=Path, default=DEMO, help="a song (default: the demo song)")
    options = parser.parse_args()
    python = os.environ.get("UPSTREAM_PYTHON")
    if not python:
        parser.error("needs UPSTREAM_PYTHON, an interpreter with spleeter 2.4.2")
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}")
    print("model          weights     largest       RMS  SDR, dB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MODEL_PATH"] = name
        upstream = Upstream(python)
        make_models(upstream, folder)
        waveform, rate = soundfile.read(options.song, dtype="float32", always_2d=True)
        song = folder / "song.wav"  # the same samples for both
        soundfile.write(song, waveform, rate, "FLOAT")
        for model in options.models:
            compare(upstream, model, song, waveform, folder, mwf=False)
        if DEEZERS in options.models:
            compare(upstream, DEEZERS, song, waveform, folder, mwf=True)
        upstream.close()


if __name__ == "__main__":
    main()
