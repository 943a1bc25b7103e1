"""LaSAFT in Keras against numbers that the PyTorch reference computed."""

import json
import os
import subprocess

import einops
import numpy as np
import pytest
import tensorflow as tf
from support.golden import golden

from spleeter_2.audio.stft import Transform
from spleeter_2.config.loading import WINDOW, parse_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import named_variables
from spleeter_2.separation.separator import Separator
from spleeter_2.weights import checkpoint as weights
from weight_converter import lasaft
from weight_converter.mapping import axis_sizes, source_shape
from weight_converter.torch_checkpoint import Checkpoint, read_checkpoint

FAMILIES = [
    "gpocm_lasaft", "gpocm_lightsaft", "gpocm_tdf", "gpocm", "film", "film_tdf", "film_lasaft",
]  # fmt: skip
SAME_WEIGHTS = [
    "v_attributedict_hparams.ckpt",
    "v_bare_state_dict.pt",
    "v_dataparallel.ckpt",
    "v_era_torch18_pl132_cuda.ckpt",
    "v_legacy_nonzip.ckpt",
]
TOLERANCE = 1e-5  # relative to the maximum; rounding alone gives about 1e-6


def planned(name: str, **changes):
    checkpoint = read_checkpoint(golden(name))
    hyper_parameters = {**checkpoint.metadata["hyper_parameters"], **changes}
    return lasaft.plan(checkpoint.arrays, hyper_parameters)


def converted(name: str, instruments=None):
    """Configuration, filled network and plan of a golden checkpoint."""
    plan = planned(name)
    configuration = parse_configuration(plan.configuration)
    model = build_model(configuration, instruments)
    for variable, place in named_variables(model).items():
        place.assign(plan.values[variable])
    return configuration, model, plan


def assert_close(found, expected, what="", tolerance=TOLERANCE):
    found = np.asarray(found)
    assert found.shape == expected.shape, what
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{what}: {error:.1e} of the maximum"


def planes_of(estimate, configuration):
    if configuration.model.spectrogram == "magnitude":
        return np.abs(estimate)
    return np.concatenate([estimate.real, estimate.imag], axis=-1)


def compare(checkpoint: str, inputs, outputs):
    configuration, model, plan = converted(checkpoint)
    assert set(named_variables(model)) == set(plan.values) - {WINDOW}
    network = tf.keras.Model(model.get_layer("planes").output, model.get_layer("last_conv").output)
    batch = outputs["spec_out"].shape[1]
    planes = network(np.moveaxis(inputs["spec_in"][np.newaxis, :batch], 2, -1), training=False)
    assert_close(planes, np.moveaxis(outputs["spec_out"], 2, -1), "spec_out")
    if "spec_out_mixed" in outputs:
        mixed = [planes[number, item] for item, number in enumerate(outputs["mixed_cond_ids"])]
        assert_close(mixed, np.moveaxis(outputs["spec_out_mixed"], 1, -1), "spec_out_mixed")
    transform = Transform(
        configuration.stft.frame_length, configuration.stft.frame_step, plan.values[WINDOW]
    )
    (waveform,) = inputs["wave_in"]
    mixture = transform.forward(waveform)
    estimates = model(mixture[np.newaxis], training=False)
    estimates = [estimates[target].numpy() for target in lasaft.INSTRUMENTS]
    waves = [transform.inverse(estimate[0], len(waveform)) for estimate in estimates]
    assert_close(waves, outputs["wave_out"][:, 0], "wave_out")
    if "forward_out_cond1" in outputs:
        expected = np.moveaxis(outputs["forward_out_cond1"], 1, -1)
        found = planes_of(estimates[1], configuration)
        if configuration.model.spectrogram == "magnitude":
            expected = np.abs(expected)
        assert_close(found, expected, "forward_out_cond1")
    if "wave_spec" in inputs:
        found = planes_of(mixture[np.newaxis], configuration)
        assert_close(found, np.moveaxis(inputs["wave_spec"], 1, -1), "wave_spec")


@pytest.mark.parametrize("name", [f"{family}_{which}" for family in FAMILIES for which in "ab"])
def test_golden(name):
    arrays = np.load(golden(f"{name}.npz"))
    compare(f"{name}.ckpt", arrays, arrays)
    assert planned(f"{name}.ckpt").family == name[:-2]


