"""Folders of models as upstream leaves them, whole, half and empty."""

import os
from pathlib import Path

import pytest
from support.release import model_files

from spleeter_2.errors import ModelError
from spleeter_2.weights.folders import checkpoint_prefix, download_folder, find, missing_file


@pytest.fixture(autouse=True)
def no_model_path(monkeypatch, tmp_path):
    monkeypatch.delenv("MODEL_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_model(folder: Path, probe: bool = True, **changed: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, data in (model_files(10) | changed).items():
        (folder / name).write_bytes(data)
    if probe:
        (folder / ".probe").write_text("OK")
    return folder


@pytest.mark.parametrize("probe", [True, False])
def test_where_models_are_found(tmp_path, monkeypatch, probe):
    assert find("4stems") is None
    cached = write_model(tmp_path / "cache/spleeter-2/models/4stems", probe)
    assert find("4stems") == cached
    here = write_model(tmp_path / "pretrained_models/4stems", probe)
    assert find("4stems") == here
    monkeypatch.setenv("MODEL_PATH", "elsewhere")  # upstream's: no other folder then
    assert find("4stems") is None
    there = write_model(tmp_path / "elsewhere/4stems", probe)
    assert find("4stems") == there
    assert find(str(cached)) == cached  # an absolute model_dir
    monkeypatch.setenv("MODEL_PATH", "")
    assert find("4stems") == here


def test_an_empty_folder_is_passed_over(tmp_path):
    (tmp_path / "pretrained_models/4stems").mkdir(parents=True)
    assert find("4stems") is None
    cached = write_model(tmp_path / "cache/spleeter-2/models/4stems")
    assert find("4stems") == cached


@pytest.mark.parametrize("name", ["checkpoint", "model.index", "model.data-00000-of-00001"])
def test_a_missing_file(tmp_path, name):
    folder = write_model(tmp_path / "pretrained_models/4stems")
    (folder / name).unlink()
    assert missing_file(folder) == name
    with pytest.raises(ModelError) as error:
        find("4stems")
    assert str(error.value) == (
        f"the model {folder} is incomplete: put {name} there, or delete the folder, and one of "
        "Spleeter's released models is fetched again"
    )


def test_several_data_files(tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "model.data-00000-of-00001").rename(folder / "model.data-00000-of-00003")
    (folder / "model.data-00002-of-00003").touch()
    assert missing_file(folder) == "model.data-00001-of-00003"
    (folder / "model.data-00001-of-00003").touch()
    assert missing_file(folder) is None and checkpoint_prefix(folder) == folder / "model"


def test_a_prefix_with_odd_characters(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    prefix = 'ü "[1]\\*'
    for end in (".index", ".data-00000-of-00001"):
        (folder / (prefix + end)).touch()
    text = b'# of TensorFlow\nmodel_checkpoint_path: "\\303\\274 \\"[1]\\\\*"\n'
    (folder / "checkpoint").write_bytes(text)
    assert checkpoint_prefix(folder) == folder / prefix


def test_the_newest_of_a_training(tmp_path):
    """A user's own training: several checkpoints, one of them somewhere else."""
    folder = write_model(tmp_path / "mine")
    other = tmp_path / "other"
    text = f'model_checkpoint_path: "{other}/model.ckpt-20"\nall_model_checkpoint_paths: "model"\n'
    (folder / "checkpoint").write_text(text)
    assert missing_file(folder) == f"{other}/model.ckpt-20.index"
    other.mkdir()
    for end in (".index", ".data-00000-of-00001"):
        (other / f"model.ckpt-20{end}").touch()
    assert checkpoint_prefix(folder) == other / "model.ckpt-20"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00" * 100,
        b'model_checkpoint_path: ""',
        b'model_checkpoint_path: "a\\0"',
        b'model_checkpoint_path: "\\377"',
        b'all_model_checkpoint_paths: "model"',
        b"<html>",
    ],
)
def test_a_damaged_checkpoint_file(tmp_path, text):
    folder = write_model(tmp_path / "pretrained_models/4stems", checkpoint=text)
    with pytest.raises(ModelError, match="4stems: the file checkpoint names none"):
        find("4stems")
    assert folder.is_dir()


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "pretrained_models").mkdir()
    (tmp_path / "pretrained_models/4stems").touch()
    with pytest.raises(ModelError, match="cannot read the model .*/4stems: Not a directory"):
        find("4stems")
    with pytest.raises(ModelError, match="cannot read the model .*: .*embedded null"):
        find("a\0b")
    with pytest.raises(ModelError, match="cannot read the model .*: File name too long"):
        find("a" * 300)
    write_model(tmp_path / "pretrained_models/2stems")
    (tmp_path / "pretrained_models/2stems/checkpoint").unlink()
    (tmp_path / "pretrained_models/2stems/checkpoint").mkdir()
    with pytest.raises(ModelError, match="2stems: the file checkpoint is missing"):
        find("2stems")


def test_without_a_home(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    assert find("4stems") is None
    with pytest.raises(ModelError, match="there is no home folder for .*: name a folder in MODEL_"):
        download_folder()
    monkeypatch.setenv("MODEL_PATH", str(tmp_path))
    assert find("4stems") is None


def test_tensorflow_finds_the_same_checkpoint(tmp_path):
    import tensorflow as tf

    for number, name in enumerate(("model", "ü \"x'")):
        folder = tmp_path / str(number)
        tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(folder / name))
        tf.compat.v1.train.update_checkpoint_state(str(folder), str(folder / name))
        assert str(checkpoint_prefix(folder)) == tf.train.latest_checkpoint(str(folder))
