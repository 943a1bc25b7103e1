"""The networks that ship, and how they refer to their checkpoints."""

import shutil

import numpy as np
import pytest

from spleeter_2.config.loading import PREFIX, embedded_names, has_weights, load_configuration
from spleeter_2.runtime import model_file
from spleeter_2.runtime.network import open_session

SHIPPED = [
    name for name in embedded_names() if has_weights(load_configuration(PREFIX + name).weights)
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_exported_from_its_checkpoint(name):
    configuration = load_configuration(PREFIX + name)
    session = open_session(model_file.path_of(configuration))
    assert session.digest == model_file.digest(configuration)
    assert session.outputs == configuration.targets


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_stored_once(name):
    path = model_file.path_of(load_configuration(PREFIX + name))
    assert path.stat().st_size < 200_000


def test_a_network_without_its_checkpoint_cannot_be_loaded(tmp_path):
    from spleeter_2.errors import SeparationError

    path = model_file.path_of(load_configuration("spleeter_2:grouped"))
    shutil.copy(path, tmp_path / "model.onnx")
    with pytest.raises(SeparationError, match="cannot load the network .*model.onnx"):
        open_session(tmp_path / "model.onnx")


def test_tensors_are_found_in_any_order_of_axes(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from spleeter_2.runtime.external_data import DATA, refer_to_checkpoint

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 5, 16, 32)).astype("f4")  # HWIO, as in a checkpoint
    half = rng.normal(size=(64, 32)).astype("f2")
    inline = rng.normal(size=(2048,)).astype("f4")  # the checkpoint lacks it
    (tmp_path / DATA).write_bytes(b"odd" + kernel.tobytes() + half.tobytes())
    names = {"kernel": kernel.transpose(3, 2, 0, 1), "half": half, "inline": inline}
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in names.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    outputs = [
        helper.make_tensor_value_info(f"{name}_out", tensor.data_type, tensor.dims)
        for name, tensor in zip(names, tensors, strict=True)
    ]
    source = helper.make_tensor_value_info("mixture", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "graph", [source], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    refer_to_checkpoint(model, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert (tmp_path / "model.onnx").stat().st_size < 2 * inline.nbytes
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    found = open_session(tmp_path / "model.onnx").estimate(np.zeros(1, "f4"))
    for name, value in names.items():
        assert np.array_equal(found[f"{name}_out"], value)
