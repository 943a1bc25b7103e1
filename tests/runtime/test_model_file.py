"""The networks that ship, and how they refer to their checkpoints."""

import shutil

import numpy as np
import pytest

from spleeter_2.config.loading import PREFIX, embedded_models, has_weights, load_configuration
from spleeter_2.runtime import model_file
from spleeter_2.runtime.network import open_session
from spleeter_2.weights.checkpoint import open_checkpoint, write_checkpoint

SHIPPED = [
    name
    for name in embedded_models()
    if name.startswith(PREFIX) and has_weights(load_configuration(name).weights)
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_exported_from_its_checkpoint(name):
    configuration = load_configuration(name)
    session = open_session(model_file.path_of(configuration))
    assert session.digest == model_file.digest(configuration)
    assert session.targets == configuration.targets


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_stored_once(name):
    path = model_file.path_of(load_configuration(name))
    assert path.stat().st_size < 200_000


def test_a_network_without_its_checkpoint_cannot_be_loaded(tmp_path):
    from spleeter_2.errors import SeparationError

    path = model_file.path_of(load_configuration("spleeter_2:grouped"))
    shutil.copy(path, tmp_path / "model.onnx")
    with pytest.raises(SeparationError, match="cannot load the network .*model.onnx"):
        open_session(tmp_path / "model.onnx")


def test_a_graph_is_completed_by_references_to_a_checkpoint(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from spleeter_2.runtime.references import input_name, metadata, references

    rng = np.random.default_rng(0)
    values = {
        "a/kernel": rng.normal(size=(3, 5, 16, 32)).astype("f4"),
        "a/half": rng.normal(size=(64, 32)).astype("f2"),
        "a/bias": rng.normal(size=(7,)).astype("f4"),
        "a/scalar": np.float32(3),
    }
    write_checkpoint(values, tmp_path)
    names = {name: input_name(name) for name in values}
    nodes = [helper.make_node("Identity", [names[name]], [f"{names[name]}_out"]) for name in names]
    outputs = [
        helper.make_tensor_value_info(f"{names[name]}_out", TensorProto.FLOAT, value.shape)
        for name, value in values.items()
    ]
    source = helper.make_tensor_value_info("mixture", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "graph", [source], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = references(open_checkpoint(tmp_path), names) + model.SerializeToString()
    content += metadata({model_file.DIGEST: "x-y"})
    assert len(content) < 2000
    (tmp_path / "model.onnx").write_bytes(content)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    for session in (
        open_session(tmp_path / "model.onnx"),
        open_session(content, folder=tmp_path),
    ):
        assert session.digest == "x-y"
        found = session.estimate(np.zeros(1, "f4"))
        for name, value in values.items():
            assert np.array_equal(found[f"{names[name]}_out"], value.astype("f4"))


def test_every_model_of_spleeters_ships_a_graph():
    from spleeter_2.config.loading import UPSTREAM_PREFIX

    models = [name for name in embedded_models() if name.startswith(UPSTREAM_PREFIX)]
    assert len(models) == 6
    for name in models:
        configuration = load_configuration(name)
        assert model_file.ships(configuration)
        session_path = model_file.graph_path(model_file.anonymous(configuration))
        assert session_path.stat().st_size < 200_000
    assert len(list(model_file.GRAPHS.glob("*.onnx"))) == len(models)
