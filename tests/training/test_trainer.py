"""The trainer: it learns, goes on where it stopped, keeps the best, and stops when it must."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from support.common import RATE, locked_by_another
from support.training import Tones, ValidationSet, states, trainer

from spleeter_2 import Separator
from spleeter_2.config.training import Training
from spleeter_2.console import configure_logging
from spleeter_2.errors import SeparationError
from spleeter_2.training import model as training_model
from spleeter_2.training import run_folder
from spleeter_2.training.optimizer import Adam, Schedule
from spleeter_2.training.train import train
from spleeter_2.training.trainer import start_from
from spleeter_2.weights import checkpoint as weights

pytestmark = pytest.mark.usefixtures("quick_training")

KEPT = {
    ".lock", "best", "config.json", "history.png", "run.json", "states", "tensorboard"
}  # fmt: skip


def test_it_learns_and_the_folder_is_a_model(whole, tmp_path):
    run = trainer(tmp_path / "run", epochs=12, steps_per_epoch=10)
    progress = run.fit(verbose=0)
    first, last = progress.history[0], progress.history[-1]
    assert last["val_loss"] < 0.5 * first["val_loss"]
    assert last["val_sdr_vocals"] > first["val_sdr_vocals"] + 3
    assert states(tmp_path / "run") == ["000000110", "000000120"]
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert told["history"] == progress.history and told["versions"]["tensorflow"] == tf.__version__
    assert told["data"] == {"summary": "tones"}
    picture = matplotlib.image.imread(tmp_path / "run/history.png")
    assert picture.std() > 0.05
    tone, noise = Tones()[5]
    found = Separator(str(tmp_path / "run")).separate(tone + noise)
    error = np.sum((found["vocals"] - tone) ** 2) / np.sum(tone**2)
    assert 10 * np.log10(1 / error) > 3


def test_eager_training_is_that_of_graphs(whole, tmp_path):
    graph = trainer(tmp_path / "graph", epochs=1).fit(verbose=0)
    tf.config.run_functions_eagerly(True)
    try:
        eager = trainer(tmp_path / "eager", epochs=1).fit(verbose=0)
    finally:
        tf.config.run_functions_eagerly(False)
    for name in ("loss", "val_loss", "val_sdr_vocals"):
        assert eager.history[0][name] == pytest.approx(graph.history[0][name], rel=1e-5)


class OneCrop(Tones):
    """A third of a second of real stems, over and over."""

    def __init__(self, stems):
        self.crop = np.stack([stem[RATE : RATE + 63 * 256] for stem in stems.values()])

    def __getitem__(self, index):
        return self.crop


@pytest.mark.slow
@pytest.mark.parametrize("block", ["fc", "conv", "dilated", "grouped"])
def test_it_can_learn_one_real_crop_by_heart(whole, tmp_path, stems, block):
    crop = OneCrop(stems)
    block = {"type": block, "level": 2, "width": 8}
    run = trainer(
        tmp_path,
        crop,
        stft={"frame_length": 1024, "frame_step": 256},
        segment={"nb_frames": 64, "trim": 256},
        sample_rate=RATE,
        model={
            "nb_bins": 512,
            "filters": [16, 32, 32],
            "frequency": [block],
            "head": {"type": "regression", "width": 16},
        },
        batch_size=1,
        steps_per_epoch=60,
        epochs=2,
        loss={"spectrogram": "log_mse"},
    )
    run.validation.examples = ValidationSet([crop[0]])
    first, last = run.fit(verbose=0).history
    assert last["val_sdr_vocals"] > 8 and last["val_sdr_accompaniment"] > 13, last


def test_adam_is_that_of_keras():
    options = Training(learning_rate=0.1, schedule="cosine", warmup_steps=3, epochs=1)
    ours, theirs = (tf.Variable([[1.0, -2.0, 0.0]]) for _ in range(2))
    quick = Adam(Schedule.of(options, 1.0))
    plain = tf.keras.optimizers.Adam(Schedule.of(options, 1.0))
    for step in range(8):
        gradient = tf.constant([[np.sin(step), 1e-3 * step, 100.0]], tf.float32)
        quick.apply_gradients([(gradient, ours)])
        plain.apply_gradients([(gradient, theirs)])
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert abs(ours[0, 2]) > 0.5
    for one, other in zip(quick.variables, plain.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-5)  # 1 - 0.999 in float32


@pytest.mark.parametrize(
    ("average", "taught"),
    [
        (0.9, False),
        pytest.param(0.0, False, marks=pytest.mark.slow),
        pytest.param(0.0, True, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, average, taught):
    options = {"average": average, "schedule": "cosine", "warmup_steps": 3}
    if taught:
        trainer(tmp_path / "teacher", epochs=1).fit(verbose=0)
        options["teachers"] = [str(tmp_path / "teacher")]
    whole = trainer(tmp_path / "whole", **options)
    whole.fit(verbose=0)

    class Stop(BaseException):
        pass

    cut = trainer(tmp_path / "cut", **options)
    step = cut.model.make_train_function()

    def until_five(iterator):
        if cut.step == 5:
            raise Stop
        return step(iterator)

    cut.model.make_train_function = lambda: until_five
    cut.model.train_function = until_five
    with pytest.raises(Stop):
        cut.fit(verbose=0)
    assert states(tmp_path / "cut") == ["000000004", "000000005"]
    resumed = trainer(tmp_path / "cut", **options)
    assert resumed.step == 5
    resumed.fit(verbose=0)
    assert resumed.step == whole.step == 12
    for name, value in whole.model.values().items():
        np.testing.assert_allclose(resumed.model.values()[name], value, rtol=1e-5, atol=1e-6)
    assert resumed.progress.best == pytest.approx(whole.progress.best, rel=1e-5)


def test_waiting_for_data_is_told(tmp_path, monkeypatch):
    """Three seconds of waiting, and then one of computing, by a clock of the test's own."""
    seconds = [0.0]
    monkeypatch.setattr(training_model, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))

    def batches():
        seconds[0] += 3.0
        yield tf.zeros((1,))

    def compute(batch):
        seconds[0] += 1.0
        return {}

    run = trainer(tmp_path, epochs=1)
    run.model._distributed_step = compute
    run.model.make_train_function()(batches())
    assert run.model.data_wait() == 0.75
    assert run.model.data_wait() == 0


