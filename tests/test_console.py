"""How a program ends: signals, streams and limits of the system. All programs share ``run``."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import RATE, files_below

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ["spleeter_2", "evaluation", "weight_converter"]
STEMS = ["song/accompaniment.wav", "song/vocals.wav"]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def shell(program: str, *arguments: object, after: str = "", before: str = "", **options):
    """Run a program of ours in a shell, with redirections ``after`` it and commands ``before``."""
    line = f'{before}"$0" -m {program} "$@" {after}'
    command = ["sh", "-c", line, sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def a_program(folder: Path, body: str, **options) -> subprocess.CompletedProcess:
    """Run a command with this body; ``path`` is a file in the folder, ``kill`` a signal to it."""
    script = (
        "import os, signal, sys, time, typer\n"
        "from pathlib import Path\n"
        "from spleeter_2.console import run\n"
        "from spleeter_2.errors import SeparationError\n"
        "from spleeter_2.files import Draft, atomic_file\n"
        "application = typer.Typer(add_completion=False)\n"
        "path = Path(sys.argv.pop()) / 'a' / 'x'\n"
        "def kill(name): os.kill(os.getpid(), getattr(signal, name))\n"
        "@application.command()\n"
        "def command(verbose: bool = typer.Option(False, '--verbose')):\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
        + "run(application, 'test')\n"
    )
    command = [sys.executable, "-c", script, folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    "name, status", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGQUIT", 131)]
)
def test_a_second_signal_does_not_interrupt_the_end_of_a_command(tmp_path, name, status):
    """Neither in a block that handles the first, nor in a generator that is closed by the way."""
    body = f"""
def generator():
    try:
        with atomic_file(path):
            yield
    finally:
        for name in 2 * ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
            kill(name)
        print("closed", flush=True)
def loop():
    for _ in generator():
        kill("{name}")
try:
    loop()
finally:
    kill("SIGTERM")
    print("end", flush=True)
"""
    done = a_program(tmp_path, body)
    assert (done.returncode, done.stdout) == (status, "closed\nend\n"), done.stderr
    assert done.stderr == "test: interrupted: no incomplete output is left\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_a_finalizer_swallows_is_not_the_last(tmp_path):
    body = """
class Deaf:
    def __del__(self):
        kill("SIGINT")
Deaf()
print("goes on", flush=True)
kill("SIGINT")
time.sleep(60)
"""
    done = a_program(tmp_path, body)
    assert (done.returncode, done.stdout) == (130, "goes on\n")


@pytest.mark.parametrize("raised", ["ImportError('numpy failed to import')", "SystemError()"])
def test_what_a_signal_turns_into_is_an_interrupt(tmp_path, raised):
    """C extensions that are interrupted at import raise exceptions of their own."""
    done = a_program(tmp_path, f"try: kill('SIGINT')\nexcept BaseException: raise {raised}")
    assert done.returncode == 130
    assert done.stderr == "test: interrupted: no incomplete output is left\n"


def test_an_interrupted_program_does_not_wait_for_its_threads(tmp_path):
    """They may wait for the lock of all imports, which an interrupted import does not release."""
    body = """
