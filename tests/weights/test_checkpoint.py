"""A model's folder: written and read without TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest

from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_folder
from spleeter_2.weights.checkpoint import half_precision, read_checkpoint, write_checkpoint

ARRAYS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.array([70000.0, 1.0], np.float32),  # beyond float16
}
DATA = "checkpoint.data-00000-of-00001"


@pytest.mark.parametrize("half", [False, True])
def test_round_trip(tmp_path, half):
    write_checkpoint(half_precision(ARRAYS) if half else ARRAYS, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", DATA, "checkpoint.index"]
    assert (tmp_path / DATA).stat().st_size == 2 * 4 + 6 * (2 if half else 4)
    read = read_checkpoint(tmp_path, verify=True)
    assert list(read) == ["a/bias", "a/kernel"]
    for name, array in read.items():
        assert array.dtype == np.float32 and array.flags.writeable and array.flags.aligned
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_tensorflow_is_not_imported():
    folder = load_configuration("spleeter_2:mask").weights
    program = (
        "import sys; from pathlib import Path; from spleeter_2.weights import checkpoint\n"
        "print(len(checkpoint.read_checkpoint(Path(sys.argv[1]))), 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", program, folder]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"140 False\n"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("cut", "has 7 bytes instead of at least 32"),
        ("gone", f"{DATA}: there is no such file"),
        ("folder", f"{DATA}: there is no such file"),
        ("index", "not the index of a TensorFlow checkpoint"),
        ("none", "names 'checkpoint', which has no file .index"),
    ],
)
def test_damaged_weights_are_refused(tmp_path, fault, expected):
    write_checkpoint(ARRAYS, tmp_path)
    data = tmp_path / DATA
    if fault == "cut":
        data.write_bytes(data.read_bytes()[:7])
    elif fault in ("gone", "folder"):
        data.unlink()
        if fault == "folder":
            data.mkdir()
    elif fault == "index":
        (tmp_path / "checkpoint.index").write_bytes(b"rubbish")
    else:
        (tmp_path / "checkpoint.index").unlink()
    with pytest.raises(SeparationError) as raised:
        read_checkpoint(tmp_path)
    message = str(raised.value)
    assert "\n" not in message and str(tmp_path) in message and expected in message


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("name", [DATA, "checkpoint.index"])
def test_a_disk_that_is_full(tmp_path, name):
    """The old checkpoint stays."""
    old = tmp_path / "old"
    with atomic_folder(old) as folder:
        write_checkpoint(ARRAYS, folder)
    with pytest.raises(SeparationError) as raised, atomic_folder(old) as folder:
        (folder / name).symlink_to("/dev/full")
        write_checkpoint(ARRAYS, folder)
    assert str(raised.value) == f"cannot write {old}: the disk is full, free some space"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert read_checkpoint(old)["a/bias"][0] == 70000


def test_a_write_that_fails(tmp_path, file_size_limit):
    file_size_limit(100_000)
    with pytest.raises(SeparationError) as raised, atomic_folder(tmp_path / "new") as folder:
        write_checkpoint({"a": np.zeros(10**5, np.float32)}, folder)
    assert str(raised.value) == f"cannot write {tmp_path / 'new'}: File too large"
    assert not list(tmp_path.iterdir())


def test_statistics_in_deezers_weights_are_those_of_a_start():
    """Means 0 and variances 1 (docs/architecture.md), so fine-tuning must freeze them."""
    arrays = read_checkpoint(load_configuration("spleeter_2:mask").weights, verify=True)
    for name, expected in (("moving_mean", 0.0), ("moving_variance", 1.0)):
        found = [array for key, array in arrays.items() if key.endswith(name)]
        assert len(found) == 22 and all((array == expected).all() for array in found)
