"""``python -m weight_converter --from mdx``: MDX-Net's ONNX files."""

import hashlib
import json
import os
import shlex

import numpy as np
import pytest
from support import mdx
from support.common import files_below

from spleeter_2 import SeparationError, Separator
from spleeter_2.cli.main import entrypoint
from spleeter_2.config.loading import load_configuration
from spleeter_2.runtime import mdx as runtime
from spleeter_2.runtime.network import start_session
from spleeter_2.weights.bundle import encode_field
from spleeter_2.weights.table import encode_varint
from weight_converter import mdx as converter

WRITTEN = ["config.json", "model.onnx", "model_card.md"]
DOCUMENTATION = 6  # number of the field ``doc_string`` of an ONNX model
PARAMETERS = ["--n-fft", 384, "--hop-length", 64, "--stem", "Vocals"]  # of mdx_b's sizes


@pytest.fixture
def made(tmp_path):
    """Write an ONNX model: ``made(model, name="net.onnx") -> path``."""

    def write(model, name="net.onnx"):
        (tmp_path / name).write_bytes(model.SerializeToString())
        return tmp_path / name

    return write


@pytest.fixture
def refused(convert, tmp_path):
    """Status 1, nothing written: ``refused(*arguments) -> the sentence``, the last line."""

    def run(*arguments):
        before = files_below(tmp_path)
        status, said = convert("--from", "mdx", *arguments, "-o", tmp_path / "out")
        assert status == 1 and said.count("error: ") == 1, said
        assert files_below(tmp_path) == before
        return said.splitlines()[-1]

    return run


@pytest.mark.parametrize("name", mdx.GOLDENS)
def test_goldens(convert, tmp_path, name):
    out, report = tmp_path / "model", tmp_path / "report.json"
    expected = ["--expected", mdx.golden(f"{name}.npz"), "--report", report]
    status, said = convert(*mdx.arguments(name), "-o", out, *expected)
    assert status == 0, said
    assert files_below(out) == WRITTEN
    original = mdx.golden(f"{name}.onnx").read_bytes()
    assert (out / "model.onnx").read_bytes() == original
    found = json.loads(report.read_text())["differences"]
    arrays = mdx.arrays(name)
    wanted = {output for output, source in converter.EXPECTED.items() if output in arrays}
    assert {each["output"] for each in found} == wanted
    for each in found:
        is_network = each["output"] in ("net_out", "chunk_spec", "chunk_spec_out")
        key, limit = ("relative", mdx.NETWORK) if is_network else ("absolute", mdx.WAVE)
        assert each[key] < limit, each
    source = load_configuration(str(out)).source
    assert source.sha256 == hashlib.sha256(original).hexdigest()
    assert source.sha256 in (out / "model_card.md").read_text()
    facts = json.loads(report.read_text())
    assert (
        f"{facts['numbers']:,} in {len(facts['tensors'])} arrays"
        in (out / "model_card.md").read_text()
    )
    assert facts["numbers"] > 10000


def test_the_configuration(convert, tmp_path):
    assert convert(*mdx.arguments("mdx_b"), "-o", tmp_path / "b")[0] == 0
    found = load_configuration(str(tmp_path / "b"))
    assert (found.targets, found.residual) == (("accompaniment",), "vocals")
    assert (found.stft.frame_length, found.stft.frame_step) == (384, 64)
    assert (found.model.nb_bins, found.segment.nb_frames) == (128, 16)
    assert (found.model.compensate, found.model.stride) == (1.021, 2)
    assert (found.segment.join, found.segment.overlap, found.sample_rate) == ("hann", None, 44100)


