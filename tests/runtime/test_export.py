"""Exported networks compute what Keras does; what is wrong with one is found."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from support.common import AS_A_USER, files_below
from support.models import CUNET, UNET, noise, small, write_model

from spleeter_2.cli.main import entrypoint
from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import assign
from spleeter_2.runtime import export, model_file, onnx_graph
from spleeter_2.runtime.network import load_network
from spleeter_2.separation.separator import Separator
from spleeter_2.weights import checkpoint as weights

FC = {"type": "fc", "bn_factor": 4, "min_bn_units": 2}
CONVOLUTIONS = [
    {"type": "conv", "width": 4},
    {"type": "dilated", "width": 4, "dilations": [1, 3], "parallel": True},
    {"type": "grouped", "width": 4, "bands": 3},
]
LASAFT = {"type": "lasaft", "bn_factor": 4, "num_tdfs": 3, "dk": 4}
LIGHTSAFT = {"type": "lightsaft", "bn_factor": 4, "min_bn_units": 2, "num_tdfs": 3, "dk": 4}


def cunet(conditioning="gpocm", frequency=None, **options):
    conditioning = {**CUNET["conditioning"], "type": conditioning, "norm": conditioning != "film"}
    return {**CUNET, "conditioning": conditioning, "frequency": frequency, **options}


def levels(*blocks):
    return [{**block, "level": level} for level, block in enumerate(blocks, start=1)]


NETWORKS = {
    "mask": UNET,
    "mask of all bins, as they are": {**UNET, "nb_bins": 65, "level": None},
    "mean of shifts": {**UNET, "shift_average": True},
    "regression": {**UNET, "head": {"type": "regression"}, "frequency": levels(FC)},
    "convolutions": {**UNET, "frequency": levels(*CONVOLUTIONS)},
    "film": cunet("film", spectrogram="magnitude", estimate="masking"),
    "film_tdf": cunet("film", FC, spectrogram="magnitude"),
    "pocm": cunet("pocm", time_levels=[1]),
    "gpocm_lasaft": cunet("gpocm", {**LASAFT, "bn_factor": None, "bias": True}),
    "gpocm_lightsaft": cunet("gpocm", LIGHTSAFT),
    "gpocm_grouped": cunet("gpocm", CONVOLUTIONS[2]),
}


LONG = ("mask of all bins, as they are", "film_tdf", "pocm", "gpocm_lasaft")


def cases(*names):
    """Parameters, of which those in ``LONG`` are marked slow."""
    return [pytest.param(x, marks=[pytest.mark.slow] * (x in LONG)) for x in names]


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Compare estimates ``[..., F, C]``; a network's have the bins of its band only."""
    found = np.pad(
        found,
        [
            (0, e - f if axis == found.ndim - 2 else 0)
            for axis, (e, f) in enumerate(zip(expected.shape, found.shape, strict=True))
        ],
    )
    return np.abs(found - expected).max() <= export.TOLERANCE * np.abs(expected).max()


@pytest.fixture(scope="module")
def mask(tmp_path_factory) -> Path:
    """A model of two targets and a residual, with its ``model.onnx``."""
    folder = tmp_path_factory.mktemp("models") / "mask"
    load_network(write_model(small(UNET), folder))
    return folder


@pytest.fixture
def model(mask, tmp_path) -> Path:
    """A copy of ``mask``."""
    return shutil.copytree(mask, tmp_path / "model")


@pytest.fixture
def without(monkeypatch):
    """A function that hides an installed package."""
    find = importlib.util.find_spec

    def hide(package: str) -> None:
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: None if name == package else find(name, *rest),
        )

    return hide


@pytest.mark.parametrize("name", cases(*NETWORKS))
def test_parity_with_keras(name, tmp_path):
    """Of ONNX Runtime with the network as it is trained, for all instruments and for one."""
    configuration = write_model(small(NETWORKS[name]), tmp_path)
    keras = build_model(configuration)
    assign(keras, weights.read_checkpoint(tmp_path), tmp_path)
    mixture = noise(configuration)
    expected = keras(mixture, training=False)
    found = load_network(configuration).estimate(mixture[0])
    assert found.keys() == expected.keys()
    for target, estimate in expected.items():
        assert found[target].dtype == np.complex64
        assert close(found[target], estimate[0].numpy())
    one = load_network(configuration, ["drums"]).estimate(mixture[0])
    assert one.keys() == {"drums"} and np.array_equal(one["drums"], found["drums"])
    assert files_below(tmp_path).count("model.onnx") == 1


