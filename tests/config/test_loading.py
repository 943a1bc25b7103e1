import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spleeter_2.config.loading import (
    embedded_models,
    has_weights,
    load_configuration,
    parse_configuration,
    read_configuration,
    to_json,
)
from spleeter_2.config.schema import Configuration
from spleeter_2.config.training import Training
from spleeter_2.errors import SeparationError

BASE = {"spleeter_2": 1, "base": "spleeter_2:grouped"}


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> str:
        path = tmp_path / "model.json"
        path.write_text(json.dumps({**BASE, **changes}))
        return str(path)

    return write


@pytest.mark.parametrize("descriptor", embedded_models())
def test_embedded_configurations_are_valid(descriptor):
    configuration = load_configuration(descriptor)
    assert configuration.name == descriptor.partition(":")[2]
    assert configuration.description


def test_a_base_is_changed_key_by_key(write):
    changed = load_configuration(write(name="wide", model={"nb_bins": 1536}))
    base = load_configuration("spleeter_2:grouped")
    assert changed.model.nb_bins == 1536
    assert changed.model.frequency == base.model.frequency
    assert changed.weights == base.weights
    assert changed.band == pytest.approx(16537.5)


def test_weights_are_relative_to_the_file_that_names_them(write, tmp_path):
    assert load_configuration(write(weights="mine")).weights == tmp_path / "mine"


@pytest.mark.parametrize(
    "changes, weights, model_dir",
    [
        ({}, "2stems", "2stems"),
        ({"weights": "mine"}, "mine", None),
        ({"model_dir": "mine"}, None, "mine"),
        ({"weights": "mine", "model_dir": "mine"}, "mine", "mine"),
        # a checkpoint of Spleeter's has networks in the order of its targets
        ({"targets": ["accompaniment", "vocals"]}, "2stems", None),
        ({"targets": ["vocals", "accompaniment"]}, "2stems", "2stems"),
    ],
)
def test_weights_of_a_base_make_way_for_others(write, changes, weights, model_dir):
    found = load_configuration(write(base="spleeter:2stems", **changes))
    assert (found.weights and found.weights.name) == weights
    assert found.model_dir == model_dir