def test_options_in_place_of_a_table(convert, refused, tmp_path):
    source = mdx.golden("mdx_b.onnx")
    said = refused(source, "--n-fft", 384)
    assert "not one of the published files" in said and "2838e57f6c0f499906249c124e017629" in said
    assert "--json" in said and "--n-fft and --stem" in said
    status, said = convert("--from", "mdx", source, *PARAMETERS[:4], "--stem", "Drums",
                           "-o", tmp_path / "out")  # fmt: skip
    assert status == 0 and "no factor of compensation is known" in said
    found = load_configuration(str(tmp_path / "out"))
    assert found.instruments == ("drums", "no_drums") and found.model.compensate == 1
    changed = [*mdx.arguments("mdx_b"), "--stem", "Lead Vocals", "--compensate", 1.5]
    assert convert(*changed, "-o", tmp_path / "out", "--force")[0] == 0
    found = load_configuration(str(tmp_path / "out"))
    assert found.targets == ("lead_vocals",) and found.model.compensate == 1.5


def test_published_files_are_recognised_by_their_end(convert, tmp_path, monkeypatch):
    """By the hash of the last 10,240,000 bytes, whatever comes before."""
    source = tmp_path / "UVR MDX.onnx"
    padding = encode_field(DOCUMENTATION, b"a" * 10_300_000)
    source.write_bytes(mdx.golden("mdx_b.onnx").read_bytes() + padding)
    digest = hashlib.md5(b"a" * 10_240_000).hexdigest()
    known = converter.KNOWN.read_text() + f"{digest}\t128\t4\t384\t1.021\tInstrumental\t1\n"
    (tmp_path / "known.tsv").write_text(known)
    monkeypatch.setattr(converter, "KNOWN", tmp_path / "known.tsv")
    monkeypatch.setattr(converter, "HOP", 64)
    status, said = convert("--from", "mdx", source, "--hop-length", 64, "-o", tmp_path / "out")
    assert status == 0, said
    assert "a published file" in said and "karaoke" in said
    found = load_configuration(str(tmp_path / "out"))
    assert found.name == "UVR_MDX" and found.model.compensate == 1.021


def test_the_table_of_published_files():
    known = converter.known_models()
    assert len(known) == 42
    sizes = [(row["dim_f"], row["log2_dim_t"], row["n_fft"]) for row in known.values()]
    assert sizes.count(("3072", "8", "7680")) == 17
    assert known["cb790d0c913647ced70fc6b38f5bea1a"]["n_fft"] == "5120"
    for digest, row in known.items():
        assert len(digest) == 32 and int(row["n_fft"]) // 2 >= int(row["dim_f"]), digest
        assert 1 <= float(row["compensate"]) <= 1.75 and row["primary_stem"].istitle()


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({}, "has no parameters for"),
        ({"0" * 32: {"mdx_n_fft_scale_set": 384}}, "2838e57f6c0f499906249c124e017629"),
        ({"config_yaml": "model.yaml"}, "MDX23C"),
        ({"mdx_n_fft_scale_set": "384"}, "mdx_n_fft_scale_set in"),
        ({"mdx_n_fft_scale_set": 384, "primary_stem": 3}, "primary_stem in"),
        ({"mdx_n_fft_scale_set": 384, "compensate": float("nan")}, "compensate in"),
        ({"mdx_n_fft_scale_set": 384, "primary_stem": "x", "is_karaoke": 1}, "is_karaoke in"),
        ({"mdx_n_fft_scale_set": 384, "mdx_dim_f_set": 120}, "128 bins, its parameters are those"),
        ({"mdx_n_fft_scale_set": 384, "mdx_dim_t_set": 5}, "16 frames, its parameters are those"),
        ({"mdx_n_fft_scale_set": 252, "primary_stem": "x"}, "has not the 128 bins"),
        ({"mdx_n_fft_scale_set": 385, "primary_stem": "x"}, "has not the 128 bins"),
        ({"mdx_n_fft_scale_set": 384, "primary_stem": ""}, "must be made of letters"),
        ({"mdx_n_fft_scale_set": 384}, "not one of the published files"),
    ],
)
def test_parameters_that_do_not_fit(refused, tmp_path, parameters, words):
    (tmp_path / "p.json").write_text(json.dumps(parameters))
    said = refused(mdx.golden("mdx_b.onnx"), "--json", tmp_path / "p.json", "--hop-length", 64)
    assert words in said