import atexit, threading
atexit.register(os.write, 1, b"exit\\n")
threading.Thread(target=time.sleep, args=(3600,)).start()
kill("SIGTERM")
"""
    done = a_program(tmp_path, body)
    assert (done.returncode, done.stdout) == (143, "exit\n")
    assert done.stderr == "test: interrupted: no incomplete output is left\n"


def test_a_draft_that_no_block_holds_yet_is_removed(tmp_path):
    done = a_program(tmp_path, "Draft(path)\nDraft(path.parent / 'y', True)\nkill('SIGTERM')")
    assert done.returncode == 143 and list(tmp_path.iterdir()) == []


def test_a_signal_that_nohup_ignores_stays_ignored(tmp_path):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = a_program(tmp_path, "kill('SIGHUP')\nprint('goes on')", preexec_fn=ignore)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


@pytest.mark.parametrize(
    "raised, sentence",
    [
        ("OSError(2, 'No such file or directory', 'x')", "x: No such file or directory"),
        ("OSError(28, 'No space left on device')", "the disk is full, free some space"),
        ("OSError(24, 'Too many open files')", "too many open files: raise the limit (ulimit -n)"),
        ("SeparationError('x') from BrokenPipeError()", "x\n"),
        ("SystemError('f returned NULL without setting an exception')", "not enough memory"),
        ("MemoryError()", "not enough memory"),
        ("ImportError('x.so: failed to map segment from shared object')", "not enough memory"),
        ('RuntimeError("can\'t start new thread")', "not enough memory, or too many processes"),
        ("RuntimeError('Failed to allocate memory for requested buffer')", "not enough memory"),
    ],
)
def test_a_limit_of_the_system_is_one_sentence(tmp_path, raised, sentence):
    done = a_program(tmp_path, f"raise {raised}")
    assert done.returncode == 1 and done.stderr.startswith(f"test: error: {sentence}")
    assert done.stderr.count("\n") == 1


def test_a_bug_is_an_internal_error(tmp_path):
    done = a_program(tmp_path, "1 / 0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("test: internal error (ZeroDivisionError: division by zero);")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_disk_under_the_output(program):
    done = shell(program, "--help", after=">/dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "error: cannot write standard output: the disk is full, free some space" in done.stderr


@pytest.mark.parametrize("arguments", [["models"], ["models", "grouped"], ["--version"]])
def test_output_that_cannot_be_written(arguments, tmp_path):
    full = shell("spleeter_2", *arguments, after=">/dev/full")
    assert full.returncode == 1 and "cannot write standard output: the disk is full" in full.stderr
    limited = shell("spleeter_2", *arguments, after=f">{tmp_path}/x", before="ulimit -f 0; ")
    assert limited.returncode == 1
    assert limited.stderr == "spleeter: error: cannot write standard output: File too large\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_reader_of_the_output_that_ends_first(program):
    """Quietly, as other programs do."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", program, "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_reader_of_a_stem_that_ends_first(tiny, song):
    arguments = ["separate", "-p", tiny, "--stems", "vocals", "-o", "-", song]
    line = '{ "$0" -m spleeter_2 "$@"; echo $? >&2; } | head -c 10'
    command = ["sh", "-c", line, sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert len(done.stdout) == 10 and done.stderr == b"1\n"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_standard_streams(program, closed):
    done = shell(program, "--help", after=closed)
    assert done.returncode == 0 and done.stderr == ""
    assert ("Usage" in done.stdout) == (">&-" not in closed.split())
    done = shell(program, "--no-such-option", after=closed)
    assert done.returncode == 2 and done.stdout == ""
    assert ("o such option" in done.stderr) == ("2>&-" not in closed)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_closed_streams_cost_no_stem(tiny, song, tmp_path, closed):
    """The first file that is opened has the number of a closed stream."""
    done = shell("spleeter_2", "separate", "-p", tiny, "-o", tmp_path, song, after=closed)
    assert done.returncode == 0 and "error" not in done.stderr
    assert files_below(tmp_path) == STEMS


def test_a_stem_to_a_closed_output_is_an_error(tiny, song):
    arguments = ["separate", "-p", tiny, "--stems", "vocals", "-o", "-", song]
    done = shell("spleeter_2", *arguments, after=">&-")
    assert done.returncode == 1 and "standard output is closed" in done.stderr


@pytest.mark.parametrize("limit", ["-n 12", "-v 200000", "-v 300000"])
def test_limits_of_the_system(tiny, song, tmp_path, limit):
    """Whatever step reaches the limit first."""
    arguments = ["separate", "-p", tiny, "-o", tmp_path / "out", song]
    done = shell("spleeter_2", *arguments, before=f"ulimit {limit}; ")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    words = "too many open files" if "n" in limit else "not enough memory"
    assert done.stderr.startswith("spleeter: error: ") and words in done.stderr
    assert "ulimit" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kilobytes", [410_000, 450_000, 600_000])
def test_a_small_address_space_is_enough_or_one_sentence(tiny, song, tmp_path, kilobytes):
    arguments = ["separate", "-p", tiny, "-o", tmp_path, song]
    done = shell("spleeter_2", *arguments, before=f"ulimit -v {kilobytes}; ")
    if done.returncode == 0:
        assert files_below(tmp_path) == STEMS
    else:
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "not enough memory" in done.stderr and files_below(tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["models"], ["separate", "--help"]]
)
def test_what_writes_no_file_needs_no_folder(arguments, tmp_path):
    """Neither one for temporary files, nor a home, nor the current one."""
    gone = tmp_path / "gone"
    gone.mkdir()
    before = f"ulimit -f 0; cd {gone}; rmdir {gone}; "
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": "/proc/nowhere"}
    done = shell("spleeter_2", *arguments, before=before, env=environment)
    assert done.returncode == 0 and done.stdout and done.stderr == ""


def test_a_stem_to_the_output_needs_no_folder_for_temporary_files(tiny, song):
    arguments = ["separate", "-p", tiny, "--stems", "vocals", "-o", "-", song]
    done = shell("spleeter_2", *arguments, after="| wc -c", before="ulimit -f 0; ")
    assert done.stderr == "" and int(done.stdout) > 4 * 2 * RATE


def test_no_folder_for_temporary_files(song):
    done = shell("spleeter_2", "separate", song, before="ulimit -f 0; ")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no folder for temporary files that can be written: name an output f" in done.stderr


def test_a_current_folder_that_is_gone(song, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    before = f"cd {gone}; rmdir {gone}; "
    done = shell("spleeter_2", "separate", "-o", "out", song, before=before, env=environment)
    assert done.returncode == 1
    assert done.stderr == (
        "spleeter: error: the current folder does not exist any more: change to another one\n"
    )


def test_an_ascii_locale(tiny, song, tmp_path):
    shutil.copy(song, tmp_path / "Lied für dich.wav")
    arguments = ["separate", "-p", tiny, "-o", tmp_path / "out", tmp_path / "Lied für dich.wav"]
    done = shell("spleeter_2", *arguments, env={**os.environ, **ASCII}, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/out/Lied für dich/vocals.wav" in done.stderr
    assert len(files_below(tmp_path / "out" / "Lied für dich")) == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_in_an_ascii_locale(program):
    done = shell(program, "--help", env={**os.environ, **ASCII})
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


def test_messages_that_the_terminal_cannot_encode(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = shell("spleeter_2", "models", "nöpe", env=environment)
    assert done.returncode == 1 and "there is no model spleeter_2:n\\xf6pe" in done.stderr
