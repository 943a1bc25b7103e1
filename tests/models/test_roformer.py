"""The RoFormer: its contract, its bands, its export; PyTorch's numbers are in weight_converter."""

import functools

import numpy as np
import onnx
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import noise, run_model_test, small, write_model
from support.roformer import BS, MEL

from spleeter_2.config.networks import RoFormer
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model, roformer
from spleeter_2.models.inference import load_for_inference
from spleeter_2.runtime import export
from spleeter_2.runtime.network import load_network, open_session, to_planes
from spleeter_2.separation.separator import Separator

WINDOW = {"nb_frames": 12, "trim": 0, "overlap": 0.5, "join": "reflect"}
STFT = {"frame_length": 128, "frame_step": 32}


@pytest.mark.parametrize(
    "model",
    [
        {**MEL, "depth": 2, "linear_layers": 1, "skip_connection": True},
        {**BS, "time_layers": 2, "mask_layers": 0, "zero_dc": False, "normalized": True},
        {**BS, "frequency_layers": 0, "mask_layers": 2},
    ],
    ids=["mel", "bs", "time only"],
)
def test_options(model, tmp_path):
    run_model_test(small(model), tmp_path)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "depth": st.integers(1, 2),
        "linear_layers": st.integers(0, 1),
        "time_layers": st.integers(0, 2),
        "frequency_layers": st.integers(0, 2),
        "heads": st.integers(1, 3),
        "head_size": st.sampled_from([2, 6]),
        "output_norm": st.booleans(),
        "skip_connection": st.booleans(),
        "mask_layers": st.integers(0, 2),
        "zero_dc": st.booleans(),
        "normalized": st.booleans(),
    },
)


@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    base=st.sampled_from([MEL, BS]),
    options=OPTIONS,
    nb_channels=st.integers(1, 2),
    at_once=st.sampled_from([2**24, 4000]),
)
def test_onnx_runtime_computes_what_keras_computes(
    base, options, nb_channels, at_once, tmp_path_factory
):
    """Whatever the options, and however the attention is divided."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roformer, "MAX_NUMBERS", at_once)
        configuration = write_model(
            small({**base, **options}, nb_channels=nb_channels, stft=STFT, segment=WINDOW),
            tmp_path_factory.mktemp("model"),
        )
        mixture = noise(configuration)[0]
        exported = load_network(configuration).estimate(mixture)
    model = load_for_inference(configuration)
    for target, planes in model.function(to_planes(mixture)[np.newaxis]).items():
        expected = planes.numpy()[0]
        scale = np.abs(expected).max()
        assert np.abs(to_planes(exported[target]) - expected).max() <= 5e-5 * scale


def test_pieces_are_exact(monkeypatch):
    configuration = small(MEL)
    tf.keras.utils.set_random_seed(0)
    whole = build_model(configuration)
    monkeypatch.setattr(roformer, "MAX_NUMBERS", 1)
    pieces = build_model(configuration)
    assert pieces.get_layer("block_1_time_1_attention").pieces == 5
    pieces.set_weights(whole.get_weights())
    mixture = noise(configuration)
    one, two = (model(mixture, training=False)["vocals"] for model in (whole, pieces))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6 * np.abs(one).max())


def test_a_graph_does_not_grow_with_the_pieces(monkeypatch, tmp_path):
    """An ONNX graph has the operations of one piece, in a loop."""
    configuration = write_model(small(MEL, stft=STFT, segment=WINDOW), tmp_path)
    counts = []
    for at_once in (1000, 500, 1):
        monkeypatch.setattr(roformer, "MAX_NUMBERS", at_once)
        layer = build_model(configuration).get_layer("block_1_frequency_1_attention")
        path = tmp_path / f"{at_once}.onnx"
        export.write_model_file(configuration, path)
        model = onnx.load(path, load_external_data=False)
        counts.append((layer.pieces, sum(1 for _ in nodes_of(model.graph))))
    pieces, nodes = zip(*counts, strict=True)
    assert 1 < pieces[0] < pieces[1] < pieces[2] == WINDOW["nb_frames"]
    assert max(nodes) <= min(nodes) + 20, counts


def nodes_of(graph):
    """All nodes of a graph, those of its loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g)


