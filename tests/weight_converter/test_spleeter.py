"""Conversion of Spleeter's checkpoints: the same model, and other architectures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.poor import BASE_ONLY
from support.spleeter_models import UNUSED, write_spleeter_model

from spleeter_2 import Separator
from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.runtime import model_file, network
from spleeter_2.weights import checkpoint as weights
from spleeter_2.weights.bundle import latest_checkpoint, read_bundle, write_bundle
from spleeter_2.weights.spleeter import variable_shapes
from weight_converter.spleeter import read_spleeter

REPOSITORY = Path(__file__).parents[2]
UPSTREAM = {"instrument_list": ["speech", "music", "rest"], "model_dir": "mine", "n_channels": 2}
ELU = {"conv_activation": "ELU", "deconv_activation": "ELU"}


def in_the_base(*arguments):
    """Run the converter without the packages of the extras."""
    script = (
        f"{BASE_ONLY}\nimport runpy, sys\nsys.argv = ['weight_converter', *sys.argv[1:]]\n"
        "runpy.run_module('weight_converter', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, "--from", "spleeter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)


@pytest.fixture
def separated(mixture, monkeypatch):
    """Stems of two seconds by a model: ``separated(descriptor, MODEL_PATH)``."""

    def separate(model, models="/nowhere"):
        monkeypatch.setenv("MODEL_PATH", str(models))
        return Separator(model).separate(0.25 * mixture[:88200])

    return separate


def assert_equal(stems, expected):
    assert stems.keys() == expected.keys()
    for name, stem in expected.items():
        assert np.abs(stem).max() > 1e-3
        np.testing.assert_array_equal(stems[name], stem)


def test_the_shapes_are_those_of_keras():
    from support.models import small

    from spleeter_2.models import build_model
    from spleeter_2.models.variables import named_variables

    configuration = small(
        {"type": "unet", "nb_bins": 64, "filters": [3, 4, 5, 6, 7, 8]},
        segment={"nb_frames": 64, "trim": 64},
    )
    found = variable_shapes(configuration.targets, configuration.model.filters, 2)
    expected = named_variables(build_model(configuration))
    assert found == {name: tuple(value.shape) for name, value in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["2stems", "5stems", "4stems-16kHz"])
def test_the_result_is_the_same_model_without_tensorflow(tmp_path, separated, form):
    """Its samples are those of Spleeter's folder, bit for bit, and nothing is exported again."""
    configuration = load_configuration(f"spleeter:{form}")
    arrays = write_spleeter_model(tmp_path / configuration.model_dir, configuration.targets)
    out = tmp_path / "out"
    named = ["--model", f"spleeter:{form}"] if "-" in form else []
    done = in_the_base(tmp_path / configuration.model_dir, "-o", out, *named)
    assert done.returncode == 0, done.stderr
    assert "the network that ships" in done.stdout and "arrays equal" in done.stdout
    assert ("taken as those of" in done.stdout) == (not named)
    found = weights.read_checkpoint(out)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    exported = (out / "model.onnx").stat()
    assert exported.st_size < 300_000
    assert_equal(separated(out), separated(f"spleeter:{form}", tmp_path))
    converted = load_configuration(out)
    assert network._session_of(converted, None).path == out / "model.onnx"  # its digest fits
    assert (out / "model.onnx").stat().st_mtime_ns == exported.st_mtime_ns
    assert converted.model_dir is None and converted.source.project == "Spleeter"


def test_deezers_2stems(deezer_2stems, tmp_path, convert, separated):
    """With TensorFlow, the network that ships is compared with Keras."""
    status, said = convert("--from", "spleeter", deezer_2stems, "-o", tmp_path / "out")
    assert status == 0 and "140 tensors" in said and "arrays equal" in said, said
    assert "model.onnx: largest difference to Keras" in said
    made = weights.read_checkpoint(tmp_path / "out")
    shipped = weights.read_checkpoint(load_configuration("spleeter:2stems").weights)
    assert made.keys() == shipped.keys()
    for key, array in made.items():
        np.testing.assert_array_equal(array, shipped[key])
    found = load_configuration(str(tmp_path / "out"))
    assert len(found.source.sha256) == 64
    assert_equal(separated(tmp_path / "out"), separated("spleeter:2stems", deezer_2stems.parent))


def test_a_training_of_ones_own(tmp_path, separated):
    """Instruments of its own, an optimizer's moments, a numbered checkpoint; kernels are halved."""
    slots = {"conv2d/kernel/Adam": np.zeros(3, "f4"), "beta1_power": np.float32(0.9)}
    source = tmp_path / "mine"
    write_spleeter_model(source, UPSTREAM["instrument_list"], more=slots, prefix="model.ckpt-300")
    path = tmp_path / "mine.json"
    # three networks do not ship, so the second is read with those of the first only
    assert "has 3 networks" in in_the_base(source, "-o", tmp_path / "out").stderr
    path.write_text(json.dumps({**UPSTREAM, "model": {"type": "unet.unet", "params": ELU}}))
    done = in_the_base(source, "-o", tmp_path / "out", "--model", path)
    assert done.returncode == 1 and "does not ship needs tensorflow" in done.stderr
    conversion = read_spleeter(source, str(path))
    assert set(conversion.ignored) == {*slots, UNUSED}
    assert conversion.configuration["targets"] == UPSTREAM["instrument_list"]
    assert conversion.configuration["model"]["encoder_activation"] == "elu"
    two = {**UPSTREAM, "instrument_list": ["speech", "music"], "model_dir": str(tmp_path / "two")}
    write_spleeter_model(tmp_path / "two", two["instrument_list"])
    path.write_text(json.dumps(two))
    done = in_the_base(tmp_path / "two", "-o", tmp_path / "out", "--model", path, "--half")
    assert done.returncode == 0, done.stderr
    size = (tmp_path / "out" / "checkpoint.data-00000-of-00001").stat().st_size
    assert size < 0.51 * (tmp_path / "two" / "model.data-00000-of-00001").stat().st_size
    found, expected = separated(tmp_path / "out"), separated(path)
    assert found.keys() == {"speech", "music"}
    for name, stem in expected.items():
        assert 0 < np.abs(found[name] - stem).max() < 2e-3