def test_the_history_tells_how_long_was_waited(tmp_path):
    (epoch,) = trainer(tmp_path, epochs=1).fit(verbose=0).history
    assert 0 <= epoch["data_wait"] < 1


def test_stopped_while_it_validates(tmp_path):
    whole = trainer(tmp_path / "whole", epochs=2).fit(verbose=0)
    cut = trainer(tmp_path / "cut", epochs=2)
    cut.validation.run = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(verbose=0)
    assert states(tmp_path / "cut") == ["000000004"]
    progress = trainer(tmp_path / "cut", epochs=2).fit(verbose=0)
    found, expected = ([epoch["val_loss"] for epoch in p.history] for p in (progress, whole))
    assert found == pytest.approx(expected, rel=1e-5)


def test_stopped_while_it_saves(tmp_path, monkeypatch):
    """The state is written once more, from the start."""
    run = trainer(tmp_path, epochs=1)
    write = weights.write_checkpoint

    def interrupted(values, folder):
        if folder.parent.name == "states":
            monkeypatch.setattr(weights, "write_checkpoint", write)
            raise KeyboardInterrupt
        write(values, folder)

    monkeypatch.setattr(weights, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.fit(verbose=0)
    assert trainer(tmp_path, epochs=1).progress.epoch == 1


def test_a_finished_run_stays_and_may_be_made_longer(tmp_path):
    trainer(tmp_path, epochs=1).fit(verbose=0)
    again = trainer(tmp_path, epochs=1)
    assert again.fit(verbose=0).epoch == 1 and again.step == 4
    assert trainer(tmp_path, epochs=2).fit(verbose=0).epoch == 2
    options = {"learning_rate": 0.5, "loss": {"spectrogram": "l1"}, "seed": 1}
    for changes, words in (
        ({"learning_rate": 0.5}, r"\(training.learning_rate differs\)"),
        ({"model": {"head": {"type": "regression"}}}, r"\(model.head.type differs\)"),
        (options, r"\(training.learning_rate, training.loss.spectrogram, training.seed differ\)"),
        ({**options, "average": 0.9}, "training.loss.spectrogram and 1 more differ"),
    ):
        with pytest.raises(SeparationError, match=f"another configuration .*{words}"):
            trainer(tmp_path, epochs=2, **changes)
    assert states(tmp_path) == ["000000004", "000000008"]


def test_a_run_of_an_older_version_is_resumed(tmp_path, monkeypatch):
    """Its configuration lacks what is the default, and its teacher's path is relative to the
    working folder; another teacher is refused."""
    trainer(tmp_path / "teacher", epochs=1).fit(verbose=0)
    options = {"epochs": 1, "teachers": [str(tmp_path / "teacher")]}
    trainer(tmp_path / "run", **options).fit(verbose=0)
    config = tmp_path / "run/config.json"
    content = json.loads(config.read_text())
    for key in ("description", "card", "source"):
        del content[key]
    given = ("steps_per_epoch", "epochs", "batch_size", "learning_rate")
    content["training"] = {key: content["training"][key] for key in given}
    content["training"]["teachers"] = ["teacher"]
    config.write_text(json.dumps(content))
    with pytest.raises(SeparationError, match=r"configuration \(training.teachers differs\)"):
        trainer(tmp_path / "run", **options)
    monkeypatch.chdir(tmp_path)
    assert trainer(tmp_path / "run", **options).step == 4


def test_a_run_that_never_began_may_change(tmp_path):
    trainer(tmp_path)
    assert trainer(tmp_path, learning_rate=0.5, epochs=1).fit(verbose=0).epoch == 1


def test_a_run_that_was_killed_before_its_configuration_was_written(tmp_path):
    (tmp_path / "states").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".spleeter-2-0123456789ab-config.json").touch()
    trainer(tmp_path)
    assert not list(tmp_path.glob(".spleeter-2-*")) and (tmp_path / "config.json").is_file()


