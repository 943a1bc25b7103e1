"""``spleeter models --download``, from a local server."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from support.common import files_below
from support.release import INDEX, model_files, serving, stalled, use

from spleeter_2.cli.main import entrypoint

COMPLETE = sorted([*model_files(), ".probe"])


@pytest.fixture
def release(monkeypatch, tmp_path):
    with serving() as found:
        use(found, monkeypatch, tmp_path / "models")
        found.add("4stems")
        yield found


@pytest.mark.parametrize("name", ["spleeter:4stems", "4stems", "spleeter:4stems-16kHz"])
def test_a_model_is_downloaded_once(release, program, tmp_path, name):
    folder = tmp_path / "models/4stems"
    status, output = program(entrypoint, "models", "--download", name)
    full = "spleeter:" + name.removeprefix("spleeter:")
    assert status == 0 and output.splitlines() == [
        f"{full} is in {folder}",
        f"spleeter: fetching the model 4stems (0.3 MB) from 127.0.0.1 into {folder}",
    ]
    assert files_below(folder) == COMPLETE
    status, output = program(entrypoint, "models", "--download", name)
    assert status == 0 and output == f"{full} is in {folder}\n"
    assert [each for each, _ in release.requests] == [INDEX, "4stems.tar.gz"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["--download", "spleeter:9stems"],
            "known models: spleeter:2stems, spleeter:2stems-16kHz, ",
        ),
        (
            ["--download", "spleeter_2:mask"],
            "spleeter_2:mask is no model of Spleeter, whose weights are fetched",
        ),
        (["--download", "spleeter:4stems", "mask"], "two commands"),
        (["--download", "spleeter:5stems"], "release v1.4.0 has no model 5stems, only 4stems"),
    ],
)
def test_refused_with_one_sentence(release, program, arguments, words):
    status, output = program(entrypoint, "models", *arguments)
    assert status == 1 and words in output and output.count("\n") == 1


def test_ctrl_c_and_again(release, program, tmp_path):
    release.answers["4stems.tar.gz"] = stalled("4stems.tar.gz", 250_000)
    command = [sys.executable, "-m", "spleeter_2", "models", "--download", "spleeter:4stems"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        for _ in range(600):
            if any(os.path.getsize(path) > 1e5 for path in tmp_path.glob("models/.*.part")):
                break
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, messages = running.communicate(timeout=20)
    assert running.returncode == 130
    assert b"MB are kept: the next download resumes" in messages and b"Traceback" not in messages
    release.answers.clear()
    status, output = program(entrypoint, "models", "--download", "spleeter:4stems")
    assert status == 0 and "MB are there)" in output
    assert files_below(tmp_path / "models/4stems") == COMPLETE
    assert release.requests[-1][1].startswith("bytes=")


def test_a_bar_on_a_terminal(release, tmp_path):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 25, 100, 0, 0))
    command = [sys.executable, "-m", "spleeter_2", "models", "--download", "spleeter:4stems"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 0 and done.stdout.decode().endswith("models/4stems\n")
    size = len(release.files["4stems.tar.gz"]) / 1000
    assert "4stems: 100%" in shown and f"{size:.0f}k/{size:.0f}k" in shown
