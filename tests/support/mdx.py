"""Golden MDX-Nets, and small ONNX files of other kinds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SMALL_SET = ROOT / "tests/data/mdx"
WHOLE_SET = Path(os.environ.get("MDX_GOLDEN", ROOT.parent / "shared/mdx/golden"))
GOLDENS = ("mdx_a", "mdx_b")
WAVE, NETWORK = 3e-6, 1e-5  # limits: of full scale; of the largest value


def golden(name: str) -> Path:
    """A golden file, of the whole set or of the small one in the repository."""
    return next(folder / name for folder in (WHOLE_SET, SMALL_SET) if (folder / name).is_file())


def arrays(name: str) -> dict[str, np.ndarray]:
    """Inputs and outputs of the reference; the small set lacks some of them."""
    return {key: value for key, value in np.load(golden(f"{name}.npz")).items()}


def sizes(name: str) -> dict:
    """Sizes of a golden network."""
    return json.loads(str(arrays(name)["config_json"]))


def arguments(name: str) -> list:
    """Command line that converts a golden file, without ``-o``."""
    source, parameters = golden(f"{name}.onnx"), golden(f"{name}_model_data.json")
    return ["--from", "mdx", source, "--json", parameters, "--hop-length", sizes(name)["hop"]]


def network(nodes=None, shape=(1, 4, 128, 16), inputs=("input",), outputs=("output",), **options):
    """``onnx.ModelProto``, by default of an identity.

    Args:
        shape: of all inputs and outputs.
        options: ``opset``, ``kind`` of the elements, ``tensors``, ``domain`` to import.
    """
    from onnx import TensorProto, helper

    kind = options.get("kind", TensorProto.FLOAT)
    ends = [
        [helper.make_tensor_value_info(name, kind, shape) for name in names]
        for names in (inputs, outputs)
    ]
    nodes = nodes or [helper.make_node("Identity", ["input"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "graph", *ends, options.get("tensors", []))
    opsets = [helper.make_opsetid("", options.get("opset", 17))]
    if "domain" in options:
        opsets.append(helper.make_opsetid(options["domain"], 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def external(location: str, nb_values: int = 128):
    """A tensor float32 ``[1, 1, nb_values, 1]`` named ``factor`` in another file."""
    from onnx import TensorProto

    tensor = TensorProto(name="factor", data_type=TensorProto.FLOAT, dims=[1, 1, nb_values, 1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * nb_values))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor
