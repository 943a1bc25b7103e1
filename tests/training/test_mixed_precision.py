"""Mixed precision: refused without a GPU; what of it does not need one works."""

import json

import numpy as np
import pytest
import tensorflow as tf
from support.models import CUNET, UNET, noise, small
from support.training import trainer

from spleeter_2.models import build_model
from spleeter_2.models.variables import named_variables
from spleeter_2.training.mixed_precision import layers_in

pytestmark = pytest.mark.usefixtures("quick_training")

GROUPED = {"type": "grouped", "level": 2, "bands": 2, "kernel_size": 3, "width": 4}


def test_refused_without_a_gpu_before_anything_else(spleeter, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    configuration = tmp_path / "small.json"
    training = {"mixed_precision": True}
    data = {"spleeter_2": 1, "base": "spleeter_2:grouped", "training": training}
    configuration.write_text(json.dumps(data))
    folder = tmp_path / "run"
    status, messages = spleeter("train", "-p", configuration, "-d", tmp_path / "no", "-o", folder)
    assert status == 1 and "training.mixed_precision is for GPUs" in messages
    assert not folder.exists()


@pytest.mark.parametrize(
    "model",
    [
        {**UNET, "head": {"type": "mask"}, "dropout": 0.0},
        {**UNET, "head": {"type": "regression"}, "frequency": [GROUPED], "dropout": 0.0},
        {**UNET, "frequency": [{"type": "fc", "level": 2}], "dropout": 0.0},
        {**CUNET, "frequency": {"type": "lasaft"}},
    ],
    ids=["mask", "regression", "fc", "cunet"],
)
def test_networks_in_float16(model):
    """Weights, spectrograms and their gradients stay float32; estimates are nearly the same."""
    configuration = small(model)
    tf.keras.utils.set_random_seed(0)
    whole = build_model(configuration)
    with layers_in(True):
        network = build_model(configuration)
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert list(named_variables(network)) == list(named_variables(whole))
    network.set_weights(whole.get_weights())
    assert {variable.dtype for variable in network.weights} == {tf.float32}
    assert any(layer.compute_dtype == "float16" for layer in network.layers)
    mixture = noise(configuration, batch=2)
    with tf.GradientTape() as tape:
        estimates = network(mixture, training=True)
        loss = tf.add_n([tf.reduce_mean(tf.abs(x)) for x in estimates.values()])
    gradients = tape.gradient(loss, network.trainable_variables)
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
    network.set_weights(whole.get_weights())
    for name, expected in whole(mixture, training=False).items():
        found = network(mixture, training=False)[name]
        assert found.dtype == tf.complex64
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert 0 < error < 0.01


def test_the_scale_of_the_loss_is_kept_and_restored(tmp_path):
    whole = trainer(tmp_path / "whole", epochs=1)
    whole.fit(verbose=0)
    run = trainer(tmp_path / "mixed", epochs=1, mixed_precision=True)
    ((_, optimizer),) = run.model.groups
    optimizer._loss_scale.current_loss_scale.assign(512.0)
    run.fit(verbose=0)
    loss, expected = (x.progress.history[0]["val_loss"] for x in (run, whole))
    assert loss == pytest.approx(expected, rel=0.02) and loss != expected
    again = trainer(tmp_path / "mixed", epochs=1, mixed_precision=True)
    ((_, optimizer),) = again.model.groups
    assert optimizer.loss_scale == 512.0 and optimizer.dynamic_counter == 4


def test_a_step_that_overflows_is_left_out(tmp_path):
    """By all optimizers: what is pretrained has one of its own."""
    trainer(tmp_path / "old", epochs=1).fit(verbose=0)
    options = {"start": str(tmp_path / "old"), "pretrained_rate": 0.1, "clip_norm": None}
    run = trainer(
        tmp_path / "new", model={"frequency": [GROUPED]}, epochs=1, steps_per_epoch=1,
        mixed_precision=True, **options,
    )  # fmt: skip
    optimizers = [optimizer for _, optimizer in run.model.groups]
    for optimizer in optimizers:
        optimizer._loss_scale.current_loss_scale.assign(2.0**60)
    before = [variable.numpy() for variable in run.model.trained]
    run.fit(verbose=0)
    assert len(optimizers) == 2
    assert [float(optimizer.loss_scale) for optimizer in optimizers] == [2.0**59] * 2
    for variable, value in zip(run.model.trained, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert run.progress.history[0]["gradient_norm"] == 0 and run.step == 1