def test_models_to_train_with_are_relative_to_the_file_that_names_them(tmp_path):
    """Also those that a base names; names of models stay, and what is no descriptor is refused."""
    named = {"start": "../old", "teachers": ["spleeter_2:mask", "one.json", "/two", "spleeter:x"]}
    for folder, content in (
        ("base", {**BASE, "training": named}),
        ("child", {"spleeter_2": 1, "base": "../base/x.json", "training": {"start": "new"}}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(json.dumps(content))
    training = read_configuration(str(tmp_path / "base/x.json"))["training"]
    teachers = ["spleeter_2:mask", str(tmp_path / "base/one.json"), "/two", "spleeter:x"]
    assert training == {"start": str(tmp_path / "old"), "teachers": teachers}
    training = read_configuration(str(tmp_path / "child/x.json"))["training"]
    assert training == {"start": str(tmp_path / "child/new"), "teachers": teachers}


def test_the_models_that_the_shipped_weights_are_trained_with():
    root = Path(__file__).parents[2]
    content = read_configuration(str(root / "configs/grouped_shipped.json"))
    teachers = content["training"]["teachers"]
    assert load_configuration(teachers[0]).name == "teacher_vocals"
    assert teachers[1] == str(root / "runs/teacher_accompaniment")  # as docs/training.md makes it


def test_a_folder_stands_for_its_config_json(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**BASE, "name": "run", "weights": "."}))
    assert load_configuration(str(tmp_path)).name == "run"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"tragets": ["vocals"]}, "model.json: unknown key 'tragets'"),
        ({"model": {"nb_bin": 3}}, "model: unknown key 'nb_bin'; known are type, nb_bins, level"),
        ({"stft": {"\n": 0}}, "stft: unknown key '\\n'; known are frame_length, frame_step"),
        ({"model": {"head": {"a": 0}}}, "model.head: unknown key 'a'"),
        ({"model": {"frequency": [{}, {"a": 0}]}}, "model.frequency[1]: unknown key 'a'"),
        ({"model": {"type": "cunet", "frequency": {"a": 0}}}, "model.frequency: unknown key 'a'"),
        (
            {"stft": {"frame_length": "4096"}},
            "stft.frame_length must be a whole number, not '4096'",
        ),
        ({"stft": {"frame_length": True}}, "stft.frame_length must be a whole number, not True"),
        ({"targets": "drums"}, "targets must be a list, not 'drums'"),
        ({"targets": ["drums", 1]}, "targets[1] must be a string, not 1"),
        ({"model": {"head": "mask"}}, "model.head must be an object, not 'mask'"),
        ({"model": {"frequency": {"type": "fc"}}}, "model.frequency must be a list, not {"),
        ({"model": {"level": "loud"}}, "model.level must be a number or null, not 'loud'"),
        ({"stft": {"frame_length": 4097}}, "stft.frame_length must be an even number of samples"),
        ({"stft": {"frame_step": 4096}}, "stft.frame_step must be at most half of frame_length"),
        ({"model": {"nb_bins": 5000}}, "model.nb_bins is 5000, but the STFT has only 2049 bins"),
        ({"model": {"level": 3.0}}, "model.level must be a number <= 1.0, not 3.0"),
        ({"model": {"level": float("nan")}}, "model.level must be a number > 0.0, not nan"),
        ({"model": {"level": 10**400}}, "model.level: Number out of range"),
        ({"model": {"type": "vnet"}}, "model.type must be unet or cunet or"),
        ({"model": {"type": 3}}, "model.type must be unet or cunet or"),
        ({"model": 3}, "model must be an object, not 3"),
        ({"weights": 3}, "weights must be a string, not 3"),
        ({"source": {"project": "x", "file": "y"}}, "missing key source.sha256"),
        (
            {"model": {"head": {"type": "wavelet"}}},
            "model.head.type must be mask or regression or softmax, not 'wavelet'",
        ),
        (
            {"model": {"frequency": [{"type": "grouped", "bands": 0}]}},
            "model.frequency[0].bands must be a whole number >= 1, not 0",
        ),
        (
            {"model": {"frequency": [{"type": "grouped", "level": 9}]}},
            "model.frequency[0].level 9 does not exist",
        ),
        (
            {"model": {"frequency": [{"level": 3}, {"level": 2}, {"level": 3}]}},
            "model.frequency must have at most one block per level, not blocks at the levels 3, 2",
        ),
        ({"segment": {"nb_frames": 500}}, "segment.nb_frames must be a multiple of 64"),
        ({"segment": {"overlap": 0.9}}, "segment.overlap must be a number <= 0.5, not 0.9"),
        ({"segment": {"trim": 300000}}, "segment.nb_frames: 512 frames leave no room"),
        ({"residual": "vocals"}, "name an instrument twice"),
        ({"targets": ["drums", "mixture"]}, "must not contain mixture"),
        ({"targets": []}, "targets must be a list of length >= 1, not []"),
        ({"targets": ["lead vocals"]}, "made of letters, digits"),
        ({"targets": "\ud800"}, "'\\ud800' is no text"),
        ({"residual": "../all"}, "made of letters, digits"),
        ({"name": "a/b"}, "made of letters, digits"),
        ({"spleeter_2": 7}, "format 1"),
        ({"base": "spleeter_2:nothing"}, "known models: spleeter_2:"),
        ({"base": 3}, "base must be a descriptor"),
    ],
)
def test_faults_are_told_in_one_sentence(write, changes, words):
    with pytest.raises(SeparationError) as raised:
        load_configuration(write(**changes))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "training, words",
    [
        (3, " must be an object, not 3"),
        ({"a": 0}, ": unknown key 'a'"),
        ({"start": 3}, ".start must be a string or null, not 3"),
        ({"teachers": [3]}, ".teachers[0] must be a string, not 3"),
        ({"teachers": {"a": "b"}}, ".teachers must be a list, not {'a': 'b'}"),
        ({"loss": {"a": 0}}, ".loss: unknown key 'a'; known are spectrogram, two_source"),
        ({"loss": {"spectrogram": "l2"}}, ".loss.spectrogram must be l1 or log_mse or"),
        ({"augmentation": {"a": 0}}, ".augmentation: unknown key 'a'; known are remix"),
        ({"validation": "song"}, ".validation must be a number or a list, not 'song'"),
        ({"validation": 0}, ".validation must be a number > 0.0, not 0"),
        ({"augmentation": {"gain": 2}}, ".augmentation.gain must be a list or null, not 2"),
        ({"average": 1}, ".average must be a number < 1.0, not 1"),
        ({"batch_size": True}, ".batch_size must be a whole number, not True"),
        ({"learning_rate": True}, ".learning_rate must be a number, not True"),
        ({"nb_frames": 100}, ".nb_frames must be a multiple of 64 for this model, not 100"),
    ],
)
def test_faults_of_a_training_are_told_with_their_place(write, training, words):
    with pytest.raises(SeparationError) as raised:
        load_configuration(path := write(training=training))
    assert str(raised.value).startswith(f"{path}: training{words}")


