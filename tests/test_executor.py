"""Tasks in processes of this machine and on a cluster: nothing lost when one of them dies."""

import http.server
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.common import files_below
from support.executor import (
    TESTS,
    blocked,
    cluster_of,
    die_once,
    greedy,
    half_written,
    is_profiled,
    misbehave,
    process_after,
    stubborn,
    until,
)

from spleeter_2 import __version__, executor
from spleeter_2.errors import SeparationError
from spleeter_2.executor import Cluster, Failure, interrupts_deferred, run_tasks
from spleeter_2.extras import PACKAGES

PROGRAM = """
import contextlib, sys
from pathlib import Path
import typer
from support.executor import {function}
from spleeter_2.console import run
from spleeter_2.executor import Cluster, run_tasks

application = typer.Typer()

@application.command()
def command() -> None:
    tasks = [Path({folder!r}) / name for name in ("one", "two", "three")]
    with contextlib.closing(run_tasks(tasks, {function}, Cluster({jobs}))) as results:
        for _, result in results:
            print(result, flush=True)

if __name__ == "__main__":
    run(application, "program")
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A scheduler with two workers."""
    with cluster_of(tmp_path_factory.mktemp("cluster"), 2) as processes:
        yield processes


def start(folder: Path, function, jobs: int = 2, **environment: str) -> subprocess.Popen:
    """A program that runs three tasks, files of the folder, in processes of its own."""
    script = folder.parent / f"{folder.name}.py"
    script.write_text(PROGRAM.format(function=function.__name__, folder=str(folder), jobs=jobs))
    path = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment},
    )


def workers() -> list[psutil.Process]:
    """Processes that this one has started for tasks."""
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [
        each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE
    ]


def test_a_failure_costs_its_task_alone(tmp_path, capfd):
    words = {
        "one": "one with 1 thread(s)",
        "die": "its process was killed, 2 times: perhaps memory ran out, try fewer --jobs",
        "complain": "this cannot be done",
        "fail": "this should not happen (ZeroDivisionError: oops)",
        "crowd": "not enough memory, or too many processes",
        "memory": "not enough memory: try fewer --jobs",
        "disk": "/out/song.wav: the disk is full, free some space",
        "exit": "this should not happen (SystemExit: 3)",
        "lambda": "this should not happen",
        "two": "two with 1 thread(s)",
    }
    results = dict(run_tasks(words, misbehave, Cluster(2), threads=1))
    assert set(results) == set(words)
    for task, result in results.items():
        assert result.startswith(words[task])
        assert isinstance(result, Failure) == (task not in ("one", "two"))
    assert capfd.readouterr() == ("", "")


def test_no_profiler_slows_down_the_processes_of_this_machine():
    assert dict(run_tasks(["task"], is_profiled, Cluster(1))) == {"task": False}


def test_a_task_is_tried_again_after_the_death_of_its_process(tmp_path):
    tasks = [tmp_path / "one", tmp_path / "two"]
    results = dict(run_tasks(tasks, die_once, Cluster(1)))
    assert all(isinstance(result, int) for result in results.values()), results


def test_tasks_are_taken_as_processes_become_free():
    """Results come in order of completion; the first task is the longest."""
    taken = []
    tasks = (taken.append(number) or (0.01 if number else 1.5) for number in range(40))
    found = []
    for task, process in run_tasks(tasks, process_after, Cluster(2)):
        found.append((task, process))
        assert len(taken) - len(found) <= 4  # two in work, two that were done at the same time
    assert [task for task, _ in found] == [0.01] * 39 + [1.5]
    assert len({process for _, process in found}) == 2


def test_the_memory_of_a_process_is_limited():
    sizes = [1 << 20, 1 << 30]
    results = dict(run_tasks(sizes, greedy, Cluster(1), memory=600e6))
    assert results[1 << 20] == 1 << 20
    expected = "memory ran out: a process may have 0.6 GB here, try fewer --jobs"
    assert results[1 << 30] == Failure(expected)


def test_closing_leaves_no_half_written_file_and_no_process(tmp_path):
    results = run_tasks([tmp_path / "short", tmp_path / "long"], half_written, Cluster(2))
    assert next(results)[0].name == "short"
    working = workers()
    assert len(working) == 2
    results.close()
    assert files_below(tmp_path) == [] and not alive(working)


def test_what_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "GRACE", 0.5)
    results = run_tasks([tmp_path / "short", tmp_path / "long"], stubborn, Cluster(2))
    next(results)
    working = workers()
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 20 and not alive(working)


@pytest.mark.parametrize("number, to_group", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_leaves_no_half_written_file_and_no_process(tmp_path, number, to_group):
    """Ctrl-C goes to all processes of a terminal."""
    folder = tmp_path / "out"
    folder.mkdir()
    running = start(folder, half_written)
    until(lambda: len(list(folder.iterdir())) == 2)
    children = psutil.Process(running.pid).children(recursive=True)
    if to_group:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    printed, messages = running.communicate(timeout=30)
    assert running.returncode == 128 + number and printed == "", messages
    assert messages == "program: interrupted: no incomplete output is left\n"
    assert files_below(folder) == []
    until(lambda: not alive(children))


@pytest.mark.parametrize("seconds", [0.3, 1.2])
def test_ctrl_c_while_the_processes_start(tmp_path, seconds):
    folder = tmp_path / "out"
    folder.mkdir()
    running = start(folder, half_written)
    time.sleep(seconds)
    children = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)
    _, messages = running.communicate(timeout=30)
    assert running.returncode in (130, -signal.SIGINT), messages  # the second: Python starts
    assert "distributed" not in messages
    until(lambda: not alive(children))
    assert files_below(folder) == []