def test_a_model_of_another_kind_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"spleeter_2": 1, "weights": "."}')
    with pytest.raises(SeparationError, match="holds a run of another configuration"):
        trainer(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.slow
def test_two_at_a_time_are_one_too_many(tmp_path):
    trainer(tmp_path, epochs=1).fit(verbose=0)
    with locked_by_another(tmp_path):
        with pytest.raises(SeparationError, match="another training is at work"):
            trainer(tmp_path, epochs=2)
    assert trainer(tmp_path, epochs=2).fit(verbose=0).epoch == 2


@pytest.mark.parametrize("content", ["[]", "{", 10**5 * "["], ids=["list", "cut", "deep"])
def test_a_damaged_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "best").mkdir()
    with pytest.raises(SeparationError, match="config.json is damaged: name another folder"):
        trainer(tmp_path)
    assert (tmp_path / "config.json").read_text() == content


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "song.wav").write_text("mine")
    with pytest.raises(SeparationError, match="holds other files"):
        trainer(tmp_path)
    assert os.listdir(tmp_path) == ["song.wav"]
    with pytest.raises(SeparationError, match="cannot write"):
        trainer(tmp_path / "song.wav" / "run")


def test_early_stopping_keeps_the_best(tmp_path):
    """At a rate of next to nothing the validation loss does not fall."""
    options = {"patience": 2, "learning_rate": 1e-30, "freeze_statistics": True}
    progress = trainer(tmp_path, epochs=50, **options).fit(verbose=0)
    assert progress.epoch == 3 and progress.waited == 2
    assert trainer(tmp_path, epochs=60, **options).fit(verbose=0).epoch == 3


