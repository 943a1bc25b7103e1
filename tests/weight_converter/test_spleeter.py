import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from spleeter_2 import Separator
from spleeter_2.audio.stft import Transform
from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import assign
from spleeter_2.weights import checkpoint as weights
from spleeter_2.weights.bundle import latest_checkpoint, read_bundle
from weight_converter.spleeter import read_spleeter


def upstream_masks(folder, magnitude):
    """Spleeter's own graph, its own restore: magnitude -> {instrument: estimated magnitude}."""
    from spleeter.model.functions.unet import unet

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = tf.compat.v1.placeholder(tf.float32, magnitude.shape)
        outputs = unet(inputs, ["vocals", "accompaniment"], {})
        tf.compat.v1.train.Saver().restore(session, tf.train.latest_checkpoint(str(folder)))
        return session.run(outputs, {inputs: magnitude})


@pytest.mark.spleeter
@pytest.mark.parametrize("instrument", ["vocals", "accompaniment"])
def test_parity_with_upstreams_graph(deezer_2stems, mixture, tmp_path, instrument):
    """On the same magnitudes our mask network computes what Spleeter's computes."""
    other = "accompaniment" if instrument == "vocals" else "vocals"
    plain = {"base": "spleeter_2:mask", "targets": [instrument], "residual": other}
    path = tmp_path / "plain.json"
    path.write_text(json.dumps({"spleeter_2": 1, **plain, "model": {"level": None}}))
    configuration = load_configuration(str(path))
    spectrogram = Transform(configuration.stft.frame_length, configuration.stft.frame_step).forward(
        mixture
    )[np.newaxis, :128]
    magnitude = np.abs(spectrogram[:, :, :1024])
    # before our model is made: upstream's graph mode would spoil it
    expected = upstream_masks(deezer_2stems, magnitude)[f"{instrument}_spectrogram"]
    conversion = read_spleeter(deezer_2stems, str(path))
    assert len(conversion.rows) == len(conversion.values) == 70 and not conversion.notes
    model = build_model(configuration)
    assign(model, conversion.values, "the conversion")
    estimate = model(spectrogram, training=False)[instrument].numpy()[:, :, :1024]
    loud = magnitude > 1e-3
    assert np.abs(estimate / spectrogram[:, :, :1024] - expected / magnitude)[loud].max() < 1e-4
    assert 0.01 < expected[loud].mean() / magnitude[loud].mean() < 0.99


def test_shipped_weights_are_what_the_command_makes(deezer_2stems, tmp_path, convert):
    """The reference's checkpoint comes from this very conversion."""
    arguments = ["--from", "spleeter", deezer_2stems, "-o", tmp_path / "mask"]
    status, said = convert(*arguments, "--model", "spleeter_2:mask")
    assert status == 0 and "70 tensors" in said and "arrays equal" in said
    made = weights.read_checkpoint(tmp_path / "mask")
    shipped = weights.read_checkpoint(load_configuration("spleeter_2:mask").weights)
    assert set(made) == set(shipped)
    for key, array in made.items():
        assert np.array_equal(array, shipped[key]), key
    found = load_configuration(str(tmp_path / "mask"))
    assert found.source.project == "Spleeter" and len(found.source.sha256) == 64
    assert found.model == load_configuration("spleeter_2:mask").model


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


def test_slots_of_optimizers_are_ignored(deezer_2stems, tmp_path):
    """Checkpoints of Spleeter's own training hold Adam's moments beside every variable."""
    arrays = read_bundle(latest_checkpoint(deezer_2stems))
    slots = {"conv2d/kernel/Adam": arrays["conv2d/kernel"], "beta1_power": np.float32(0.9)}
    weights.write_checkpoint({**arrays, **slots}, tmp_path)
    found, expected = read_spleeter(tmp_path), read_spleeter(deezer_2stems)
    assert set(slots) == set(found.ignored) - set(expected.ignored)
    assert found.rows == expected.rows
    np.testing.assert_array_equal(
        found.values["vocals_encoder_1_conv/kernel"], arrays["conv2d/kernel"]
    )


def test_a_missing_tensor_is_named(deezer_2stems, tmp_path):
    arrays = read_bundle(latest_checkpoint(deezer_2stems))
    del arrays["batch_normalization_3/gamma"]
    weights.write_checkpoint(arrays, tmp_path)
    with pytest.raises(SeparationError, match="it lacks batch_normalization_3/gamma"):
        read_spleeter(tmp_path)


def test_what_is_refused(deezer_2stems, tmp_path, convert):
    def refused(source, *more):
        status, said = convert("--from", "spleeter", source, "-o", tmp_path / "out", *more)
        assert status == 1 and said.count("\n") == 1
        return said

    assert "no TensorFlow checkpoint" in refused(tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "odd").mkdir()
    weights.write_checkpoint({"conv2d/kernel": np.zeros((5, 5, 2, 16), "f4")}, tmp_path / "odd")
    assert "it lacks conv2d_1" in refused(tmp_path / "odd")
    cut = shutil.copytree(deezer_2stems, tmp_path / "cut")
    data = cut / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert "damaged or incomplete" in refused(cut)
    assert "--expected has no effect" in refused(deezer_2stems, "--expected", "x.npz")
    path = tmp_path / "drums.json"
    path.write_text('{"spleeter_2": 1, "base": "spleeter_2:mask", "targets": ["drums"]}')
    assert "no network for drums" in refused(deezer_2stems, "--model", path)
    path.write_text(
        '{"spleeter_2": 1, "base": "spleeter_2:mask", "model": {"filters": [8,8,8,8,8,8]}}'
    )
    assert "has no place for conv2d/bias of shape [16]" in refused(deezer_2stems, "--model", path)
    (tmp_path / "out").mkdir()
    weights.write_checkpoint({"x": np.zeros(1)}, tmp_path / "out")
    assert "--force" in refused(deezer_2stems)