def test_pieces_of_an_odd_number_of_sequences(monkeypatch):
    """The last piece is filled up, and what fills it is dropped."""
    x = tf.random.stateless_normal((2, 7, 3, 4), (0, 0))
    found = roformer.in_pieces(lambda x, factor: x * factor, 4, x, tf.constant(3.0))
    np.testing.assert_array_equal(found, 3 * x)
    # of 61 sequences, 20 at least, 31 pieces of 2 leave one place; of 60, none is left
    monkeypatch.setattr(roformer, "MAX_NUMBERS", 3)
    assert [roformer._nb_pieces(sequences, 1) for sequences in (61, 60)] == [31, 20]


def test_graphs_of_tensorflow_gate_the_masks(monkeypatch):
    """Both halves of a gated linear unit are kept apart: as parts of one tf.split they became
    x * sigmoid(x) in graphs of TensorFlow 2.12 with oneDNN."""
    layer = roformer.MaskEstimator(((0, 3),), 1, 1, 4)
    x = tf.random.stateless_normal((1, 5, 1, 4), (0, 0))
    np.testing.assert_allclose(tf.function(layer)(x), layer(x), atol=1e-5)


def test_mel_bands_of_published_models():
    """60 bands over 1025 bins: those of librosa.filters.mel (Slaney's scale), ends included."""
    bands = RoFormer(mel_bands=60).bands
    assert bands[:4] == ((0, 7), (4, 10), (7, 13), (10, 16)) and bands[-1][1] == 1025
    assert sum(end - start for start, end in bands) == 1979
    counts = [sum(start <= bin < end for start, end in bands) for bin in range(1025)]
    assert counts.count(1) == 71 and counts.count(2) == 954


def test_overlapping_masks_are_averaged():
    bands = ((0, 3), (2, 5), (4, 6))
    layer = roformer.MaskEstimator(bands, 1, 0, 1)
    layer(tf.zeros((1, 1, 3, 2)))
    for number, network in enumerate(layer.networks, start=1):
        ((kernel, bias),) = network
        kernel.assign(tf.zeros_like(kernel))
        # the first half is the value, a large second half opens the gate
        half = bias.shape[0] // 2
        bias.assign(tf.concat([tf.fill((half,), float(number)), tf.fill((half,), 100.0)], 0))
    mask = layer(tf.zeros((1, 1, 3, 2)))
    np.testing.assert_allclose(mask[0, 0, :, 0, 0], [1, 1, 1.5, 2, 2.5, 3])


def test_rotary_positions_turn_pairs():
    """A quarter turn per position takes (1, 0) to (0, 1)."""
    x = tf.reshape(tf.constant([1.0, 0.0] * 3), (1, 1, 3, 1, 2, 1))
    angles = np.pi / 2 * np.arange(3, dtype=np.float32)[:, np.newaxis]
    turned = roformer.rotated(x, tf.stack([tf.cos(angles), tf.sin(angles)]))
    np.testing.assert_allclose(turned[0, 0, :, 0], [[1, 0], [0, 1], [-1, 0]], atol=1e-6)