@pytest.mark.parametrize("name", cases("film", "gpocm_lightsaft"))
def test_only_the_wanted_instruments_are_computed(name, tmp_path):
    """The part of an instrument is in the graph once, in a loop over the indices that are given."""
    configuration = write_model(small(NETWORKS[name]), tmp_path)
    export.export_network(configuration, tmp_path / "whole.onnx", "onnx", choose=True)
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx")
    planes = np.random.default_rng(0).normal(size=session.get_inputs()[0].shape)
    feeds = {"mixture": planes.astype(np.float32)}
    vocals, drums = session.run(["vocals", "drums"], feeds)
    assert np.abs(vocals - drums).max() > 1e-3 * np.abs(drums).max()
    feeds[model_file.INSTRUMENTS] = np.array([1])
    silent, found = session.run(["vocals", "drums"], feeds)
    assert not silent.any() and np.array_equal(found, drums)
    kinds = [node.op_type for node in onnx.load(tmp_path / "whole.onnx").graph.node]
    assert kinds.count("Loop") == 1


@pytest.mark.parametrize("form", export.FILES)
def test_any_names_and_mono(form, tmp_path):
    """Outputs keep the names of their targets, whatever their order."""
    targets = ["lead-vocals", "Bass", "1.drums"]
    configuration = small(UNET, targets=targets, residual=None, nb_channels=1)
    exported = export.export_network(
        write_model(configuration, tmp_path), tmp_path / "network", form
    )
    assert exported.targets == tuple(targets) and exported.shape == (1, 32, 60, 2)
    assert exported.difference <= export.TOLERANCE


@pytest.mark.parametrize("form", ["saved_model", "litert"])
@pytest.mark.parametrize("name", cases("regression", "gpocm_lasaft", "film_tdf"))
def test_other_formats(name, form, tmp_path):
    """Each is compared with Keras when it is written; LiteRT needs no operations of TensorFlow."""
    configuration = write_model(small(NETWORKS[name]), tmp_path)
    exported = export.export_network(configuration, tmp_path / "network", form)
    assert exported.targets == configuration.targets
    assert exported.difference <= export.TOLERANCE
    if form == "saved_model":
        function = tf.saved_model.load(str(tmp_path / "network")).estimate.get_concrete_function()
        assert not any(op.device for op in function.graph.get_operations())
    else:
        interpreter = tf.lite.Interpreter(str(tmp_path / "network"))
        names = {operation["op_name"] for operation in interpreter._get_ops_details()}
        assert not [name for name in names if name.startswith(("Flex", "CUSTOM"))]


def test_a_difference_is_an_error(mask, tmp_path, monkeypatch):
    """And its number is printed; the inputs are neither silent nor equal."""
    configuration = load_configuration(mask)
    one, other = export._inputs(configuration, (1, 32, 65, 4))
    assert np.abs(one).max() > 0.1 and np.abs(other).max() > 0.1 and not close(one, other)
    with pytest.raises(SeparationError, match="differs from Keras' by 1.0e-03 of the largest"):
        export._compare([{"a": one}, {"a": other}], lambda x: {"a": 1.001 * x}, [one, other])
    with pytest.raises(SeparationError, match="differs from Keras' by nan"):
        export._compare([{"a": one}], lambda x: {"a": x * np.nan}, [one])
    assert export._compare([{"a": 0 * one}], lambda x: {"a": 0 * x}, [one]) == 0
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(SeparationError, match="differs from Keras"):
        export.export_network(configuration, tmp_path / "model.onnx", "onnx")