def test_parameters_of_one_file(convert, tmp_path):
    """UVR also keeps an entry in a file of its own."""
    entry = json.loads(mdx.golden("mdx_b_model_data.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps(*entry.values()))
    source = ["--from", "mdx", mdx.golden("mdx_b.onnx"), "--json", tmp_path / "p.json"]
    assert convert(*source, "--hop-length", 64, "-o", tmp_path / "out")[0] == 0
    assert load_configuration(str(tmp_path / "out")).model.compensate == 1.021


def test_other_refusals(refused, convert, tmp_path):
    source = mdx.golden("mdx_b.onnx")
    assert "does not exist" in refused(tmp_path / "none.onnx")
    assert "--half has no effect with --from mdx" in refused(source, "--half")
    assert "--seed has no effect" in refused(source, "--seed", 1)
    assert "cannot read the parameters" in refused(source, "--json", tmp_path / "none.json")
    assert "at most half of frame_length" in refused(source, "--n-fft", 384, "--stem", "x")
    assert "--n-fft must be" in refused(source, "--n-fft", -1)
    assert "damaged, or no ONNX file" in refused(mdx.golden("mdx_b.npz"))
    assert "cannot read" in refused(tmp_path)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    expected = [*mdx.arguments("mdx_b")[2:], "--expected"]
    assert "no expected outputs" in refused(*expected, tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", net_in=np.zeros((1, 4, 128, 16), "f4"), net_out=np.zeros(3))
    assert "of another network" in refused(*expected, tmp_path / "other.npz")
    status, said = convert(source, "--json", source, "-o", tmp_path / "out")
    assert status == 1 and "--json has no effect with --from lasaft" in said


def test_outputs_that_differ_are_not_written(convert, tmp_path):
    arrays = mdx.arrays("mdx_b")
    np.savez(tmp_path / "other.npz", net_in=arrays["net_in"], net_out=arrays["net_out"] * 1.001)
    expected = ["--expected", tmp_path / "other.npz"]
    status, said = convert(*mdx.arguments("mdx_b"), "-o", tmp_path / "out", *expected)
    assert status == 1 and "net_out differs" in said
    status, said = convert(*mdx.arguments("mdx_b"), "--dry-run", "-o", tmp_path / "out")
    assert status == 0 and "nothing is written" in said
    assert os.listdir(tmp_path) == ["other.npz"]


def test_other_contracts(refused, made):
    pytest.importorskip("onnx")
    from onnx import TensorProto

    for model, words in (
        (mdx.network(shape=(1, 2, 128, 16)), "of [1, 2, 128, 16], not a tensor(float) of [1, 4"),
        (mdx.network(shape=(2, 4, 128, 16)), "[2, 4, 128, 16]"),
        (mdx.network(shape=(4, 128, 16)), "[4, 128, 16]"),
        (mdx.network(kind=TensorProto.FLOAT16), "tensor(float16)"),
        (mdx.network(inputs=("input", "other")), "2 inputs and 1 outputs"),
        (mdx.network(outputs=("output", "other")), "1 inputs and 2 outputs"),
        (mdx.network(shape=(1, 4, "f", "t")), "takes any number of bins"),
        (mdx.network(opset=6), "version 6 of ONNX's operators, older than 7"),
    ):
        assert words in refused(made(model), *PARAMETERS)


def test_axes_of_any_size(refused, convert, made, tmp_path):
    pytest.importorskip("onnx")
    model = mdx.network(shape=("n", 4, "f", "t"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = made(model)
    assert "give it with --frames" in refused(path, *PARAMETERS, "--bins", 100)
    assert "--bins must be" in refused(path, *PARAMETERS, "--bins", 0)
    sizes = ["--bins", 100, "--frames", 24, "-o", tmp_path / "free"]
    status, said = convert("--from", "mdx", path, *PARAMETERS, *sizes)
    assert status == 0, said
    found = load_configuration(str(tmp_path / "free"))
    assert (found.model.nb_bins, found.segment.nb_frames) == (100, 24)
    said = refused(mdx.golden("mdx_b.onnx"), *PARAMETERS, "--bins", 100)
    assert "a network of 128 bins, its parameters are those of one of 100" in said


def test_parts_of_a_file_are_merged(refused, tmp_path):
    """As a protocol buffer's are: an operator in a second graph is one of the model's."""
    pytest.importorskip("onnx")
    from onnx import helper

    node = helper.make_node("Gelu", ["input"], ["other"], domain="com.microsoft")
    hidden = encode_field(7, encode_field(1, node.SerializeToString()))
    path = tmp_path / "net.onnx"
    path.write_bytes(mdx.golden("mdx_b.onnx").read_bytes() + hidden)
    assert "'Gelu' of 'com.microsoft'" in refused(path, *PARAMETERS)
    long_tag = encode_varint(1 << 32 | 7 << 3 | 2)  # the same field to who reads 32 bits
    path.write_bytes(mdx.golden("mdx_b.onnx").read_bytes() + long_tag + hidden[1:])
    assert "is damaged" in refused(path, *PARAMETERS)


def test_another_shape_comes_out(refused, made):
    """Axes without numbers in the file, which only a run shows."""
    pytest.importorskip("onnx")
    from onnx import helper

    pad = helper.make_node("Concat", ["input", "input"], ["output"], axis=3)
    model = mdx.network([pad])
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_param = "t"
    said = refused(made(model), *PARAMETERS)
    assert "of [1, 4, 128, 16] it makes [1, 4, 128, 32]" in said


def test_operators_that_are_not_onnxs(refused, made):
    pytest.importorskip("onnx")
    from onnx import helper

    node = helper.make_node("FusedMatMul", ["input", "input"], ["output"], domain="com.microsoft")
    said = refused(made(mdx.network([node], domain="com.microsoft")), *PARAMETERS)
    assert "'FusedMatMul' of 'com.microsoft'" in said
    node = helper.make_node("NoSuchOperator", ["input"], ["output"])
    assert "cannot load the network" in refused(made(mdx.network([node])), *PARAMETERS)
    function = helper.make_function("own", "Mine", ["x"], ["y"], [helper.make_node(
        "Identity", ["x"], ["y"])], [helper.make_opsetid("", 17)])  # fmt: skip
    model = mdx.network([helper.make_node("Mine", ["input"], ["output"], domain="own")])
    model.functions.append(function)
    assert "operators of its own" in refused(made(model), *PARAMETERS)


def test_graphs_inside_operators(refused, made):
    """A loop may not end."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]),
         helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []),
         helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["", "", "input"], ["output"], body=body)
    assert "'Loop' with a graph of its own" in refused(made(mdx.network([loop])), *PARAMETERS)


def scaled(location):
    """A network that multiplies by 128 numbers in another file."""
    from onnx import helper

    node = helper.make_node("Mul", ["input", "factor"], ["output"])
    return mdx.network([node], tensors=[mdx.external(location)])


def test_tensors_in_other_folders(refused, made, tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "net.data").write_bytes(bytes(512))
    (tmp_path / "below").mkdir()
    (tmp_path / "below/net.data").write_bytes(bytes(512))
    os.symlink("/etc/passwd", tmp_path / "link.data")
    for location, words in (
        ("../net.data", "which is not in its folder"),
        (str(tmp_path / "net.data"), "which is not in its folder"),
        ("below/net.data", "which is not in its folder"),
        ("./net.data", "which is not in its folder"),
        ("..", "which is not in its folder"),
        ("link.data", "which is not there"),
        ("none.data", "which is not there"),
        ("config.json", "which is not there"),
    ):
        assert words in refused(made(scaled(location)), *PARAMETERS), location
    (tmp_path / "config.json").write_bytes(bytes(512))
    assert "named config.json" in refused(made(scaled("config.json")), *PARAMETERS)


def test_tensors_in_a_file_beside_it(made, convert, tmp_path):
    """It is copied with the file, and replaced with it."""
    pytest.importorskip("onnx")
    (tmp_path / "net.data").write_bytes(np.full(128, 0.5, "<f4").tobytes())
    command = ["--from", "mdx", made(scaled("net.data")), *PARAMETERS, "-o", tmp_path / "out"]
    for more in ([], ["--force"]):
        status, said = convert(*command, *more)
        assert status == 0, said
    assert files_below(tmp_path / "out") == sorted([*WRITTEN, "net.data"])
    noise = np.random.default_rng(0).normal(0, 0.1, (3000, 2)).astype("f4")
    vocals = Separator(str(tmp_path / "out")).separate(noise)["vocals"]
    assert 0.02 < np.abs(vocals).max() < np.abs(noise).max()
    (tmp_path / "out/notes.txt").touch()
    status, said = convert(*command, "--force")
    assert status == 1 and "notes.txt" in said


def test_an_old_file(convert, tmp_path):
    """Exporters of older versions list weights among the inputs of a graph."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(mdx.golden("mdx_b.onnx"))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.insert(0, info)
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    command = ["--from", "mdx", tmp_path / "old.onnx", *PARAMETERS, "-o", tmp_path / "out"]
    arrays = mdx.arrays("mdx_b")
    np.savez(tmp_path / "net.npz", net_in=arrays["net_in"], net_out=arrays["net_out"])
    status, said = convert(*command, "--expected", tmp_path / "net.npz")
    assert status == 0 and "net_out: largest difference" in said, said


def test_damaged_files_are_refused(tmp_path):
    """Cut off or changed anywhere: an error of ours, or a network that can be run."""
    content = mdx.golden("mdx_b.onnx").read_bytes()
    path, planes = tmp_path / "net.onnx", np.zeros((1, 4, 128, 16), "f4")
    rng = np.random.default_rng(0)
    refusals = 0
    for number in range(150):
        changed = bytearray(content)
        if number < 50:
            del changed[rng.integers(len(content)) :]
        else:
            for place in rng.integers(len(content), size=3):
                changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            session = start_session(runtime.checked(path), advice="fetch it again")
            runtime.check_contract(path, session)
            runtime.run(path, session, planes)
        except SeparationError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals >= 60


def test_the_file_itself_is_no_model(convert, program, tmp_path):
    """The command in the message converts it."""
    path = tmp_path / "a net.onnx"
    path.write_bytes(mdx.golden("mdx_b.onnx").read_bytes())
    status, said = program(entrypoint, "separate", "-p", path, "song.wav")
    assert status == 1 and len(said.splitlines()) == 1
    command = said.partition("python -m weight_converter ")[2].partition(", then give")[0]
    assert convert(*shlex.split(command), *PARAMETERS)[0] == 0
    assert files_below(tmp_path / "a net") == WRITTEN
    status, said = program(entrypoint, "separate", "-p", tmp_path / "a net/model.onnx", "song.wav")
    assert status == 1 and f"-p {shlex.quote(str(tmp_path / 'a net'))}" in said


def test_what_needs_a_checkpoint_is_refused(convert, program, tmp_path):
    model = tmp_path / "model"
    assert convert(*mdx.arguments("mdx_b"), "-o", model)[0] == 0
    (tmp_path / "songs").mkdir()
    own = {"spleeter_2": 1, "base": "spleeter_2:mask", "training": {"start": "model"}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    for arguments in (
        ["train", "-p", model, "-d", tmp_path / "songs"],
        ["export", "-p", model, "-o", tmp_path / "exported"],
    ):
        status, said = program(entrypoint, *arguments)
        assert status == 1 and "cannot be trained or exported" in said, said
        assert len(said.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["model", "own.json", "songs"]
