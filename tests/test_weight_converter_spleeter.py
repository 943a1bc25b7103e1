import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from spleeter_2 import Separator, weights
from spleeter_2.configuration import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from weight_converter.__main__ import main
from weight_converter.spleeter import read_spleeter


def upstream_masks(folder, magnitude):
    """Spleeter's own graph, its own restore: magnitude -> {instrument: estimated magnitude}."""
    from spleeter.model.functions.unet import unet

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = tf.compat.v1.placeholder(tf.float32, magnitude.shape)
        outputs = unet(inputs, ["vocals", "accompaniment"], {})
        tf.compat.v1.train.Saver().restore(session, tf.train.latest_checkpoint(str(folder)))
        return session.run(outputs, {inputs: magnitude})


@pytest.mark.parametrize("instrument", ["vocals", "accompaniment"])
def test_parity_with_upstreams_graph(deezer_2stems, mixture, instrument):
    """On the same magnitudes our mask network computes what Spleeter's computes."""
    from dataclasses import replace

    from spleeter_2.spectrogram import Transform

    plain = load_configuration("spleeter_2:mask")
    other = "accompaniment" if instrument == "vocals" else "vocals"
    plain = replace(
        plain, targets=(instrument,), residual=other, model=replace(plain.model, level=None)
    )
    spectrogram = Transform(plain.stft).forward(mixture)[np.newaxis, :128]
    magnitude = np.abs(spectrogram[:, :, :1024])
    expected = upstream_masks(deezer_2stems, magnitude)[f"{instrument}_spectrogram"]
    model = build_model(plain)
    named = weights.named_variables(model)
    arrays = read_spleeter(deezer_2stems, instrument)
    assert set(arrays) == set(named)
    for name, array in arrays.items():
        named[name].assign(array)
    estimate = model(spectrogram, training=False)[instrument].numpy()[:, :, :1024]
    loud = magnitude > 1e-3
    assert np.abs(estimate / spectrogram[:, :, :1024] - expected / magnitude)[loud].max() < 1e-4
    assert 0.01 < expected[loud].mean() / magnitude[loud].mean() < 0.99


@pytest.mark.parametrize("name", ["mask", "grouped"])
def test_shipped_weights_are_what_the_command_makes(deezer_2stems, tmp_path, name, capsys):
    """The checkpoints in the package come from this very conversion."""
    half = ["--half"] if name == "grouped" else []
    arguments = ["--from", "spleeter", str(deezer_2stems), "-o", str(tmp_path / name)]
    assert main([*arguments, "--model", f"spleeter_2:{name}", *half]) == 0
    assert "70 arrays" in capsys.readouterr().out
    made = weights.read_checkpoint(tmp_path / name)
    shipped = weights.read_checkpoint(load_configuration(f"spleeter_2:{name}").weights)
    assert set(made) == set(shipped)
    for key, array in made.items():
        assert np.array_equal(array, shipped[key]), key
    config = json.loads((tmp_path / name / "config.json").read_text())
    assert config["base"] == f"spleeter_2:{name}"


def test_the_result_separates(deezer_2stems, tmp_path, mixture, grouped):
    arguments = ["--from", "spleeter", str(deezer_2stems), "-o", str(tmp_path / "made")]
    assert main([*arguments, "--model", "spleeter_2:grouped", "--half"]) == 0
    made = Separator(str(tmp_path / "made")).separate(mixture[:44100])
    shipped = grouped.separate(mixture[:44100])
    assert np.abs(made["vocals"] - shipped["vocals"]).max() < 1e-6


def test_what_is_refused(deezer_2stems, tmp_path, capsys):
    def refused(source, *more):
        arguments = ["--from", "spleeter", str(source), "-o", str(tmp_path / "out"), *more]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error
        return error

    assert "no TensorFlow checkpoint" in refused(tmp_path)
    assert not (tmp_path / "out").exists()
    weights.write_checkpoint({"conv2d/kernel": np.zeros((5, 5, 2, 16), "f4")}, tmp_path / "odd")
    assert "it lacks conv2d_1" in refused(tmp_path / "odd")
    cut = shutil.copytree(deezer_2stems, tmp_path / "cut")
    data = cut / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert "damaged or incomplete" in refused(cut)
    weights.write_checkpoint({"x": np.zeros(1)}, tmp_path / "out")
    assert "--force" in refused(deezer_2stems)
    with pytest.raises(SeparationError, match="no network for drums"):
        from weight_converter.spleeter import convert_spleeter

        path = tmp_path / "drums.json"
        path.write_text('{"spleeter_2": 1, "base": "spleeter_2:mask", "targets": ["drums"]}')
        convert_spleeter(deezer_2stems, tmp_path / "new", str(path))
