"""RoFormers of PyTorch: golden files, containers, options, and what is refused."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import files_below
from support.roformer import golden

from spleeter_2.config.loading import WINDOW, parse_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import named_variables
from spleeter_2.separation.separator import Separator
from weight_converter import roformer
from weight_converter.__main__ import _judge
from weight_converter.mapping import source_shape
from weight_converter.roformer_options import Options, published, read_options
from weight_converter.roformer_sizes import sizes_of
from weight_converter.verify import difference

BS, MEL = "v_half", "mel_b_vocals"  # in the repository
WEIGHTS = {BS: "v_half.ckpt", MEL: "mel_b_vocals.safetensors"}
WRITTEN = [
    "checkpoint", "checkpoint.data-00000-of-00001", "checkpoint.index", "config.json",
    "model.onnx", "model_card.md",
]  # fmt: skip
FURTHER = {  # golden npz: checkpoint, YAML file
    "bs_t": ("bs_t.ckpt", "bs_t.yaml"),
    "bs_a": ("bs_a.ckpt", "bs_a.yaml"),
    "bs_b": ("bs_b.ckpt", "bs_b.yaml"),
    "mel_a": ("mel_a.ckpt", "mel_a.yaml"),
    "v_mel_a_kim_keeps_dc": ("mel_a.ckpt", "mel_a.yaml"),
    "mel_b": ("mel_b.ckpt", "mel_b.yaml"),
    "mel_60": ("mel_60.ckpt", "mel_60.yaml"),
}


def arrays_of(name: str) -> dict[str, np.ndarray]:
    return roformer.read_weights(golden(WEIGHTS[name])).arrays


def options_of(name: str) -> Options:
    return read_options(golden(f"{name}.yaml"))


def convert_golden(convert, npz, checkpoint, yaml, out, *more):
    arguments = ["--from", "roformer", golden(checkpoint), "--config", golden(yaml), "-o", out]
    return convert(*arguments, "--expected", golden(f"{npz}.npz"), *more)


@pytest.mark.parametrize("name", [BS, MEL])
def test_a_checkpoint_becomes_a_model(convert, tmp_path, name):
    """Equal to PyTorch within the limits, in Keras and in ONNX Runtime."""
    report = tmp_path / "report.json"
    out = tmp_path / "made"
    status, said = convert_golden(
        convert, name, WEIGHTS[name], f"{name}.yaml", out, "--report", report
    )
    assert status == 0, said
    assert files_below(out) == WRITTEN
    told = {row["output"]: row for row in json.loads(report.read_text())["differences"]}
    assert {"wave_out", "wave_out of ONNX Runtime"} <= told.keys()
    assert all(0 < row["absolute"] <= row["limit"] <= 2e-4 for row in told.values())
    assert told["wave_out"]["limit"] == (5e-6 if name == MEL else 1e-6)
    if name == MEL:
        assert {"after_linear0", "final_features"} <= told.keys()
    separator = Separator(out)
    assert separator.stems == ("vocals", "accompaniment")
    song = np.random.default_rng(0).normal(0, 0.1, (5000, 2)).astype(np.float32)
    np.testing.assert_allclose(sum(separator.separate(song).values()), song, atol=1e-5)
    assert "licence" in (out / "model_card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
def test_further_golden_files(convert, tmp_path, name):
    more = ["--keep-dc"] if "keeps_dc" in name else []
    status, said = convert_golden(convert, name, *FURTHER[name], tmp_path / "made", *more)
    assert status == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["track_bs_a", "track_mel_b", "track_mel_a_kim"])
def test_whole_tracks(convert, tmp_path, name):
    """MSST's and Kim's joins of windows, at batch size 1."""
    track = np.load(golden(f"{name}.npz"))
    source = golden(f"{track['weights']}.ckpt")
    yaml = ["--config", source.with_suffix(".yaml")]
    assert convert("--from", "roformer", source, *yaml, "-o", tmp_path / "made")[0] == 0
    for facts in json.loads(str(track["meta_json"])):
        if facts["batch_size"] > 1:
            continue
        separator = Separator(tmp_path / "made", overlap=1 - 1 / facts["num_overlap"])
        stems = separator.separate(track[f"{facts['tag']}_wave_in"].T)
        for stem in ("vocals", "other"):
            if (key := f"{facts['tag']}_{stem}") in track:
                assert np.abs(stems[stem].T - track[key]).max() <= 1e-6, key


def test_every_variable_has_a_tensor():
    plan = roformer.plan(arrays_of(MEL), options_of(MEL))
    model = build_model(parse_configuration(plan.configuration))
    assert {k: v.shape for k, v in plan.values.items()} == {
        k: tuple(v.shape) for k, v in named_variables(model).items()
    }


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.model."])
def test_prefixes(prefix):
    arrays = {f"{prefix}{name}": array for name, array in arrays_of(BS).items()}
    plan = roformer.plan(arrays, options_of(BS))
    assert plan.values.keys() == roformer.plan(arrays_of(BS), options_of(BS)).values.keys()
    assert plan.rows[0].source.startswith(prefix)


def test_bfloat16_of_safetensors(tmp_path):
    """Half of each float32, which NumPy lacks."""
    values = {"a": np.float32([1, -2.5]), "b": np.float32([[0.15625]])}
    header, data = {}, b""
    for name, value in values.items():
        raw = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    found = roformer.read_weights(path).arrays
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_the_yaml_file_lacks_is_taken_from_the_shapes():
    given, whole = options_of(BS), options_of(BS)
    for name in ("dim", "depth", "num_stems", "heads", "stereo", "freqs_per_bands"):
        given.model.pop(name)
    plan = roformer.plan(arrays_of(BS), given)
    assert plan.configuration == roformer.plan(arrays_of(BS), whole).configuration
    assert "taken from the shapes, not from the options: dim 16, depth 2, heads 2" in plan.notes[0]


def test_a_shorter_window_is_centred():
    given = options_of(BS)
    given.model["stft_win_length"] = 64
    window = roformer.plan(arrays_of(BS), given).values[WINDOW]
    assert window.shape == (128,) and not window[:33].any() and window[64] == 1
    assert not window[96:].any()


def test_windows_of_any_length():
    given = options_of(BS)
    given.audio["chunk_size"] = 1300
    given.inference["num_overlap"] = 4
    segment = roformer.plan(arrays_of(BS), given).configuration["segment"]
    assert segment == {
        "nb_frames": 41, "extra": 20, "trim": 0, "overlap": 0.75, "join": "reflect",
    }  # fmt: skip


def test_published_sizes_are_recognised():
    """Kim's model, by its shapes alone; without its numbers, which are large."""
    configuration = parse_configuration(
        {
            "name": "kim",
            "sample_rate": 44100,
            "nb_channels": 2,
            "targets": ["vocals"],
            "residual": None,
            "stft": {"frame_length": 2048, "frame_step": 441},
            "segment": {"nb_frames": 801, "trim": 0, "join": "reflect"},
            "model": {"type": "roformer", "mel_bands": 60},
        }
    )
    expected = list(roformer.expected_tensors(configuration, {}))
    state = {
        name: np.broadcast_to(np.float32(0), source_shape(rule, shape))
        for name, _, rule, shape in expected
    }
    frequencies = sum(a.size for name, a in state.items() if "rotary" in name)
    assert sum(array.size for array in state.values()) == 228_202_852 + frequencies - 64
    found, notes = sizes_of(state), []
    data = published(found, notes).configuration(found, notes)
    assert "Kim's Mel-Band RoFormer" in notes[0]
    assert data["segment"]["nb_frames"] == 801 and data["stft"]["frame_step"] == 441
    assert parse_configuration(data).model == configuration.model


