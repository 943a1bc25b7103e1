"""The choice of a device; no GPU is at hand, so ONNX Runtime's list of providers is a given one."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.runtime.model_file import path_of
from spleeter_2.runtime.network import (
    PROVIDERS,
    execution_providers,
    from_planes,
    nb_threads,
    open_session,
    to_planes,
)

CPU = "CPUExecutionProvider"


def runtime(*providers: str):
    """As much of ONNX Runtime as the choice needs."""
    return types.SimpleNamespace(get_available_providers=lambda: [*providers, CPU])


def test_the_cpu_is_the_default():
    for device in (None, "cpu", "CPU", "cpu:0"):
        assert execution_providers(runtime("CUDAExecutionProvider"), device) == [CPU]


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_provider_that_is_installed_is_taken(name):
    options = {} if name.startswith("CoreML") else {"device_id": 2}
    assert execution_providers(runtime(name), "gpu:2") == [(name, options), CPU]


def test_cuda_comes_before_others():
    both = runtime("DmlExecutionProvider", "CUDAExecutionProvider")
    assert execution_providers(both, "gpu")[0] == ("CUDAExecutionProvider", {"device_id": 0})


@pytest.mark.parametrize("device", ["gpu", "gpu:1"])
def test_a_missing_provider_is_named_with_its_package(device):
    with pytest.raises(SeparationError, match=rf"there is no {device}: .* pip install .*gpu"):
        execution_providers(runtime("AzureExecutionProvider"), device)


def test_there_is_one_cpu():
    with pytest.raises(SeparationError, match="there is no cpu:1"):
        execution_providers(runtime(), "cpu:1")


@pytest.mark.parametrize("text, threads", [("3", 3), ("4,2", 4), (" 2 ", 2), ("", 0), ("x", 0)])
def test_threads_are_those_of_openmp(monkeypatch, text, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert nb_threads() == threads
    assert open_session(path_of(load_configuration("spleeter_2:mask"))).targets == ("vocals",)


def test_planes_are_real_parts_then_imaginary_parts():
    spectrogram = np.array([[[1 + 2j, 3 + 4j]]], np.complex64)  # [T, F, C]
    planes = to_planes(spectrogram)
    assert planes.dtype == np.float32 and planes.tolist() == [[[1, 3, 2, 4]]]
    assert np.array_equal(from_planes(planes), spectrogram)


def test_onnx_runtime_sends_and_stores_nothing(tmp_path):
    """Its telemetry, of version 1.32, makes a file in the user's cache when it is imported."""
    program = (
        "from spleeter_2.config.loading import load_configuration\n"
        "from spleeter_2.runtime.network import load_network\n"
        "load_network(load_configuration('spleeter_2:mask'))\n"
    )
    # without variables of a CI, where it would be off anyway
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert not list(tmp_path.iterdir())