def test_half_precision():
    inputs = np.load(golden("gpocm_lasaft_a.npz"))
    compare("v_half.ckpt", {k: inputs[k] for k in ("spec_in", "wave_in")},
            np.load(golden("v_half.npz")))  # fmt: skip


LAYERS = {  # golden activation: our layer
    "control_block_out": "control_2_norm",
    "first_conv": "first_conv",
    "encoder0_tfc": "encoder_1_dense",
    "encoder0_att": "encoder_1_frequency_attention",
    "encoder0_lasaft_out": "encoder_1_frequency_back",
    "encoder0": "encoder_1_frequency_add",
    "downsampling0": "downsampling_1",
    "mid_block_tfc": "mid_dense",
    "mid_block": "mid_frequency_add",
    "upsampling0": "upsampling_1",
    "decoder0_tfc": "decoder_1_dense",
    "first_pocm_in": "decoder_1_dense",
    "first_pocm_gated": "decoder_1_modulation",
    "decoder0_att": "decoder_1_frequency_attention",
    "decoder0_lasaft_in": "decoder_1_modulation",
    "decoder0_lasaft_out": "decoder_1_frequency_back",
    "decoder0": "decoder_1_frequency_add",
    "last_decoder": "decoder_2_frequency_add",
    "out": "last_conv",
}


def test_intermediates():
    arrays = np.load(golden("gpocm_lasaft_a_intermediate.npz"))
    instrument = lasaft.INSTRUMENTS[int(arrays["cond_id"])]
    _, model, _ = converted("gpocm_lasaft_a.ckpt", [instrument])
    layers = {name: model.get_layer(layer).output for name, layer in LAYERS.items()}
    first = model.get_layer("encoder_1_dense").convolutions[0]
    layers["encoder0_tfc_H0"] = first(model.get_layer("first_conv").output)
    layers["embedding"] = model.get_layer("embedding").output
    layers["gammas_decoder"] = model.get_layer("gamma_per_block").output
    layers["betas_decoder"] = model.get_layer("beta_per_block").output
    probe = tf.keras.Model(model.input, layers)
    real, imaginary = np.split(np.moveaxis(arrays["spec_in"], 1, -1), 2, axis=-1)
    found = probe(real + 1j * imaginary, training=False)
    for name, value in found.items():
        expected = arrays[name]
        if expected.ndim == 4 and name != "gammas_decoder":
            expected = np.moveaxis(expected, 1, -1)[np.newaxis]
        assert_close(value, expected, name)


TRACKS = {  # the reference's faults: samples where a correct join differs from it
    "vocals_ov0.5": [(3104, 4690), (77600, 86911)],
    "vocals_ov0.0": [(85189, 86911)],
    "drums_ov0.25": [(4656, 6499), (79152, 80703), (83647, 85359)],
}


@pytest.mark.parametrize("track", TRACKS)
def test_song(track, tmp_path):
    arrays = np.load(golden("gpocm_lasaft_track.npz"))
    plan = planned("gpocm_lasaft_track.ckpt")
    weights.write_checkpoint(plan.values, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**plan.configuration, "weights": "."}))
    instrument, overlap = track.split("_ov")
    separator = Separator(str(tmp_path), [instrument], overlap=float(overlap))
    waveform = arrays["wave_in"]
    found = separator.separate(waveform)[instrument]
    assert found.shape == waveform.shape
    error = np.abs(found - arrays[track][: len(waveform)])
    for first, last in TRACKS[track]:
        error[first : last + 1] = 0
    assert error.max() <= TOLERANCE * np.abs(arrays[track]).max()


@pytest.fixture(scope="module")
def reference():
    """Arrays and hyper-parameters of a golden checkpoint."""
    checkpoint = read_checkpoint(golden("gpocm_lasaft_a.ckpt"))
    return checkpoint.arrays, checkpoint.metadata["hyper_parameters"]


@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_other_containers(name, reference):
    expected = lasaft.plan(*reference)
    checkpoint = read_checkpoint(golden(name))
    given = checkpoint.metadata.get("hyper_parameters", reference[1])
    found = lasaft.plan(checkpoint.arrays, given)
    assert found.configuration == expected.configuration
    for variable, value in expected.values.items():
        np.testing.assert_array_equal(found.values[variable], value)


def bare(arrays):
    """Tensors by name without any prefix."""
    return {name.removeprefix("spec2spec."): array for name, array in arrays.items()}


