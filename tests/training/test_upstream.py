"""Training by configurations of Spleeter: its loss, its network, its data sets."""

import json
import logging

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from msgspec.structs import replace
from support.spleeter_models import write_spleeter_model

from spleeter_2 import Separator
from spleeter_2.config.loading import load_configuration
from spleeter_2.config.training import LossOptions
from spleeter_2.data.songs import training_songs
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.models.variables import assign, named_variables
from spleeter_2.training.distillation import Teachers
from spleeter_2.training.losses import build_loss
from spleeter_2.training.model import TrainingModel
from spleeter_2.training.train import train
from spleeter_2.training.trainer import start_from

INSTRUMENTS = ["speech", "music", "rest"]
FILTERS = [2, 3, 4, 5, 6, 7]
SMALL = {
    "train_csv": "lists/train.csv",
    "validation_csv": "lists/validation.csv",
    "model_dir": "mine",
    "mix_name": "mix",
    "instrument_list": INSTRUMENTS,
    "sample_rate": 8000,
    "frame_length": 256,
    "frame_step": 64,
    "T": 64,
    "F": 64,
    "n_channels": 2,
    "separation_exponent": 2,
    "mask_extension": "average",
    "learning_rate": 1e-3,
    "batch_size": 2,
    "training_cache": "training_cache",
    "train_max_steps": 5,
    "random_seed": 3,
    "save_checkpoints_steps": 3,
    "model": {
        "type": "unet.unet",
        "params": {
            "conv_activation": "ELU",
            "deconv_activation": "ELU",
            "conv_n_filters": FILTERS,
        },
    },
}
# Spleeter's own 4stems, as its package has it
FOUR_STEMS = {
    "train_csv": "path/to/train.csv",
    "model_dir": "4stems",
    "mix_name": "mix",
    "instrument_list": ["vocals", "drums", "bass", "other"],
    "learning_rate": 1e-4,
    "batch_size": 4,
    "train_max_steps": 1500000,
    "random_seed": 3,
    "save_checkpoints_steps": 300,
    "model": {
        "type": "unet.unet",
        "params": {"conv_activation": "ELU", "deconv_activation": "ELU"},
    },
}


@pytest.fixture
def write(tmp_path):
    """Write a configuration of Spleeter with changes."""

    def write(name="small", given=SMALL, **changes) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**given, **changes}))
        return str(path)

    return write


def batch_of(configuration, seed=0):
    """A batch of two examples of noise, complex64 in the model's band."""
    rng = np.random.default_rng(seed)
    shape = (2, len(configuration.targets), 64, 64, 2)
    targets = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    return {"mixture": targets.sum(axis=1), "targets": targets}


def test_a_model_that_ships_is_trained_as_its_configuration(write):
    path = write("4stems", FOUR_STEMS)
    shipped, given = (load_configuration(x) for x in ("spleeter:4stems", path))
    facts = {"description": shipped.description, "card": shipped.card}
    assert replace(given, **facts) == replace(shipped, weights=None)
    assert given.training.augmentation == type(given.training.augmentation)()
    assert given.training.steps_per_epoch * given.training.epochs == 1500000