def test_a_configuration_goes_to_json_and_comes_back(write):
    """As the config.json of a training run."""
    training = {"validation": ["one"], "learning_rate": 1, "loss": {"two_source": True}}
    configuration = load_configuration(write(training=training, weights="mine"))
    assert configuration.training.learning_rate == 1 and configuration.training.batch_size == 4
    assert parse_configuration(json.loads(json.dumps(to_json(configuration)))) == configuration
    assert load_configuration(write()).training == Training()


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "model.json"
    path.write_text('{"spleeter_2": 1, "name": "x"}')
    with pytest.raises(SeparationError, match="missing key sample_rate"):
        load_configuration(str(path))


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "cannot read"),
        ("[]", "JSON object"),
        ("[" * 99999, "cannot read"),
        (b"\xff\xfe", "cannot read"),
    ],
)
def test_what_is_not_json(tmp_path, content, words):
    path = tmp_path / "model.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SeparationError, match=words):
        load_configuration(str(path))


@pytest.mark.parametrize("descriptor", [None, 3, b"spleeter_2:mask", ["a"], "a\0b"])
def test_what_is_no_descriptor(descriptor):
    for function in (load_configuration, read_configuration):
        with pytest.raises(SeparationError, match="descriptor of a model must be a path"):
            function(descriptor)


@pytest.mark.parametrize("data", [None, [], "name", 3])
def test_what_is_no_json_object(data):
    with pytest.raises(SeparationError, match="the configuration must be of type Mapping"):
        parse_configuration(data)


def test_a_path_that_the_system_refuses(write):
    """Like a folder that must not be entered: asking for it is an error in itself."""
    with pytest.raises(SeparationError, match="there is no configuration xxx"):
        load_configuration(300 * "x")
    assert not has_weights(load_configuration(write(weights=300 * "x")).weights)


def test_a_circle_of_bases(tmp_path):
    for name, base in (("a", "b.json"), ("b", "a.json")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"spleeter_2": 1, "base": base}))
    with pytest.raises(SeparationError, match="its own base"):
        load_configuration(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "content",
    [{"base": "spleeter_2:grouped"}, {"base": "spleeter_2:mask", "name": "x"}, {"targets": []}],
)
def test_a_configuration_of_ours_without_its_format_is_told_what_it_lacks(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    for descriptor in (str(path), str(tmp_path)):
        with pytest.raises(SeparationError) as raised:
            load_configuration(descriptor)
        assert str(raised.value).startswith(f"{path} is not a spleeter-2 configuration")
        assert 'must contain "spleeter_2": 1' in str(raised.value)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5000), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-2, 3), max_size=2), st.dictionaries(st.text(max_size=2), st.integers()),
)  # fmt: skip
KEYS = st.sampled_from(
    ["name", "sample_rate", "nb_channels", "targets", "residual", "stft", "segment", "model",
     "weights", "description", "card", "source", "training", "surprise"]
)  # fmt: skip


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_whatever_a_file_says_it_loads_or_is_refused(write, changes):
    try:
        assert isinstance(load_configuration(write(**changes)), Configuration)
    except SeparationError as error:
        assert "\n" not in str(error)