def test_norm_has_no_epsilon_and_a_gradient_at_silence():
    x = tf.constant([[3e-9, 4e-9], [0.0, 0.0], [3e-13, 4e-13]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = roformer.rms_norm(x, tf.ones(2))
    np.testing.assert_allclose(y / 2**0.5, [[0.6, 0.8], [0, 0], [0.3, 0.4]], rtol=1e-5)
    assert np.isfinite(tape.gradient(y, x)).all()


def test_zero_dc():
    for zero_dc in (True, False):
        model = build_model(small({**MEL, "zero_dc": zero_dc}))
        estimate = model(noise(small(MEL)), training=False)["vocals"].numpy()
        assert (not estimate[:, :, 0].any()) == zero_dc and estimate[:, :, 1].all()


@pytest.mark.parametrize("model", [MEL, BS], ids=["mel", "bs"])
def test_a_crop_can_be_learned(model):
    """A source that is a filtered part of the mixture, from one crop."""
    configuration = small(model, targets=["vocals"], residual="accompaniment")
    tf.keras.utils.set_random_seed(0)
    network = build_model(configuration)
    mixture = noise(configuration)
    shape = np.linspace(1, 0, mixture.shape[2])[:, np.newaxis]
    target = (mixture * shape * np.exp(0.5j)).astype(np.complex64)
    optimizer = tf.keras.optimizers.Adam(0.01)

    @functools.partial(tf.function, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            error = tf.abs(network(mixture, training=True)["vocals"] - target)
            loss = tf.reduce_mean(tf.square(error))
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    first = float(step())
    for _ in range(80):
        last = float(step())
    assert last < 0.05 * first


def test_separates_in_windows(tmp_path):
    """Any length, any overlap, shifts, a chosen stem; the stems sum to the mixture."""
    write_model(small(MEL, stft=STFT, segment=WINDOW), tmp_path)
    song = np.random.default_rng(1).normal(0, 0.1, (3000, 2)).astype(np.float32)
    for options in ({}, {"overlap": 0.75}, {"shifts": 2}):
        stems = Separator(tmp_path, **options).separate(song)
        assert list(stems) == ["vocals", "drums", "other"]
        np.testing.assert_allclose(sum(stems.values()), song, atol=1e-5)
    alone = Separator(tmp_path, stems=["drums"]).separate(song)
    np.testing.assert_allclose(
        alone["drums"], Separator(tmp_path).separate(song)["drums"], atol=1e-6
    )
    with pytest.raises(SeparationError, match="between 0 and 0.98"):
        Separator(tmp_path, overlap=0.99)


def test_a_large_network_has_its_weights_beside_the_file(tmp_path, monkeypatch):
    """Its graph is built without the values of variables, which would not fit into it."""
    monkeypatch.setattr(export, "LARGE", 0)
    monkeypatch.setattr(export, "EXTERNAL", 0)
    configuration = write_model(
        small({**BS, "zero_dc": False}, stft=STFT, segment=WINDOW), tmp_path / "model"
    )
    path = tmp_path / "network.onnx"
    assert export.export_network(configuration, path, "onnx").difference < 1e-5
    assert path.with_name("network.onnx.data").stat().st_size > 4 * 1000
    assert export.write_model_file(configuration) < 1e-5
    mixture = noise(configuration)[0]
    own = load_network(configuration).estimate(mixture)["vocals"]
    exported = open_session(path).estimate(to_planes(mixture)[np.newaxis])["vocals"][0]
    np.testing.assert_allclose(to_planes(own), exported, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"mel_bands": None}, "model.band_widths or mel_bands must be given, and not both"),
        ({"band_widths": [65]}, "model.band_widths or mel_bands must be given, and not both"),
        ({"mel_bands": 200}, "model.mel_bands: 200 mel bands over 65 bins leave a band or a bin"),
        ({"head_size": 3}, "model.head_size must be even, not 3"),
        ({"nb_bins": 33}, "model.nb_bins must be the 65 bins of the STFT, not 33"),
        ({"mel_bands": None, "band_widths": [5, 6]}, "model.band_widths must sum to nb_bins, 65"),
        ({"depth": 0}, "model.depth must be a whole number >= 1"),
    ],
)
def test_faults(model, words):
    with pytest.raises(SeparationError, match=words):
        small({**MEL, **model})


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ({"overlap": 0.99}, "segment.overlap must be a number <= 0.98"),
        ({"join": "linear", "overlap": 0.75}, "segment.overlap must be a number <= 0.5"),
        ({"trim": 8}, 'segment.trim must be 0 with join "reflect"'),
        ({"join": "equal", "extra": 3}, 'segment.extra must be 0 without join "reflect"'),
    ],
)
def test_faults_of_windows(segment, words):
    with pytest.raises(SeparationError, match=words):
        small(MEL, segment={**WINDOW, **segment})