def test_stems_of_the_yaml_file():
    given = options_of(BS)
    given.training = {"instruments": ["lead vocals", "rest"], "target_instrument": "lead vocals"}
    data = roformer.plan(arrays_of(BS), given).configuration
    assert (data["targets"], data["residual"]) == (["lead_vocals"], "rest")


def without(name):
    return lambda arrays, given: arrays.pop(name)


def renamed(name, new):
    return lambda arrays, given: arrays.update({new: arrays.pop(name)})


def option(section, name, value):
    return lambda arrays, given: getattr(given, section).update({name: value})


GAMMA = "layers.0.0.layers.0.0.norm.gamma"
TABLE = "layers.1.0.layers.0.0.rotary_embed.freqs"
REFUSED = {
    "missing": (without(GAMMA), rf"1 tensor does not fit a BS-RoFormer .*\n.*\n{GAMMA} .*missing"),
    "no network": (without("band_split.to_features.0.1.weight"), "holds no RoFormer: it lacks"),
    "no family": (without("final_norm.gamma"), "neither of final_norm.gamma"),
    "unknown": (
        renamed(GAMMA, "layers.0.0.layers.0.0.other"),
        "layers.0.0.layers.0.0.other .*unex",
    ),
    "value residual": (
        renamed(GAMMA, "layers.0.0.layers.0.0.to_value_residual_mix.weight"),
        "value residuals .*to_value_residual_mix",
    ),
    "hyper-connections": (renamed(GAMMA, "layers.0.0.branch.gamma"), "hyper-connections"),
    "tables": (lambda a, g: a.update({TABLE: a[TABLE] * 2}), "tables of positions must be equal"),
    "shape": (
        lambda a, g: a.update({GAMMA: np.ones(3, np.float32)}),
        r"wrong shape: \[16\] expected",
    ),
    "NaN": (lambda a, g: a.update({GAMMA: a[GAMMA] * np.nan}), "holds NaN or infinity"),
    "integers": (lambda a, g: a.update({GAMMA: a[GAMMA].astype(int)}), "instead of floating point"),
    "depth": (option("model", "depth", 3), "disagree: depth is 3 in the file, 2 by the shapes"),
    "text": (option("model", "dim", "16"), "disagree: dim is '16' in the file"),
    "stems": (option("training", "target_instrument", None), "names 2 stems .*checkpoint has 1"),
    "family": (option("model", "num_bands", 60), "describes a Mel-Band RoFormer"),
    "bins": (
        option("model", "stft_n_fft", 256),
        "freqs_per_bands has 65 bins in all, stft_n_fft has 129",
    ),
    "mono": (option("model", "stereo", False), "1 channels by the YAML"),
    "pope": (option("model", "use_pope", True), "use_pope must be false, not True"),
    "flag": (option("model", "zero_dc", 1), "zero_dc must be true or false, not 1"),
    "hop": (option("model", "stft_hop_length", 0), "stft_hop_length must be a whole number"),
    "long hop": (option("model", "stft_hop_length", 100), "the sizes make no configuration"),
    "window": (option("model", "stft_win_length", 256), "at most stft_n_fft, 128, not 256"),
    "chunk": (option("audio", "chunk_size", None), "audio.chunk_size is missing"),
    "names": (option("training", "instruments", "vocals"), "must be a list of names"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    change, words = REFUSED[case]
    arrays, given = arrays_of(BS), options_of(BS)
    given.model.pop("freqs_per_bands" if case == "family" else "", None)
    change(arrays, given)
    with pytest.raises(SeparationError, match=words):
        roformer.plan(arrays, given)


def test_unknown_sizes_need_the_yaml_file():
    with pytest.raises(SeparationError, match=r"dim 16, depth 2, 1 stems, 4 bands\) is not known"):
        roformer.plan(arrays_of(BS))


YAML = {
    "object": "model: !!python/object/apply:os.system ['touch {path}']",
    "name": "model: !!python/name:os.system ''",
    "list": "- model",
    "no model": "audio: {}",
    "section": "model: [1]",
    "broken": "model: {",
    "deep": "model: " + "[" * 3000,
    "not text": "model: \x00",
}


@pytest.mark.parametrize("case", YAML)
def test_yaml_files_that_are_refused(case, tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "x.yaml"
    path.write_text(YAML[case].replace("{path}", str(touched)))
    with pytest.raises(SeparationError, match=re.escape(str(path))):
        read_options(path)
    assert not touched.exists()


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 1100), byte=st.integers(0, 255))
def test_a_mutated_safetensors_file_is_read_or_refused(place, byte, tmp_path_factory):
    from safetensors.numpy import save

    content = bytearray(save({f"x.{n}": np.ones((2, n), np.float32) for n in range(1, 12)}))
    content[place % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(content)
    try:
        roformer.read_roformer(path)
    except SeparationError as error:
        assert str(error)


@pytest.mark.parametrize("name", ["bad_lfs_pointer.ckpt", "missing.ckpt"])
def test_a_file_that_is_no_checkpoint(convert, tmp_path, name):
    path = tmp_path / name
    if name.startswith("bad"):
        shutil.copy(golden(name), path)
    status, said = convert("--from", "roformer", path, "-o", tmp_path / "out")
    assert status == 1 and name in said
    assert ("git lfs pull" in said) == name.startswith("bad")
    assert not (tmp_path / "out").exists()


def test_other_outputs_are_a_failure(tmp_path):
    """The differing output and its limit are named; NaN differs too."""
    ones = np.ones(3, np.float32)
    good = difference("mask", ones, ones + 4e-5, 5e-5)
    _judge([good], tmp_path)
    for found in (ones + np.float32(1e-5), ones * np.nan):
        with pytest.raises(
            SeparationError, match=r"wave_out differs from that in .*more than 1e-06"
        ):
            _judge([good, difference("wave_out", found, ones, 1e-6)], tmp_path)


@pytest.mark.parametrize("option", ["--hyper-parameters", "--model", "--seed"])
def test_options_of_other_projects(convert, tmp_path, option):
    status, said = convert("--from", "roformer", tmp_path / "x.ckpt", option, "1")
    assert status == 1 and f"{option} has no effect with --from roformer" in said


def test_a_checkpoint_for_separation_needs_a_conversion(spleeter, tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"PK")
    status, said = spleeter("separate", "-p", path, "song.mp3")
    assert status == 1 and f"--from roformer {path} --config" in said