def test_kernels_of_16_bits_are_stored_as_such(mask, tmp_path):
    configuration = load_configuration(mask)
    arrays = weights.read_checkpoint(mask)
    shutil.copy(mask / "config.json", tmp_path)
    weights.write_checkpoint(weights.half_precision(arrays), tmp_path)
    sizes = []
    for folder in (mask, tmp_path):
        export.export_network(load_configuration(folder), tmp_path / "whole.onnx", "onnx")
        sizes.append((tmp_path / "whole.onnx").stat().st_size)
    large = [array.nbytes for array in arrays.values() if array.size >= onnx_graph.MIN_HALVED]
    assert len(large) > 2 and abs(sizes[0] - sizes[1] - sum(large) / 2) < 1000
    mixture = noise(configuration)[0]
    whole, half = (load_network(load_configuration(f)).estimate(mixture) for f in (mask, tmp_path))
    assert np.abs(whole["vocals"] - half["vocals"]).max() < 1e-2 * np.abs(whole["vocals"]).max()


# === model.onnx in a model folder ===


def rewrite(path: Path, change) -> None:
    graph = onnx.load(path)
    change(graph)
    path.write_bytes(graph.SerializeToString())


def other_input(graph):
    for node in graph.graph.node:
        node.input[:] = ["x" if name == "mixture" else name for name in node.input]
    graph.graph.input[0].name = "x"


def no_metadata(graph):
    del graph.metadata_props[:]


def no_drums(graph):
    del graph.graph.output[[output.name for output in graph.graph.output].index("drums")]


def odd_window(graph):
    for item in graph.metadata_props:
        item.value = "AAA=" if item.key == "stft_window" else item.value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(b"rubbish"), "cannot load the network"),
        (lambda path: path.write_bytes(b""), "cannot load the network"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot load the network"),
        (lambda path: rewrite(path, other_input), "is no network that spleeter-2 has exported"),
        (lambda path: rewrite(path, no_metadata), "is no network that spleeter-2 has exported"),
        (lambda path: rewrite(path, no_drums), "is no network that spleeter-2 has exported"),
        (lambda path: rewrite(path, odd_window), "the metadata of .* are damaged"),
    ],
    ids=["rubbish", "empty", "cut", "input", "metadata", "output", "window"],
)
def test_a_corrupt_or_foreign_file_is_refused_and_kept(model, change, words):
    change(model / "model.onnx")
    before = (model / "model.onnx").read_bytes()
    with pytest.raises(SeparationError, match=rf"{words}.*: delete it, and it is exported again"):
        Separator(model).load()
    assert (model / "model.onnx").read_bytes() == before


def test_a_file_of_the_current_checkpoint_is_used_as_it_is(model, caplog, without):
    without("tensorflow")
    before = (model / "model.onnx").stat()
    with caplog.at_level("INFO"):
        Separator(model).load()
    after = (model / "model.onnx").stat()
    assert not caplog.messages and (after.st_ino, after.st_mtime) == (
        before.st_ino,
        before.st_mtime,
    )


def changed_weights(folder: Path) -> None:
    arrays = weights.read_checkpoint(folder)
    weights.write_checkpoint({name: 1.1 * value for name, value in arrays.items()}, folder)


