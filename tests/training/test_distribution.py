"""Training on several devices: two workers, or two devices of one, do what a single device does."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.training import Tones, states, trainer

from spleeter_2.errors import SeparationError
from spleeter_2.training.batches import as_tf_dataset
from spleeter_2.training.distribution import Distribution, _parse_tf_config

# Adam multiplies the rounding of a gradient near its epsilon: a higher rate would show that
OPTIONS = {"batch_size": 4, "learning_rate": 3e-4, "average": 0.9, "schedule": "cosine"}
BLOCK = {"type": "grouped", "level": 2, "bands": 2, "kernel_size": 3, "width": 4}
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np, tensorflow as tf, support.training
from spleeter_2.training.distribution import Distribution
from spleeter_2.errors import SeparationError
folder, out, options, *mirrored = sys.argv[2:]
folder, options = Path(folder), json.loads(options)
if mirrored:
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    distribution = Distribution(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
else:
    distribution = Distribution.from_environment()
try:
    run = support.training.trainer(folder, distribution=distribution, **options)
    run.fit(verbose=0)
except SeparationError as error:
    sys.exit(str(error))
np.savez(out, **run.model.values())
"""


def process(folder, out, options, *mirrored, **environment):
    """Start a process that trains and writes what it has learned."""
    arguments = [
        str(Path(__file__).parents[1]),
        str(folder),
        str(out),
        json.dumps(options),
        *mirrored,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def two_workers(tmp_path, options):
    """The chief trains in ``tmp_path/chief``; the other is told another folder."""
    with contextlib.ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.socket()) for _ in range(2)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        places = [f"127.0.0.1:{one.getsockname()[1]}" for one in found]
    running = []
    for index, name in enumerate(("chief", "other")):
        task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
        out = tmp_path / f"{name}.npz"
        running.append(process(tmp_path / name, out, options, TF_CONFIG=json.dumps(task)))
    try:
        yield running
    finally:
        for one in running:
            one.kill()
            one.communicate()


def ended(running, timeout=120):
    """Status and messages of a process."""
    _, messages = running.communicate(timeout=timeout)
    return running.returncode, messages


def same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def losses(folder):
    history = json.loads((folder / "run.json").read_text())["history"]
    return np.array([[epoch["loss"], epoch["val_loss"]] for epoch in history])


@pytest.mark.slow
def test_two_workers_go_on_as_one_process_would(tmp_path):
    """One epoch on one device, the second by two workers, is two epochs on one device."""
    options = {**OPTIONS, "model": {"frequency": [BLOCK]}}
    whole = trainer(tmp_path / "whole", epochs=2, **options)
    whole.fit(verbose=0)
    first = trainer(tmp_path / "chief", epochs=2, **options)
    first.folder.save_best = lambda values: None
    first._fit(1, 4, 0)
    first.folder.release()  # as when its process ends
    with two_workers(tmp_path, {**options, "epochs": 2}) as running:
        for one in running:
            status, messages = ended(one)
            assert status == 0, messages
    for name in ("chief", "other"):
        same(dict(np.load(tmp_path / f"{name}.npz")), whole.model.values())
    expected = losses(tmp_path / "whole")
    np.testing.assert_allclose(losses(tmp_path / "chief"), expected, rtol=1e-5)
    assert not (tmp_path / "other").exists()  # only the chief writes
    assert states(tmp_path / "chief") == ["000000004", "000000008"]
    again = trainer(tmp_path / "chief", epochs=2, **options)
    same(again.model.values(), whole.model.values())


@pytest.mark.slow
def test_two_devices_of_one_process_with_a_teacher(tmp_path):
    trainer(tmp_path / "teacher", epochs=1, steps_per_epoch=1).fit(verbose=0)
    options = {**OPTIONS, "epochs": 1, "teachers": [str(tmp_path / "teacher")]}
    whole = trainer(tmp_path / "whole", **options)
    whole.fit(verbose=0)
    status, messages = ended(process(tmp_path / "two", tmp_path / "two.npz", options, "mirrored"))
    assert status == 0, messages
    same(dict(np.load(tmp_path / "two.npz")), whole.model.values())
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "whole"), rtol=1e-5)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_other_with_a_sentence(tmp_path):
    with two_workers(tmp_path, {**OPTIONS, "epochs": 10**4, "schedule": "constant"}) as running:
        deadline = time.monotonic() + 100
        while not list((tmp_path / "chief").glob("states/[0-9]*")):
            assert time.monotonic() < deadline and running[0].poll() is None
            time.sleep(0.1)
        running[1].send_signal(signal.SIGKILL)
        status, messages = ended(running[0])
    assert status == 1 and "another worker has stopped" in messages
    assert "Traceback" not in messages
    run = trainer(tmp_path / "chief", epochs=10**4, **{**OPTIONS, "schedule": "constant"})
    assert run.step >= 4 and run.step % 4 == 0  # a step that was cut is nothing to go on from


def test_shares_of_a_batch():
    """Two workers of two devices get the batches of one device, in its order."""
    examples = [np.full((1, 1), index) for index in range(40)]
    batches = [
        as_tf_dataset(examples, 8, 4, lambda x: x, worker=worker, nb_workers=2, nb_devices=2)
        for worker in (0, 1)
    ]
    found = [[x.numpy().ravel().tolist() for x in shares.take(4)] for shares in batches]
    assert found[0] == [[8, 9], [10, 11], [16, 17], [18, 19]]
    assert found[1] == [[12, 13], [14, 15], [20, 21], [22, 23]]


def test_one_device_is_alone():
    alone = Distribution()
    assert alone.chief and alone.nb_replicas == 1
    assert alone.broadcast_json({"a": [1]}) == {"a": [1]}
    alone.check_batch_size(3)
    batch = next(iter(alone.dataset(Tones(), 6, 2, lambda stems: stems)))
    np.testing.assert_array_equal(batch, np.stack([Tones()[6], Tones()[7]]))


@pytest.mark.slow
def test_workers_may_have_their_models_in_different_folders(tmp_path):
    class Witness(Distribution):
        def require_equal(self, facts):
            seen.append(json.dumps(facts))

    seen = []
    for name in ("one/old", "two/old", "two/other"):
        trainer(tmp_path / name, epochs=1, steps_per_epoch=1).fit(verbose=0)
        start = str(tmp_path / name)
        trainer(tmp_path / f"{name}-run", distribution=Witness(), start=start)
    assert seen[0] == seen[1] != seen[2]


def test_places_of_tf_config():
    cluster = {"worker": ["a:1", "b:1"]}
    task = {"type": "worker", "index": 1}
    assert _parse_tf_config("") == (0, 1)
    assert _parse_tf_config(json.dumps({"cluster": cluster, "task": task})) == (1, 2)
    assert _parse_tf_config(
        json.dumps({"cluster": {"chief": ["c:1"], **cluster}, "task": task})
    ) == (2, 3)
    for wrong in ("{", "[]", "{}", json.dumps({"cluster": cluster, "task": {"type": "ps"}})):
        with pytest.raises(SeparationError, match="TF_CONFIG does not read like"):
            _parse_tf_config(wrong)
    beyond = {"cluster": cluster, "task": {"type": "worker", "index": 2}}
    with pytest.raises(SeparationError, match="TF_CONFIG does not read like"):
        _parse_tf_config(json.dumps(beyond))


def test_a_wrong_tf_config_is_refused_first(spleeter, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    status, messages = spleeter("train", "-p", "spleeter_2:grouped", "-d", tmp_path / "none")
    assert status == 1 and "TF_CONFIG does not read like" in messages
