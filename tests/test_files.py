import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.common import files_below, locked_by_another

from spleeter_2 import files
from spleeter_2.errors import SeparationError
from spleeter_2.files import (
    Draft,
    atomic_file,
    atomic_folder,
    lock,
    user_cache,
    write_json,
    write_text,
)


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("taken", "a folder has this name"),
        (300 * "x", "File name too long"),
        ("a/b/" + 300 * "x", "File name too long"),
        ("file/x", "Not a directory"),
        ("dangling/x", "No such file or directory"),
    ],
)
def test_a_target_that_cannot_be_written(tmp_path, name, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(SeparationError, match=f"cannot write .*: {words}"):
        with atomic_file(tmp_path / name):
            raise AssertionError("refused too late")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "taken"]


@pytest.mark.parametrize(
    ("atomic", "name", "words"),
    [
        (atomic_file, "pipe", "a device has this name"),
        (atomic_folder, "pipe", "a file has this name"),
        (atomic_folder, "file", "a file has this name"),
        (atomic_folder, 300 * "x", "File name too long"),
    ],
)
def test_nothing_of_another_kind_is_replaced(tmp_path, atomic, name, words):
    """A report to /dev/null must not make a file of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SeparationError, match=f"cannot write .*: {words}"):
        with atomic(tmp_path / name):
            raise AssertionError("refused too late")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_the_longest_name(tmp_path, atomic):
    name = 62 * "\N{GRINNING FACE}" + ".x"  # 250 bytes of the 255 that file systems take
    for _ in range(2):
        with atomic(tmp_path / name) as path:
            assert path.suffix == ".x"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk(tmp_path, file_size_limit):
    file_size_limit(1000)
    with pytest.raises(SeparationError, match="cannot write .*x: File too large"):
        write_text(tmp_path / "x", 2000 * "x")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_folder_names_the_folder(tmp_path, file_size_limit):
    """Its temporary name is of no use to the user."""
    file_size_limit(1000)
    with pytest.raises(SeparationError) as raised, atomic_folder(tmp_path / "a" / "best") as path:
        write_json(path / "progress.json", 2000 * "x")
    assert str(raised.value) == f"cannot write {tmp_path / 'a' / 'best'}: File too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_folder", [False, True])
def test_an_interrupt_while_a_draft_is_made_leaves_nothing(tmp_path, monkeypatch, is_folder):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "remove_stale", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Draft(tmp_path / "a" / "b" / "x", is_folder)
    assert list(tmp_path.iterdir()) == []


def test_json(tmp_path):
    write_json(tmp_path / "x.json", {"ä": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"ä": [1, None]}


DRAFTS = """
import os, subprocess, sys
os.getpid = lambda: int(sys.argv[2])
from spleeter_2.files import Draft
Draft(sys.argv[1] + "/vocals.wav"), Draft(sys.argv[1] + "/model", is_folder=True)
print("made", flush=True)
"""
PIDS = [1, 4999999]  # as in another container: here, one always lives and the other never does


@pytest.mark.parametrize("pid", PIDS)
def test_the_next_run_removes_what_a_killed_one_left(tmp_path, pid):
    """A program that the killed one started, as ffmpeg, may still be alive."""
    script = DRAFTS + "print(subprocess.Popen(['sleep', '60']).pid, flush=True)\nos._exit(9)\n"
    command = [sys.executable, "-c", script, tmp_path, str(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "made\n"
        child = int(killed.stdout.readline())
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / ".spleeter-2-notes").touch()
        with Draft(tmp_path / "in work") as other:
            write_text(tmp_path / "x", "")
            left = {path.name for path in tmp_path.iterdir()}
        os.kill(child, signal.SIGKILL)
    assert left == {other.path.name, ".spleeter-2-notes", "x"}


@pytest.mark.parametrize("pid", PIDS)
def test_what_another_run_writes_stays(tmp_path, pid):
    command = [sys.executable, "-c", DRAFTS + "sys.stdin.read()\n", tmp_path, str(pid)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "made\n"
        drafts = {path.name for path in tmp_path.iterdir()}
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        write_text(tmp_path / "x", "")
        assert len(drafts) == 2 and {path.name for path in tmp_path.iterdir()} == drafts | {"x"}
        other.kill()
    write_text(tmp_path / "x", "")
    assert files_below(tmp_path) == ["x"] == [path.name for path in tmp_path.iterdir()]


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - 90000,) * 2)


def test_where_there_are_no_locks_a_draft_is_removed_after_a_day(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with atomic_file(tmp_path / "x") as path:
        path.write_text("whole")
    assert files_below(tmp_path) == ["x"]
    old, new = Draft(tmp_path / "old"), Draft(tmp_path / "new")
    written = Draft(tmp_path / "model", is_folder=True)  # its folder is old, a file in it is new
    (written.path / "weights").touch()
    make_old(old.path, written.path)
    files.remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"x", new.path.name, written.path.name}
    make_old(written.path / "weights", written.path)
    files.remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"x", new.path.name}
    for draft in (old, new, written):
        draft.discard()


def test_what_an_older_version_left_is_removed_after_a_day(tmp_path):
    """It holds no lock, so it may be alive."""
    names = [f".spleeter-2-1-0123abcd-{name}" for name in ("old", "new")]
    for name in names:
        (tmp_path / name).touch()
    make_old(tmp_path / names[0])
    files.remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


@pytest.mark.parametrize("is_folder", [False, True])
def test_another_run_tidies_up_before_a_new_draft_is_locked(tmp_path, monkeypatch, is_folder):
    lock_path, removed = files._lock, []

    def late(path):
        if not removed:
            removed.append(path)
            monkeypatch.setattr(files, "_lock", lock_path)
            files.remove_stale(tmp_path)
        return lock_path(path)

    monkeypatch.setattr(files, "_lock", late)
    with Draft(tmp_path / "x", is_folder) as draft:
        assert draft.path.exists() and not removed[0].exists()
        files.remove_stale(tmp_path)
        draft.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_many_runs_write_to_one_folder(tmp_path):
    """None removes another's draft before it is locked."""
    script = (
        "import sys\n"
        "from spleeter_2.files import write_text\n"
        "for index in range(200): write_text(f'{sys.argv[1]}/{sys.argv[2]}-{index}', 'x')\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, str(number)]) for number in "123"
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 600


def test_the_end_of_a_process_discards_what_an_interrupt_left(tmp_path):
    Draft(tmp_path / "a" / "x"), Draft(tmp_path / "b", is_folder=True)
    published = Draft(tmp_path / "c")
    published.publish()
    files.discard_drafts()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_another_writer_removes_the_parent_that_it_made(tmp_path, monkeypatch, is_folder):
    """As a failing stem does while the next one is about to be written to the same new cache."""
    remove_stale, calls = files.remove_stale, []

    def removing(folder):
        calls.append(folder)
        folder.rmdir() if len(calls) == 1 else remove_stale(folder)

    monkeypatch.setattr(files, "remove_stale", removing)
    with Draft(tmp_path / "a" / "b" / "x", is_folder) as draft:
        draft.publish()
    assert (tmp_path / "a" / "b" / "x").exists()


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
    with locked_by_another(tmp_path):
        with pytest.raises(SeparationError, match="somebody is here"):
            lock(tmp_path, "somebody is here")
    held = lock(tmp_path, "somebody is here")
    held.release()
    lock(tmp_path, "somebody is here").release()


def test_waiting_for_a_lock(tmp_path):
    with locked_by_another(tmp_path):
        began = time.monotonic()
        with pytest.raises(SeparationError, match="taken"):
            lock(tmp_path, "taken", timeout=0.3)
        assert time.monotonic() - began >= 0.3
        with pytest.raises(SeparationError, match="taken"):
            lock(tmp_path, "taken")
    lock(tmp_path, "taken", timeout=-1).release()


@pytest.mark.parametrize(
    "platform, name, below",
    [
        ("linux", "HOME", ".cache"),
        ("darwin", "HOME", "Library/Caches"),
        ("win32", "LOCALAPPDATA", ""),
        ("win32", "HOME", ".cache"),
        ("linux", "XDG_CACHE_HOME", ""),
        ("darwin", "XDG_CACHE_HOME", ""),
    ],
)
def test_the_users_cache(tmp_path, monkeypatch, platform, name, below):
    monkeypatch.setattr(sys, "platform", platform)
    for each in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, str(tmp_path))
    assert user_cache("models", "") == tmp_path / below / "spleeter-2" / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache("models", "").is_relative_to(tmp_path)
