"""Write the networks of Spleeter's models without weights, which ship in ``presets/graphs``.

    python scripts/export_graphs.py

A network is exported from Keras with random weights, and compared with it. Needs TensorFlow.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from spleeter_2.config.loading import UPSTREAM_PREFIX, embedded_models, load_configuration
from spleeter_2.config.schema import Configuration
from spleeter_2.runtime import model_file
from spleeter_2.runtime.export import export_graph
from spleeter_2.weights.bundle import write_bundle
from spleeter_2.weights.spleeter import tensor_names, variable_shapes


def write_random_weights(configuration: Configuration, folder: Path) -> None:
    """Write a checkpoint of Spleeter's with random weights of a model."""
    rng = np.random.default_rng(0)
    targets, filters = configuration.targets, configuration.model.filters
    shapes = variable_shapes(targets, filters, configuration.nb_channels)
    values = {
        name: _random(variable, shapes[variable], rng)
        for variable, name in tensor_names(targets).items()
    }
    write_bundle(values, folder / "model")
    (folder / "checkpoint").write_text('model_checkpoint_path: "model"\n')


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values with which activations have a similar size in all layers."""
    if len(shape) > 1:
        bound = np.sqrt(6 / np.prod(shape[:-1]))
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    centre = 1.0 if name.endswith(("gamma", "moving_variance")) else 0.0
    return (centre + 0.1 * rng.normal(size=shape)).astype(np.float32)


def main() -> None:
    """Write all graphs anew and delete those of former architectures."""
    written = set()
    for descriptor in embedded_models():
        if not descriptor.startswith(UPSTREAM_PREFIX):
            continue
        configuration = model_file.anonymous(load_configuration(descriptor))
        path = model_file.GRAPHS / f"{model_file.architecture(configuration)[:12]}.onnx"
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            write_random_weights(configuration, Path(name))
            content, difference = export_graph(replace(configuration, weights=Path(name)))
        path.write_bytes(content)
        written.add(path)
        print(f"{descriptor}: {path.name}, difference to Keras {difference:.1e}", flush=True)
    for path in set(model_file.GRAPHS.glob("*.onnx")) - written:
        path.unlink()


if __name__ == "__main__":
    main()
