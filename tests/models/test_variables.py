import numpy as np
import pytest
import tensorflow as tf
from support.common import values_of

from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import assign, named_variables
from spleeter_2.weights import checkpoint as weights


def network(units: int = 2) -> tf.keras.Model:
    inputs = tf.keras.Input((3,))
    return tf.keras.Model(inputs, tf.keras.layers.Dense(units, name="a")(inputs), name="net")


def load(model, folder):
    assign(model, weights.read_checkpoint(folder), folder)


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


def test_an_architecture_that_does_not_fit(tmp_path):
    weights.write_checkpoint(values_of(network()), tmp_path)
    with pytest.raises(SeparationError, match=r"a/kernel has shape \[3, 2\] instead of \[3, 4\]"):
        load(network(4), tmp_path)
    weights.write_checkpoint({"b": np.zeros(1)}, tmp_path)
    with pytest.raises(SeparationError, match="a/kernel is missing and 1 more"):
        load(network(), tmp_path)


@pytest.mark.parametrize("name", ["grouped", "mask"])
def test_shipped_weights_fit_and_the_card_tells_the_truth(name):
    configuration = load_configuration(f"spleeter_2:{name}")
    model = build_model(configuration)
    load(model, configuration.weights)
    assert model.count_params() == configuration.card.parameters
    # the checkpoint of mask has the network of the accompaniment too
    arrays = weights.read_checkpoint(configuration.weights)
    assert {name for name in arrays if name.startswith("vocals_")} == set(named_variables(model))
