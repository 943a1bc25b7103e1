import numpy as np
import pytest
import tensorflow as tf
from support.common import values_of

from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_folder
from spleeter_2.models import build_model
from spleeter_2.models import checkpoint as weights

ARRAYS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.array([70000.0, 1.0], np.float32),  # beyond float16
}


def network(units: int = 2) -> tf.keras.Model:
    inputs = tf.keras.Input((3,))
    return tf.keras.Model(inputs, tf.keras.layers.Dense(units, name="a")(inputs), name="net")


def load(model, folder):
    weights.assign(model, weights.read_checkpoint(folder), folder)


@pytest.mark.parametrize("half", [False, True])
def test_round_trip(tmp_path, half):
    model = network()
    model.get_layer("a").bias.assign([70000.0, 1.0])
    values = values_of(model)
    weights.write_checkpoint(weights.half_precision(values) if half else values, tmp_path)
    again = network()
    load(again, tmp_path)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        assert np.allclose(one, other, rtol=1e-3 if half else 0, atol=0)
    stored = tf.train.load_checkpoint(str(tmp_path)).get_variable_to_dtype_map()
    assert stored["a/kernel"] == (tf.float16 if half else tf.float32)
    assert stored["a/bias"] == tf.float32


def test_tensorflow_finds_the_checkpoint(tmp_path):
    weights.write_checkpoint(ARRAYS, tmp_path)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint")
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint",
        "checkpoint.index",
        "checkpoint.data-00000-of-00001",
    }


def test_an_architecture_that_does_not_fit(tmp_path):
    weights.write_checkpoint(values_of(network()), tmp_path)
    with pytest.raises(SeparationError, match=r"a/kernel has shape \[3, 2\] instead of \[3, 4\]"):
        load(network(4), tmp_path)
    weights.write_checkpoint({"b": np.zeros(1)}, tmp_path)
    with pytest.raises(SeparationError, match="a/kernel is missing and 1 more"):
        load(network(), tmp_path)


@pytest.mark.parametrize("fault", ["cut", "gone", "index", "none"])
def test_damaged_weights_are_refused(tmp_path, fault):
    weights.write_checkpoint(values_of(network()), tmp_path)
    data = tmp_path / "checkpoint.data-00000-of-00001"
    if fault == "cut":
        data.write_bytes(data.read_bytes()[:7])
    elif fault == "gone":
        data.unlink()
    elif fault == "index":
        (tmp_path / "checkpoint.index").write_bytes(b"rubbish")
    else:
        (tmp_path / "checkpoint.index").unlink()
    with pytest.raises(SeparationError) as raised:
        load(network(), tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """In TensorFlow's own words, taken from such a disk; the old checkpoint stays."""
    old = tmp_path / "old"
    with atomic_folder(old) as folder:
        weights.write_checkpoint(ARRAYS, folder)

    def full(prefix, **_):
        words = f"{{{{function_node __wrapped__SaveV2}}}} {prefix}.data-00000-of-00001"
        reason = "No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, f"{words}; {reason}")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    with pytest.raises(SeparationError) as raised, atomic_folder(old) as folder:
        weights.write_checkpoint(ARRAYS, folder)
    assert str(raised.value) == f"cannot write {old}: the disk is full, free some space"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert weights.read_checkpoint(old)["a/bias"][0] == 70000


def test_a_write_that_fails(tmp_path, file_size_limit):
    file_size_limit(100_000)
    with pytest.raises(SeparationError) as raised, atomic_folder(tmp_path / "new") as folder:
        weights.write_checkpoint({"a": np.zeros(10**5, np.float32)}, folder)
    assert str(raised.value) == f"cannot write {tmp_path / 'new'}: File too large"
    assert not list(tmp_path.iterdir())


def test_statistics_in_deezers_weights_are_those_of_a_start():
    """Means 0 and variances 1 (docs/architecture.md), so fine-tuning must freeze them."""
    arrays = weights.read_checkpoint(load_configuration("spleeter_2:mask").weights)
    for name, expected in (("moving_mean", 0.0), ("moving_variance", 1.0)):
        found = [array for key, array in arrays.items() if key.endswith(name)]
        assert len(found) == 11 and all((array == expected).all() for array in found)


@pytest.mark.parametrize("name", ["grouped", "mask"])
def test_shipped_weights_fit_and_the_card_tells_the_truth(name):
    configuration = load_configuration(f"spleeter_2:{name}")
    model = build_model(configuration)
    load(model, configuration.weights)
    assert model.count_params() == configuration.card.parameters
    assert set(weights.read_checkpoint(configuration.weights)) == set(
        weights.named_variables(model)
    )