def changed_architecture(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    assert '"level": 0.15' in text
    (folder / "config.json").write_text(text.replace('"level": 0.15', '"level": 0.3'))


@pytest.mark.parametrize(
    "change, words",
    [
        (changed_weights, "model.onnx was exported from another checkpoint"),
        (changed_architecture, ".onnx is missing"),  # as for a configuration with this base
    ],
)
def test_a_stale_file_is_exported_again_with_a_note(model, change, words, caplog):
    configuration = load_configuration(model)
    mixture = noise(configuration)[0]
    before = load_network(configuration).estimate(mixture)["vocals"]
    change(model)
    configuration = load_configuration(model)
    with caplog.at_level("INFO"):
        found = load_network(configuration).estimate(mixture)["vocals"]
    (note,) = caplog.messages
    assert f"{words}: the network has been exported" in note
    keras = build_model(configuration)
    assign(keras, weights.read_checkpoint(model), model)
    expected = keras(mixture[np.newaxis], training=False)["vocals"][0].numpy()
    assert close(found, expected) and not close(before, expected)
    caplog.clear()
    load_network(configuration)
    assert not caplog.messages


def test_a_base_keeps_its_network(model, tmp_path, caplog):
    """A configuration that changes the architecture of its base has a file of its own."""
    before = (model / "model.onnx").read_bytes()
    other = {"spleeter_2": 1, "base": str(model), "model": {"level": 0.3}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with caplog.at_level("INFO"):
        for _ in range(2):
            load_network(load_configuration(str(tmp_path / "other.json")))
            load_network(load_configuration(model))
    assert len(caplog.messages) == 1
    assert (model / "model.onnx").read_bytes() == before
    assert len(list(model.glob("model-*.onnx"))) == 1


@pytest.mark.parametrize("fault", ["is missing", "was exported from another checkpoint"])
def test_without_tensorflow_the_command_that_installs_it_is_named(model, fault, without):
    if fault == "is missing":
        (model / "model.onnx").unlink()
    else:
        changed_weights(model)
    before = files_below(model)
    without("tensorflow")
    words = rf'model\.onnx {fault}: .*pip install "spleeter-2\[train\]"'
    with pytest.raises(SeparationError, match=words):
        Separator(model).load()
    assert files_below(model) == before


PROGRAM = """
import sys, numpy as np
from spleeter_2 import Separator
from spleeter_2.console import configure_logging
configure_logging()
print(np.abs(Separator(sys.argv[1]).separate(np.ones((2000, 2)))["vocals"]).max() > 0)
"""


def test_a_folder_that_cannot_be_written_costs_a_note_and_time(model):
    (model / "model.onnx").unlink()
    for path in (model, model.parent):
        path.chmod(0o755)
    model.chmod(0o555)
    before = files_below(model)
    command = [*AS_A_USER, sys.executable, "-c", PROGRAM, model]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "True\n", done.stderr
    assert "Permission denied: the network will be exported again" in done.stderr
    assert done.stderr.count("\n") == 1
    model.chmod(0o755)
    assert files_below(model) == before


# === spleeter export ===


@pytest.fixture
def exporting(program, mask):
    """The command with the model ``mask``: ``exporting(*arguments) -> (status, messages)``."""
    return lambda *arguments: program(entrypoint, "export", "-p", mask, *arguments)


@pytest.mark.parametrize("form", export.FILES)
def test_the_description(exporting, mask, tmp_path, form):
    status, messages = exporting("-o", tmp_path / "a" / "b", "--format", form)
    assert status == 0, messages
    file = export.FILES[form]
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {file, "network.json"}
    facts = json.loads((tmp_path / "a" / "b" / "network.json").read_text())
    difference = facts.pop("difference")
    assert 0 <= difference <= export.TOLERANCE
    (line,) = messages.splitlines()
    assert line == (
        f"wrote {tmp_path}/a/b/{file}: it differs from Keras by {difference:.1e} of the largest "
        "estimate"
    )
    assert len(facts.pop("digest")) == 65 and facts.pop("made_by").startswith("spleeter-2 ")
    shape = [1, 32, 60, 4]
    assert facts == {
        "format": form,
        "file": file,
        "model": "small",
        "sample_rate": 8000,
        "nb_channels": 2,
        "stft": {
            "frame_length": 128, "frame_step": 32, "centred": True, "window": "periodic hann"
        },
        "windows": {
            "nb_frames": 32, "length": 992, "trim": 64, "step": 648, "overlap": 0.25,
            "join": "equal", "fade": 0, "lead": 0, "tail": 0,
        },
        "targets": ["vocals", "drums"],
        "residual": "other",
        "ratio_mask": None,
        "extension": "zeros",
        "input": {"name": "mixture", "shape": shape},
        "outputs": [{"name": "vocals", "shape": shape}, {"name": "drums", "shape": shape}],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_spleeters_own_model(program, tmp_path, monkeypatch, form):
    """``spleeter export -p spleeter:2stems``: both networks, though one instrument is asked for."""
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "models"))  # the weights are those that ship
    command = ["export", "-p", "spleeter:2stems", "-o", tmp_path / "x", "--format", form]
    status, messages = program(entrypoint, *command, "--stems", "vocals")
    assert status == 0, messages
    facts = json.loads((tmp_path / "x" / "network.json").read_text())
    assert facts["model"] == "2stems" and facts["targets"] == ["vocals", "accompaniment"]
    assert facts["ratio_mask"] == {"exponent": 2, "extension": "zeros"}
    assert facts["stft"]["centred"] is False
    windows = facts["windows"]
    assert windows["join"] == "frames" and windows["lead"] == 4096 and windows["tail"] == 3072
    assert windows["step"] == 512 * 1024 and windows["fade"] == 0


@pytest.mark.parametrize(
    ("stems", "targets", "residual"),
    [("drums", ["drums"], None), ("other", ["vocals", "drums"], "other")],
)
def test_stems_limit_the_targets(exporting, tmp_path, stems, targets, residual):
    assert exporting("-o", tmp_path / "x", "--stems", stems)[0] == 0
    facts = json.loads((tmp_path / "x" / "network.json").read_text())
    assert facts["targets"] == targets and facts["residual"] == residual
    graph = onnx.load(tmp_path / "x" / "model.onnx").graph
    assert {output.name for output in graph.output} == set(targets)
    assert [item.name for item in graph.input] == ["mixture"]
    assert not any(tensor.external_data for tensor in graph.initializer)


def test_an_earlier_export_is_replaced(exporting, tmp_path):
    for stems in ("vocals", "drums"):
        assert exporting("-o", tmp_path / "x", "--stems", stems)[0] == 0
    assert json.loads((tmp_path / "x" / "network.json").read_text())["targets"] == ["drums"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"notes.txt": ""}, r"holds other files \(notes.txt\)"),
        ({"model.onnx": ""}, r"holds other files \(model.onnx\)"),
        ({"network.json": '{"model": "small"}', "model.tflite": ""}, r"files \(model.tflite\)"),
        ({"network.json": '{"model": "big"}', "model.onnx": ""}, "holds another model"),
        ({"network.json": "{", "model.onnx": ""}, "cannot read the description"),
    ],
    ids=["notes", "no description", "format", "model", "damaged"],
)
def test_a_foreign_folder_is_refused(exporting, tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    status, messages = exporting("-o", tmp_path)
    assert status == 1 and len(messages.splitlines()) == 1
    assert re.search(words, messages), messages
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_model_folder_is_refused(exporting, mask):
    before = files_below(mask)
    status, messages = exporting("-o", mask)
    assert status == 1 and "holds other files (checkpoint), which would be lost" in messages
    assert files_below(mask) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stems", "bass"], "small separates vocals, drums, other; not bass"),
        (["--stems", ""], "not an empty list"),
        (["-p", "spleeter_2:lasaft"], "has no weights: train it, or convert a checkpoint into it"),
        (["-p", "nowhere"], "there is no configuration nowhere"),
        (["-o", "file/x"], "cannot write file/x: Not a directory"),
        (["-o", "file"], "cannot write file: a file has this name"),
    ],
)
def test_refused_with_one_sentence(exporting, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    status, messages = exporting("-o", "x", *arguments)
    assert status == 1 and words in messages and len(messages.splitlines()) == 1, messages
    assert files_below(tmp_path) == ["file"]


@pytest.mark.parametrize("arguments", [["--format", "coreml", "-o", "x"], []])
def test_wrong_usage(exporting, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert exporting(*arguments)[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["tensorflow", "tf2onnx", "onnx"])
def test_what_exporting_needs(exporting, tmp_path, without, package):
    without(package)
    status, messages = exporting("-o", tmp_path / "x")
    assert status == 1 and len(messages.splitlines()) == 1
    assert f'exporting a network needs {package}: pip install "spleeter-2[train]"' in messages
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", export.FILES)
def test_a_disk_that_fills_up_leaves_nothing(exporting, tmp_path, file_size_limit, form):
    file_size_limit(20_000)
    status, messages = exporting("-o", tmp_path / "x", "--format", form)
    assert status == 1 and f"cannot write {tmp_path}/x: File too large" in messages, messages
    assert list(tmp_path.iterdir()) == []