@pytest.mark.parametrize("kind", ["unet.unet", "unet.softmax_unet"])
def test_the_loss_is_that_of_spleeter(write, kind):
    """Per instrument the mean |output - label| of magnitudes, summed; by hand, with gradients."""
    configuration = load_configuration(write(model={**SMALL["model"], "type": kind}))
    tf.keras.utils.set_random_seed(0)
    options = configuration.training
    model = TrainingModel(
        build_model(configuration, band_only=True),
        configuration.targets,
        options,
        build_loss(options.loss, configuration.stft.frame_length),
    )
    batch = batch_of(configuration)
    estimates = model(batch["mixture"], training=True)
    # neither dropout nor the statistics of the batch: Spleeter's learning phase is off
    np.testing.assert_array_equal(estimates, model(batch["mixture"], training=False))
    outputs, labels = np.abs(estimates), np.abs(batch["targets"])
    expected = sum(np.mean(np.abs(outputs[:, i] - labels[:, i])) for i in range(3))
    assert float(tf.reduce_mean(model.loss_function(batch, estimates))) == pytest.approx(
        expected, rel=1e-5
    )
    with tf.GradientTape(persistent=True) as tape:
        estimates = model(batch["mixture"], training=True)
        ours = tf.reduce_mean(model.loss_function(batch, estimates))
        theirs = tf.add_n(
            [tf.reduce_mean(tf.abs(tf.abs(estimates[:, i]) - labels[:, i])) for i in range(3)]
        )
    assert len(model.trained) == len(model.network.trainable_variables) + 2 * 3 * 11
    for found, wanted in zip(
        tape.gradient(ours, model.trained), tape.gradient(theirs, model.trained), strict=True
    ):
        scale = float(tf.reduce_max(tf.abs(wanted)))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * scale)