def test_a_loss_that_is_no_number_stops_with_its_batch(tmp_path):
    class Broken(Tones):
        def __getitem__(self, index):
            return super().__getitem__(index) * (np.nan if index == 11 else 1)

    run = trainer(tmp_path, Broken())
    with pytest.raises(SeparationError, match=r"step 6, batch 5 \(examples 10 to 11\)"):
        run.fit(verbose=0)
    assert states(tmp_path) == ["000000004"]
    assert all(np.isfinite(value).all() for value in run.folder.latest()[0].values())


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_what_was_trained_before(tmp_path, rate):
    """A new part beside frozen ones learns alone; at a lower rate the old ones move less."""
    trainer(tmp_path / "old", epochs=1).fit(verbose=0)
    block = {"type": "grouped", "level": 2, "bands": 2, "kernel_size": 3, "width": 4}
    options = {"start": str(tmp_path / "old"), "pretrained_rate": rate, "epochs": 1}
    run = trainer(tmp_path / "new", model={"frequency": [block]}, **options)
    before = run.model.values()
    run.fit(verbose=0)
    moved = {name: np.abs(v - before[name]).max() for name, v in run.model.values().items()}
    old = moved["network/vocals_encoder_2_conv/kernel"]
    new = moved["network/vocals_frequency_2_project/kernel"]
    assert new > 0.01 and (old == 0 if rate == 0 else 0 < old < 0.3 * new)
    with pytest.raises(SeparationError, match="nothing is left to train"):
        trainer(tmp_path / "all", start=str(tmp_path / "old"), pretrained_rate=0.0)


def test_statistics_stay_on_request(tmp_path):
    for name, frozen in (("frozen", True), ("free", False)):
        run = trainer(tmp_path / name, epochs=1, freeze_statistics=frozen)
        before = run.model.values()
        run.fit(verbose=0)
        after = run.model.values()
        layer = "network/vocals_encoder_1_norm/"
        assert (before[f"{layer}moving_mean"] == after[f"{layer}moving_mean"]).all() == frozen
        assert (before[f"{layer}gamma"] != after[f"{layer}gamma"]).any()