def same_weights(found, expected):
    assert found.values.keys() == expected.values.keys()
    return all(np.array_equal(found.values[name], expected.values[name]) for name in found.values)


def doubled(arrays):
    """Other weights of the same network."""
    return {k: v * 2 if v.dtype == np.float32 else v for k, v in arrays.items()}


PREFIXES = [
    "", "module.", "spec2spec.module.", "module.module.spec2spec.", "_orig_mod.", "model.", "net.",
    "model._orig_mod.module.spec2spec.", "_orig_mod.module.model.net.", "ema.", "ema_model.module.",
    "_forward_module.", "_fsdp_wrapped_module.spec2spec.", "my.own.wrapper.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix, reference):
    arrays, given = reference
    arrays = {prefix + name: array for name, array in bare(arrays).items()}
    plan = lasaft.plan(arrays, given)
    assert {row.source for row in plan.rows} < set(arrays) and WINDOW in plan.values
    assert same_weights(plan, lasaft.plan(*reference))
    assert plan.notes == lasaft.plan(*reference).notes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("spec2spec.", "net."),
        ("spec2spec.", "spec2spec._orig_mod."),
        ("encoders.0.", "encoders.0._orig_mod."),
        ("encoders.", "encoders.module."),
    ],
)
def test_prefixes_of_a_part(old, new, reference):
    """A compiled part, and a window outside the wrapped network."""
    arrays = {name.replace(old, new): array for name, array in reference[0].items()}
    assert same_weights(lasaft.plan(arrays, reference[1]), lasaft.plan(*reference))