def write_songs(folder, nb_songs=3):
    """Songs of three instruments, and CSV files with paths relative to the folder."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(nb_songs):
        (folder / f"song{number}").mkdir(parents=True)
        paths = [f"song{number}/{name}.wav" for name in INSTRUMENTS]
        for path in paths:
            soundfile.write(folder / path, rng.uniform(-0.3, 0.3, (16000, 2)), 8000)
        lines.append(",".join([f"song{number}/mix.wav", *paths, "2.0"]))
    header = ",".join(["mix_path", *(f"{name}_path" for name in INSTRUMENTS), "duration"])
    (folder / "lists").mkdir()
    for name, part in (("train", lines[:-1]), ("validation", lines[-1:])):
        (folder / "lists" / f"{name}.csv").write_text("\n".join([header, *part]) + "\n")


@pytest.mark.slow
def test_it_trains_and_the_run_separates(write, tmp_path, caplog):
    """Spleeter's own lists are the data set; the run's folder is a model, masks included."""
    caplog.set_level(logging.INFO)
    write_songs(tmp_path / "songs")
    path = write()
    run = train(path, tmp_path / "songs", tmp_path / "run", tmp_path / "cache", verbose=0)
    (note,) = (text for text in caplog.messages if "is a configuration of Spleeter" in text)
    assert note.endswith("trainer; model_dir, mix_name and training_cache have no effect here")
    assert "validated with: song2" in caplog.messages
    progress = json.loads((run / "run.json").read_text())
    assert progress["step"] == 6 and len(progress["history"]) == 2
    assert set(progress["history"][0]) > {"val_loss", *(f"val_sdr_{name}" for name in INSTRUMENTS)}
    assert (run / "best" / "model.onnx").is_file()
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, (8000, 2)).astype(np.float32)
    separator = Separator(run)
    assert separator.configuration.model_dir is None
    stems = separator.separate(noise)
    assert list(stems) == INSTRUMENTS
    np.testing.assert_allclose(sum(stems.values()), noise, atol=1e-4)  # ratio masks


def test_lists_that_do_not_exist_are_named(write, tmp_path, caplog, monkeypatch):
    """Then the songs are those of the folder, as for a model of ours."""
    caplog.set_level(logging.INFO)
    write_songs(tmp_path / "songs")
    monkeypatch.setenv("MODEL_PATH", str(tmp_path))
    lists = {"train_csv": "path/to/train.csv", "validation_csv": "path/to/test.csv"}
    with pytest.raises(SeparationError, match="none of the 3 songs in .*/songs can be used"):
        train(
            write(**lists, instrument_list=["vocals", "rest"]), tmp_path / "songs", tmp_path / "run"
        )
    (note,) = (text for text in caplog.messages if "is a configuration of Spleeter" in text)
    assert "trainer; train_csv, validation_csv, model_dir, mix_name and training_cache have" in note
    caplog.clear()
    with pytest.raises(SeparationError, match="there are no songs in .*/songs"):
        train("spleeter:4stems", tmp_path / "songs", tmp_path / "run")
    assert not [text for text in caplog.messages if "no effect" in text]


def test_paths_of_a_list_are_relative_to_the_data(tmp_path):
    write_songs(tmp_path / "songs")
    file = tmp_path / "songs/lists/train.csv"
    assert len(training_songs(file, INSTRUMENTS, tmp_path / "songs")) == 2
    with pytest.raises(SeparationError, match="there is no file .*lists/song0"):
        training_songs(file, INSTRUMENTS)


@pytest.mark.parametrize(
    "key, value",
    [("optimizer", "Adadelta"), ("optimizer", "SGD"), ("loss_type", "weighted_L1_mask")],
)
def test_another_training_is_refused_but_not_the_model(write, tmp_path, key, value):
    path = write(**{key: value})
    assert load_configuration(path).targets == tuple(INSTRUMENTS)
    with pytest.raises(SeparationError, match=f"small.json: the trainer has no {key} {value}: rem"):
        train(path, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_sources_need_a_residual(write, tmp_path):
    write_songs(tmp_path / "songs")
    path = tmp_path / "two.json"
    loss = {"training": {"loss": {"two_source": True}}}
    path.write_text(json.dumps({"spleeter_2": 1, "base": write(), **loss}))
    with pytest.raises(SeparationError, match="two_source needs a residual, which small lacks"):
        train(str(path), tmp_path / "songs/lists/../", tmp_path / "run", tmp_path / "cache")


def test_the_penalty_counts_every_target(write):
    configuration = load_configuration(write())
    batch = batch_of(configuration)
    loss = build_loss(LossOptions("magnitude_l1", over_mixture_penalty=2.0), 256)
    plain = build_loss(LossOptions("magnitude_l1"), 256)
    estimates = np.stack([3 * batch["mixture"]] * 3, axis=1)
    # log(3) for each of three targets; the floor of -80 dB is far below
    found = (loss(batch, estimates) - plain(batch, estimates)).numpy()
    np.testing.assert_allclose(found, 2 * 3 * np.log(3), rtol=1e-3)


def test_a_start_from_spleeters_weights(write, tmp_path, monkeypatch):
    """Its names are ours; a model in the user's folder comes first, then the one that ships."""
    path = write(model_dir=str(tmp_path / "mine"))
    arrays = write_spleeter_model(tmp_path / "mine", INSTRUMENTS, FILTERS)
    network = build_model(load_configuration(path))
    assert start_from(network, path) == arrays.keys()
    for name, variable in named_variables(network).items():
        np.testing.assert_array_equal(variable, arrays[name])
    monkeypatch.setenv("MODEL_PATH", str(tmp_path))
    mask = build_model(load_configuration("spleeter_2:mask"))
    taken = start_from(mask, "spleeter:2stems")
    assert len(taken) == 70 and all(name.startswith("vocals_") for name in taken)
    with pytest.raises(SeparationError, match="training.start: "):
        start_from(network, write("gone", model_dir=str(tmp_path / "gone")))


def test_spleeters_models_are_teachers(write, tmp_path):
    path = write(model_dir=str(tmp_path / "mine"))
    arrays = write_spleeter_model(tmp_path / "mine", INSTRUMENTS, FILTERS)
    student = replace(load_configuration(path), targets=("rest", "speech"))
    network = build_model(load_configuration(path))
    assign(network, arrays, "")
    rng = np.random.default_rng(0)
    mixture = (rng.normal(size=(1, 64, 129, 2)) * (1 + 1j)).astype(np.complex64)
    teachers = Teachers(student, [path])
    teachers.stride = 1  # no roll
    found = teachers.estimates(mixture, np.array([0, 5], np.int64)).numpy()
    expected = network(mixture, training=False)
    for index, name in enumerate(student.targets):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[:, index], expected[name], atol=1e-4 * scale)
        assert np.abs(found[:, index] - found[:, 1 - index]).max() > 0.1 * scale