def test_processes_are_spared_ctrl_c_whatever_the_configuration_of_dask(tmp_path):
    nonsense = {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "['no_such_module']",
        "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.001",
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    }
    printed, messages = start(tmp_path, blocked, 1, **nonsense).communicate(timeout=60)
    assert printed == "True\n" * 3 and messages == ""


def test_a_damaged_configuration_of_dask(tmp_path):
    path = tmp_path / "dask.yaml"
    path.write_text("distributed: [")
    running = start(tmp_path / "out", blocked, 1, DASK_CONFIG=str(path))
    _, messages = running.communicate(timeout=60)
    assert running.returncode == 1 and len(messages.splitlines()) == 1
    assert "Dask cannot be imported" in messages and str(path) in messages


def test_ctrl_c_is_deferred_while_a_process_starts(request):
    """Also if another thread receives the signal, which the mask of the main thread allows."""
    # a command that ran in this process before has left its own handler
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    reached = []
    try:
        with pytest.raises(KeyboardInterrupt), interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append(True)
    finally:
        done.set()
        thread.join()
    assert reached


def test_a_worker_of_a_cluster_dies(foreign, tmp_path):
    tasks = [tmp_path / "one", tmp_path / "two"]
    cluster = Cluster(address=foreign.file)
    results = dict(run_tasks(tasks, die_once, cluster, on_start=pytest.fail))  # no dashboard
    assert all(isinstance(result, int) for result in results.values()), results


@pytest.mark.parametrize("page, is_shown", [("Dask: Status", True), ("Dask needs bokeh", False)])
def test_a_dashboard_is_shown_where_there_is_one(page, is_shown):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        address = f"http://127.0.0.1:{server.server_port}/status"
        found = executor._dashboard_of(SimpleNamespace(dashboard_link=address))
    assert found == (address if is_shown else None)


def test_a_cluster_lives_on_and_keeps_the_tasks_of_others(foreign, tmp_path):
    import distributed

    with distributed.Client(scheduler_file=foreign.file, set_as_default=False) as other:
        address = other.scheduler.address
        tasks = [tmp_path / "short", tmp_path / "long"]
        results = run_tasks(tasks, half_written, Cluster(address=address))
        theirs = other.submit(process_after, 1.0)
        next(results)
        results.close()
        assert files_below(tmp_path) == []
        assert theirs.result(timeout=20) != os.getpid() and len(other.nthreads()) == 2


def test_a_worker_that_joins_late_is_used(foreign):
    processes = set()
    results = run_tasks(itertools.repeat(0.05), process_after, Cluster(address=foreign.file))
    for _, process in results:
        processes.add(process)
        if len(processes) == 2 and len(foreign.running) == 3:
            # of several threads: it takes one task at a time all the same
            foreign.start_worker("--no-nanny", "--nthreads", 2)
        if len(processes) == 3:
            break
    results.close()
    foreign.running.pop().terminate()


def test_a_worker_of_another_version_is_refused(foreign, monkeypatch):
    monkeypatch.setattr(executor, "_version", lambda: "0.0.1")
    words = f"worker tcp://.* has spleeter-2 {__version__}: install spleeter-2 0.0.1 there$"
    with pytest.raises(SeparationError, match=words):
        next(run_tasks([1], greedy, Cluster(address=foreign.file)))


def test_a_scheduler_is_lost(tmp_path):
    with cluster_of(tmp_path, 1) as processes:
        results = run_tasks(itertools.repeat(0.1), process_after, Cluster(address=processes.file))
        next(results)
        processes.scheduler.kill()
        with pytest.raises(SeparationError, match="connection to the scheduler .* was lost: what"):
            for _ in results:
                pass


def test_no_scheduler(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "CONNECT", 1.0)
    damaged = tmp_path / "scheduler.json"
    damaged.write_text("{")
    for address, words in (
        ("tcp://127.0.0.1:9", "cannot reach the scheduler tcp://127.0.0.1:9: "),
        (str(damaged), "cannot reach the scheduler "),
        (str(tmp_path / "none.json"), "--cluster must be the address of a scheduler"),
    ):
        with pytest.raises(SeparationError, match=words) as caught:
            next(run_tasks([1], greedy, Cluster(address=address)))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "options, words",
    [
        ({"jobs": 0}, "--jobs must be positive, not 0"),
        ({"jobs": 1.5}, "--jobs must be a whole number"),
        ({"jobs": 1, "address": "a:1"}, "either --jobs, for this machine, or --cluster"),
        ({}, "either --jobs, for this machine, or --cluster"),
        ({"address": 3}, "--cluster must be a path, not 3"),
    ],
)
def test_clusters_that_are_none(options, words):
    with pytest.raises(SeparationError, match=words):
        Cluster(**options)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(PACKAGES, "cluster", ("no_such_package",))
    with pytest.raises(SeparationError, match=r'needs no_such.*: pip install "spleeter-2\[cluster'):
        next(run_tasks([1], greedy, Cluster(1)))
