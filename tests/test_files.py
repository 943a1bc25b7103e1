import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import files_below

from spleeter_2.errors import SeparationError
from spleeter_2.files import Draft, atomic_file, atomic_folder, lock, write_json, write_text


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "a" / "b" / "song.wav"
    with atomic_file(target) as path:
        assert path.suffix == ".wav" and path.parent == target.parent and not target.exists()
        path.write_text("new")
    assert files_below(tmp_path) == ["a/b/song.wav"] and target.read_text() == "new"


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_an_exception_leaves_nothing(tmp_path, atomic):
    with pytest.raises(KeyError), atomic(tmp_path / "a" / "b" / "target"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "x", "old")
    with pytest.raises(KeyError), atomic_file(tmp_path / "x") as path:
        path.write_text("half")
        raise KeyError
    assert files_below(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


def test_a_folder_replaces_another(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / content).touch()
    assert files_below(tmp_path) == ["model/new"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "model") as folder:
        (folder / "half").touch()
        raise KeyError
    assert files_below(tmp_path) == ["model/new"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "old").touch()
    rename = os.rename

    def failing(source, target):
        if "-old-" not in str(source) and Path(target).name == "model":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(SeparationError, match="cannot write .*model: Input/output error"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "new").touch()
    assert files_below(tmp_path) == ["model/old"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "x").touch()
    assert (tmp_path / "link").is_symlink() and files_below(tmp_path / "real") == ["x"]


@pytest.mark.parametrize("name", ["taken", 300 * "x", "file/x", "a/b/" + 300 * "x"])
def test_a_target_that_cannot_be_written(tmp_path, name):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    words = "cannot write .*: (a folder has this name|File name too long|Not a directory)"
    with pytest.raises(SeparationError, match=words), atomic_file(tmp_path / name):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_full_disk(tmp_path, file_size_limit):
    file_size_limit(1000)
    with pytest.raises(SeparationError, match="cannot write .*x: File too large"):
        write_text(tmp_path / "x", 2000 * "x")
    assert list(tmp_path.iterdir()) == []


def test_json(tmp_path):
    write_json(tmp_path / "x.json", {"ä": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"ä": [1, None]}


def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    script = (
        "import os, sys\n"
        "from spleeter_2.files import Draft\n"
        "Draft(sys.argv[1] + '/vocals.wav'), Draft(sys.argv[1] + '/model', is_folder=True)\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".spleeter-2-notes").touch()
    with Draft(tmp_path / "in work") as other:
        write_text(tmp_path / "x", "")
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {other.path.name, ".spleeter-2-notes", "x"}


def test_folders_that_two_make_at_once(tmp_path, monkeypatch):
    """Between the look and the making another process has made the folder, for its own file."""
    make = Path.mkdir

    def late(folder):
        make(folder)
        make(folder)

    monkeypatch.setattr(Path, "mkdir", late)
    with Draft(tmp_path / "a" / "b" / "mine") as draft:
        draft.publish()
    assert files_below(tmp_path) == ["a/b/mine"]
    with Draft(tmp_path / "c" / "mine"):
        pass
    assert (tmp_path / "c").is_dir()  # it is the other's


def test_a_lock_is_for_one_process(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from spleeter_2.files import lock\n"
        "held = lock(Path(sys.argv[1]), '')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SeparationError, match="somebody is here"):
            lock(tmp_path, "somebody is here")
        other.stdin.close()
    held = lock(tmp_path, "somebody is here")
    held.release()
    lock(tmp_path, "somebody is here").release()