def test_the_network_of_mask(deezer_2stems, tmp_path, convert):
    """Deezer's vocals network in another architecture, which is exported from Keras."""
    arguments = ["--from", "spleeter", deezer_2stems, "-o", tmp_path / "mask"]
    status, said = convert(*arguments, "--model", "spleeter_2:mask")
    assert status == 0 and "70 tensors" in said and "arrays equal" in said
    made = weights.read_checkpoint(tmp_path / "mask")
    shipped = weights.read_checkpoint(load_configuration("spleeter_2:mask").weights)
    assert made.keys() == {name for name in shipped if name.startswith("vocals_")}
    for key, array in made.items():
        assert np.array_equal(array, shipped[key]), key
    found = load_configuration(str(tmp_path / "mask"))
    assert found.model == load_configuration("spleeter_2:mask").model
    session = network.open_session(model_file.path_of(found))
    assert session.targets == ("vocals",) and session.digest == model_file.digest(found)


def test_new_parts_change_nothing_before_they_are_trained(
    deezer_2stems, tmp_path, mixture, convert
):
    """Deezer's network within the trained model's architecture separates as it does alone."""
    arguments = ["--from", "spleeter", deezer_2stems, "-o", tmp_path / "made", "--half"]
    assert convert(*arguments, "--model", "spleeter_2:grouped")[0] == 0
    made = weights.read_checkpoint(tmp_path / "made")
    trained = weights.read_checkpoint(load_configuration("spleeter_2:grouped").weights)
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in trained.items()}
    plain = tmp_path / "plain.json"
    changes = {"base": "spleeter_2:mask", "model": {"shift_average": True}}
    plain.write_text(json.dumps({"spleeter_2": 1, **changes}))
    found, expected = (
        Separator(str(model)).separate(mixture[:44100])["vocals"]
        for model in (tmp_path / "made", plain)
    )
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()  # kernels are halved


def test_a_missing_tensor_is_named(deezer_2stems, tmp_path):
    arrays = read_bundle(latest_checkpoint(deezer_2stems))
    del arrays["batch_normalization_3/gamma"]
    weights.write_checkpoint(arrays, tmp_path)
    with pytest.raises(SeparationError, match="it lacks batch_normalization_3/gamma"):
        read_spleeter(tmp_path)


def test_what_is_refused(deezer_2stems, tmp_path, convert):
    def refused(source, *more):
        status, said = convert("--from", "spleeter", source, "-o", tmp_path / "out", *more)
        assert status == 1 and said.count("\n") == 1, said
        return said

    assert "no TensorFlow checkpoint" in refused(tmp_path)
    assert not (tmp_path / "out").exists()
    for name in ("odd", "out"):
        (tmp_path / name).mkdir()
    weights.write_checkpoint({"conv2d/kernel": np.zeros((5, 5, 2, 16), "f4")}, tmp_path / "odd")
    assert "has 1 network, as no released" in refused(tmp_path / "odd")
    assert "it lacks conv2d/bias" in refused(tmp_path / "odd", "--model", "spleeter_2:mask")
    ours = load_configuration("spleeter_2:grouped").weights
    assert "it lacks conv2d/kernel" in refused(ours)
    cut = shutil.copytree(deezer_2stems, tmp_path / "cut")
    data = cut / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert "damaged or incomplete" in refused(cut)
    assert "--expected has no effect" in refused(deezer_2stems, "--expected", "x.npz")
    path = tmp_path / "other.json"
    for changes, words in (
        ({"targets": ["drums"]}, "no network for drums"),
        ({"model": {"filters": [8] * 6}}, "has no place for conv2d/bias of shape [16]"),
        ({"model": {"encoder_activation": "elu"}}, "encoder_activation elu, the networks of 2st"),
    ):
        path.write_text(json.dumps({"spleeter_2": 1, "base": "spleeter_2:mask", **changes}))
        assert words in refused(deezer_2stems, "--model", path)
    weights.write_checkpoint({"x": np.zeros(1)}, tmp_path / "out")
    assert "--force" in refused(deezer_2stems)


def test_types_of_tensors(tmp_path):
    arrays = {}
    for dtype in ("f2", "f4", "f8", "i4"):
        folder = tmp_path / dtype
        write_spleeter_model(folder, ["a", "b"])
        arrays = read_bundle(folder / "model")
        write_bundle(
            {name: array.astype(dtype) for name, array in arrays.items()}, folder / "model"
        )
        if dtype == "i4":
            with pytest.raises(SeparationError, match="other values than finite floating-point"):
                read_spleeter(folder)
            continue
        kernel = read_spleeter(folder).values["vocals_encoder_1_conv/kernel"]
        assert kernel.dtype == ("f2" if dtype == "f2" else "f4")
        np.testing.assert_allclose(kernel, arrays["conv2d/kernel"], rtol=1e-3, atol=1e-4)
    arrays["conv2d/kernel"][0] = np.nan
    write_bundle(arrays, folder / "model")
    with pytest.raises(SeparationError, match="conv2d/kernel holds other values"):
        read_spleeter(folder)