def test_averages_are_validated_and_saved(tmp_path):
    run = trainer(tmp_path, epochs=1, average=0.99)
    run.fit(verbose=0)
    raw = run.model.values()["network/vocals_encoder_1_conv/kernel"]
    averaged = run.model.averaged()["vocals_encoder_1_conv/kernel"]
    assert np.abs(raw - averaged).max() > 1e-4
    best = weights.read_checkpoint(tmp_path / "best")["vocals_encoder_1_conv/kernel"]
    np.testing.assert_array_equal(best, averaged)
    with run.model.with_averages():
        found = run.validation.run(run.model)
    assert found["val_loss"] == pytest.approx(run.progress.history[0]["val_loss"], rel=1e-5)
    assert found["val_loss"] != pytest.approx(run.validation.run(run.model)["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_killed_while_it_writes(tmp_path):
    """Killed between two files of a state: the one before it is there and is gone on from."""
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "import support.training, spleeter_2.training.run_folder as t\n"
        "write = t.write_json\n"
        "def killed(path, data):\n"
        "    if path.name == 'progress.json' and data['step'] == 8:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(path, data)\n"
        "t.write_json = killed\n"
        "support.training.trainer(Path(sys.argv[1])).fit(verbose=0)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(states(tmp_path)) == 2  # a whole one, and what was being written
    run = trainer(tmp_path)
    assert run.step == 4 and states(tmp_path) == ["000000004"]
    assert run.fit(verbose=0).epoch == 3


@pytest.mark.parametrize("what", ["tensorboard", "state", "summary"])
def test_a_write_that_fails_names_the_folder(whole, tmp_path, file_size_limit, what):
    """Existing files stay complete, and the run can be resumed."""
    run = trainer(tmp_path, epochs=2)
    owner, name = {
        "tensorboard": (run.tensorboard, "write"),
        "state": (run.folder, "save_best"),
        "summary": (run.folder, "write_summary"),
    }[what]
    write = getattr(owner, name)

    def limited(*arguments):
        if run.step == 8:
            file_size_limit(100)
        write(*arguments)

    setattr(owner, name, limited)
    with pytest.raises(SeparationError) as raised:
        run.fit(verbose=0)
    assert re.fullmatch(rf"cannot write {tmp_path}\S*: File too large", str(raised.value))
    file_size_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert not [path.name for path in tmp_path.iterdir() if path.name not in KEPT]
    assert matplotlib.image.imread(tmp_path / "history.png").std() > 0
    assert trainer(tmp_path, epochs=2).step == (8 if what == "summary" else 4)


def test_a_picture_that_cannot_be_drawn_does_not_end_a_training(tmp_path, monkeypatch, capfd):
    def failing(history, path):
        path.touch()
        raise RuntimeError("no fonts")

    monkeypatch.setattr(run_folder, "draw_curves", failing)
    configure_logging()
    assert trainer(tmp_path, epochs=1).fit(verbose=0).epoch == 1
    target = tmp_path / "history.png"
    assert f"note: {target} is not drawn (RuntimeError: no fonts)" in capfd.readouterr().err
    assert not target.exists() and not list(tmp_path.glob(".spleeter-2-*"))


def test_a_damaged_state_falls_back_on_the_one_before(tmp_path):
    trainer(tmp_path, epochs=2).fit(verbose=0)
    data = tmp_path / "states/000000008/checkpoint.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    assert trainer(tmp_path, epochs=2).step == 4


def test_a_start_must_fit(tmp_path):
    trainer(tmp_path, epochs=1).fit(verbose=0)
    run = trainer(tmp_path / "other")
    with pytest.raises(SeparationError, match="has no weights"):
        start_from(run.model.network, "spleeter_2:lasaft")
    weights.write_checkpoint({"x": np.zeros(3)}, tmp_path / "best")
    with pytest.raises(SeparationError, match="nothing of .* fits this model"):
        start_from(run.model.network, str(tmp_path))


def test_tensorboard(whole, tmp_path):
    """TensorBoard's own reader finds numbers, pictures and sounds of every epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(tmp_path, epochs=2)
    run.fit(verbose=0)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0})
    events.Reload()
    found = set(events.Tags()["tensors"])
    names = {
        f"{stem}/{what}" for stem in ("vocals", "accompaniment") for what in ("truth", "estimate")
    }
    assert {*names, "mixture", "loss", "val_loss", "val_sdr_vocals"} <= found
    losses = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("val_loss")]
    assert [event.step for event in events.Tensors("val_loss")] == [4, 8]
    assert losses == pytest.approx([epoch["val_loss"] for epoch in run.progress.history], rel=1e-5)
    _, _, picture = tf.make_ndarray(events.Tensors("vocals/truth")[0].tensor_proto)[:3]
    level = tf.io.decode_png(picture).numpy()[::-1, :, 0].mean(axis=1)
    assert 3 <= level.argmax() <= 15  # the tone lies between 200 and 900 Hz, bins of 62.5 Hz


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"descriptor": None}, "descriptor of a model must be a path"),
        ({"data": None}, "data must be a path, not None"),
        ({"data": b"songs"}, "data must be a path"),
        ({"folder": 3}, "folder must be a path, not 3"),
        ({"cache": ["a"]}, "cache must be a path"),
        ({"verbose": "loud"}, "verbose must be 'auto', 0, 1 or 2, not 'loud'"),
    ],
)
def test_arguments_of_a_wrong_kind(options, words, tmp_path):
    with pytest.raises(SeparationError, match=words):
        train(**{"descriptor": "spleeter_2:mask", "data": str(tmp_path), **options})
    assert list(tmp_path.iterdir()) == []