@pytest.mark.parametrize("name", ["n_averaged", "module.n_averaged", "ema.decay", "step"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_counters_outside_the_network_are_ignored(name, shape, reference):
    plan = lasaft.plan({**reference[0], name: np.ones(shape, np.int64)}, reference[1])
    assert name in plan.ignored and same_weights(plan, lasaft.plan(*reference))


@pytest.mark.parametrize(
    ("one", "other"),
    [("", "ema."), ("spec2spec.", "ema_model.module."), ("online_model.", "ema_model."),
     ("model.", "swa_model.module."), ("net.", "net_ema.")],
)  # fmt: skip
def test_averaged_weights_are_used(one, other, reference):
    """Of two copies the averaged one is converted, and a note names both."""
    plain, averaged = bare(reference[0]), doubled(bare(reference[0]))
    del averaged["stft.stft.window"]  # not averaged by everyone
    arrays = {one + k: v for k, v in plain.items()} | {other + k: v for k, v in averaged.items()}
    plan = lasaft.plan({**arrays, "n_averaged": np.array(5)}, reference[1])
    expected = lasaft.plan({**plain, **averaged}, reference[1])
    assert same_weights(plan, expected)
    (note,) = set(plan.notes) - set(expected.notes)
    first = "first_conv.0.weight"
    assert f"averaged weights, such as {other}{first}, are used" in note and one + first in note
    rows = [row.source for row in plan.rows]
    assert sorted({*rows, *plan.ignored}) == sorted({*arrays, "n_averaged"})


def test_incomplete_averaged_weights_are_not_used(reference):
    """Averages of parameters only have no statistics of BatchNorm."""
    averaged = {f"ema.{k}": v for k, v in doubled(bare(reference[0])).items() if "running" not in k}
    plan = lasaft.plan({**reference[0], **averaged}, reference[1])
    assert same_weights(plan, lasaft.plan(*reference))
    assert "running_mean" in plan.notes[0] and "spec2spec.first_conv.0.weight" in plan.notes[0]


@pytest.mark.parametrize(
    ("prefixes", "words"),
    [
        (("module.", ""), "holds module.*stft.window twice, also as stft.stft.window"),
        (("student.", "teacher."), "holds 2 networks, with student.first.* and teacher.first.*: "),
        (("ema.", "swa."), "holds 2 networks"),
        (("", "a.", "ema."), "holds 3 networks"),
    ],
)
def test_copies_that_cannot_be_told_apart(prefixes, words, reference):
    arrays = {prefix + k: v for prefix in prefixes for k, v in bare(reference[0]).items()}
    with pytest.raises(SeparationError, match=words):
        lasaft.plan(arrays, reference[1])


@pytest.mark.parametrize("part", ["encoders.0", "decoders", "first_conv", "last_conv.0.bias"])
def test_a_prefix_of_some_tensors_is_refused(part, reference):
    arrays = {("ema." if k.startswith(part) else "") + k: v for k, v in bare(reference[0]).items()}
    with pytest.raises(SeparationError, match="must have one prefix.*ema."):
        lasaft.plan(arrays, reference[1])


@pytest.mark.parametrize("siblings", [{}, {"ema_state_dict": 2}, {"discriminator": 1}])
def test_state_dicts_beside_each_other(siblings, reference, tmp_path, monkeypatch):
    """Averaged weights under a key of their own are used; other networks are no copies."""
    arrays = bare(reference[0])
    states = {
        "ema_state_dict": doubled(arrays),
        "discriminator": {"encoders.weight": np.zeros((2, 3), np.float32)},
    }
    checkpoint = Checkpoint(
        arrays,
        {"hyper_parameters": reference[1]},
        "0",
        "state_dict",
        {place: states[place] for place in siblings},
    )
    monkeypatch.setattr(lasaft, "read_checkpoint", lambda _: checkpoint)
    plan = lasaft.read_lasaft(tmp_path / "some.ckpt")
    used = states["ema_state_dict"] if "ema_state_dict" in siblings else arrays
    expected = lasaft.plan(used, reference[1])
    assert same_weights(plan, expected)
    assert len(plan.notes) == len(expected.notes) + ("ema_state_dict" in siblings)
    if "ema_state_dict" in siblings:
        assert "such as ema_state_dict.first_conv.0.weight, are used" in plan.notes[0]


WRAP = r"""
import sys
import torch

source, folder = sys.argv[1:]
network = torch.nn.Module()
for name, tensor in torch.load(source).items():
    module = network
    *parts, leaf = name.split(".")
    for part in parts:
        if part not in module._modules:
            module.add_module(part, torch.nn.Module())
        module = module._modules[part]
    module.register_buffer(leaf, tensor)
averaged = torch.optim.swa_utils.AveragedModel(network)
wrapped = {
    "compiled": torch.compile(network),
    "parallel": torch.nn.DataParallel(network),
    "averaged": averaged,
    "all": torch.nn.DataParallel(torch.compile(averaged)),
}
for name, module in wrapped.items():
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, f"{folder}/{name}.ckpt")
both = {"model": network.state_dict(), "ema": averaged.state_dict()}
torch.save(both, f"{folder}/both.ckpt")
"""


@pytest.mark.torch
def test_wrappers_of_torch(reference, tmp_path):
    python = os.environ.get("TORCH_PYTHON")
    if not python:
        pytest.skip("TORCH_PYTHON does not name an interpreter with PyTorch")
    given = tmp_path / "hyper_parameters.json"
    given.write_text(json.dumps(reference[1]))
    subprocess.run([python, "-c", WRAP, golden("v_bare_state_dict.pt"), tmp_path], check=True)
    expected = lasaft.plan(*reference)
    for name in ("compiled", "parallel", "averaged", "all", "both"):
        found = lasaft.read_lasaft(tmp_path / f"{name}.ckpt", given)
        assert same_weights(found, expected), name
        assert len(found.notes) - len(expected.notes) == (name == "both")


@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "module_arguments"])
def test_hyper_parameters_of_every_age(key, reference, tmp_path, monkeypatch):
    checkpoint = Checkpoint(reference[0], {key: reference[1]}, "0")
    monkeypatch.setattr(lasaft, "read_checkpoint", lambda _: checkpoint)
    assert lasaft.read_lasaft(tmp_path / "old.ckpt").family == "gpocm_lasaft"


def test_every_tensor_has_its_place(reference):
    plan = lasaft.plan(*reference)
    used = [row.source for row in plan.rows]
    assert sorted(used + plan.ignored) == sorted(reference[0])
    assert all(name.endswith("num_batches_tracked") for name in plan.ignored)
    assert plan.table().count("\n") == len(used)
    json.dumps(plan.configuration)


