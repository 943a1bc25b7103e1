"""The benchmark's large LaSAFT model is the published one, and its PyTorch side is right."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.golden import SMALL_SET, golden

from weight_converter import lasaft
from weight_converter.torch_checkpoint import read_checkpoint

FOLDER = Path(__file__).parents[1] / "benchmarks"
TORCH_PYTHON = os.environ.get("TORCH_PYTHON")
needs_torch = pytest.mark.skipif(
    not TORCH_PYTHON, reason="TORCH_PYTHON does not name an interpreter with PyTorch"
)


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("benchmark_lasaft", FOLDER / "lasaft.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_large_state_is_the_published_models(benchmark):
    listed = {}
    for line in (SMALL_SET / "large_keys.txt").read_text().splitlines():
        name, shape, dtype = line.split("\t")
        listed[name] = (shape, dtype)
    state = benchmark.large_state()
    assert len(listed) == 543
    assert {k: (str(v.shape), str(v.dtype)) for k, v in state.items()} == listed
    plan = lasaft.plan(state, json.loads(benchmark.HYPER_PARAMETERS.read_text()))
    assert plan.family == "gpocm_lasaft"
    parameters = [k for k in state if not k.endswith(("window", "mean", "var", "tracked"))]
    assert round(sum(state[name].size for name in parameters), -5) == 31_500_000


@needs_torch
@pytest.mark.parametrize("name", ["gpocm_lasaft_a", "gpocm_lasaft_b"])
def test_torch_side(name, tmp_path):
    checkpoint = read_checkpoint(golden(f"{name}.ckpt"))
    np.savez(tmp_path / "state.npz", **checkpoint.arrays)
    (tmp_path / "hyper.json").write_text(json.dumps(checkpoint.metadata["hyper_parameters"]))
    script, path = FOLDER / "lasaft_torch.py", tmp_path / "again.ckpt"
    save = ["save", tmp_path / "state.npz", tmp_path / "hyper.json", path]
    subprocess.run([TORCH_PYTHON, script, *save], check=True)
    done = subprocess.run(
        [TORCH_PYTHON, script, "golden", path, golden(f"{name}.npz")],
        stdout=subprocess.PIPE,
        check=True,
    )
    errors = json.loads(done.stdout)
    assert set(errors) == ({"spec_out", "wave_out"} if name.endswith("a") else {"spec_out"})
    assert max(errors.values()) < 1e-5