def test_faults_stand_in_one_table(reference):
    arrays = dict(reference[0])
    arrays["spec2spec.extra.weight"] = np.zeros((2, 3), np.float32)
    arrays["spec2spec.encoders.0.keys"] = arrays["spec2spec.encoders.0.keys"].T
    del arrays["spec2spec.mid_block.linear_query.bias"]
    with pytest.raises(SeparationError) as caught:
        lasaft.plan(arrays, reference[1])
    first, _, *lines = str(caught.value).splitlines()
    assert first.startswith("3 tensors do not fit")
    table = "\n".join(" ".join(line.split()) for line in lines)
    assert "encoders.0.keys [3, 8] encoder_1_frequency_attention/keys [8, 3] wrong shape" in table
    assert "mid_block.linear_query.bias [8] mid_frequency_attention/bias [8] missing" in table
    assert "spec2spec.extra.weight [2, 3] - - unexpected" in table


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("gpocm_lasaft_a", "n_fft, hop_length, tfc_tdf_activation, pocm_norm, num_tdfs"),
        ("gpocm_lightsaft_b", "kernel_size_f, bn_factor, dk"),
        ("film_b", "t_down_layers, tfc_activation, gamma_activation"),
    ],
)
def test_missing_hyper_parameters_are_named(name, missing):
    checkpoint = read_checkpoint(golden(f"{name}.ckpt"))
    given = checkpoint.metadata["hyper_parameters"]
    rest = {key: value for key, value in given.items() if key not in missing.split(", ")}
    with pytest.raises(SeparationError, match=f"lacks the hyper-parameters {missing}: "):
        lasaft.plan(checkpoint.arrays, rest)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gpocm_lasaft_a", {"control_vector_type": "one_hot_mode"}, "one_hot_mode"),
        ("gpocm_lasaft_a", {"t_down_layers": [0, 1]}, "t_down_layers must be null or a string"),
        ("gpocm_lasaft_a", {"t_down_layers": "all"}, "t_down_layers must be null or a string"),
        ("gpocm_lasaft_a", {"n_blocks": 4}, "blocks must be odd"),
        ("gpocm_lasaft_a", {"num_frame": 30}, "multiple of 4"),
        ("gpocm_lasaft_a", {"hop_length": 5000}, "hop_length must be below 5000"),
        ("gpocm_lasaft_a", {"kernel_size_t": 5}, "must be equal"),
        ("gpocm_lasaft_a", {"kernel_size_t": 4, "kernel_size_f": 4}, "must be odd"),
        ("gpocm_lasaft_a", {"pocm_type": "else"}, "pocm_type"),
        ("gpocm_lasaft_a", {"tfc_tdf_activation": "softmax"}, "softmax"),
        ("gpocm_lasaft_a", {"n_fft": 258}, "multiple of 4 plus 1"),
        ("gpocm_lasaft_a", {"n_fft": "many"}, "n_fft"),
        ("gpocm_lasaft_a", {"n_internal_layers": 10**30}, "n_internal_layers must be a number"),
        ("gpocm_lasaft_a", {"control_n_layer": 10**30}, "control_n_layer must be a number"),
        ("gpocm_lasaft_a", {"internal_channels": 10**30}, "wrong shape"),
        ("gpocm_lasaft_a", {"num_frame": 10**6}, "num_frame must be a number between 1 and 99999"),
        ("gpocm_lasaft_a", {"num_frame": np.arange(3)}, "lacks the hyper-parameters num_frame"),
        ("film_tdf_b", {"film_type": "simple"}, 'film_type must be "complex"'),
        ("gpocm_lightsaft_b", {"bn_factor": None}, "bottleneck"),
    ],
)
def test_refused_options(name, changes, words):
    with pytest.raises(SeparationError, match=words):
        planned(f"{name}.ckpt", **changes)


@pytest.mark.parametrize("path", [None, 3, b"lasaft.ckpt", ["lasaft.ckpt"], "a\0b"])
def test_what_is_no_path(path):
    with pytest.raises(SeparationError, match="path must be a path"):
        lasaft.read_lasaft(path)
    with pytest.raises(SeparationError, match="hyper_parameters must be a path"):
        lasaft.read_lasaft("lasaft.ckpt", path or 3)


def test_no_network():
    with pytest.raises(SeparationError, match="first_conv.0.weight"):
        lasaft.plan({"weight": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    ("rule", "shape", "source"),
    [
        ("o i t f -> t f i o", (2, 3, 4, 5), (5, 4, 2, 3)),
        ("(o k) i -> k i o", (2, 3, 4), (8, 3)),
        ("(k o) -> k o", (2, 3), (6,)),
        ("c -> c", (7,), (7,)),
    ],
)
def test_source_shapes(rule, shape, source):
    assert source_shape(rule, shape) == source
    array = einops.rearrange(np.zeros(source), rule, **axis_sizes(rule, shape))
    assert array.shape == shape
