"""Speed and memory of ``spleeter web``, compared with ``spleeter separate`` on the same song.

    python benchmarks/web.py                 # needs ".[tests]" and chromium
    python benchmarks/web.py --songs 10 --repeat 2

In a browser: seconds from choosing a song of 180 s to its first sound. Over HTTP: seconds from
sending it to its last stem, in turn with the command; the same with 20 clients that ask for its
state once a second each, in turn with none; memory of the server over many songs of 10 s.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))
from separate import song_of
from support.browser import open_browser, wait
from support.web import Server

CLIENTS = 20
FIRST_SOUND = """
() => new Promise(done => {
  const timer = setInterval(() => {
    const player = document.querySelector('.card')?.player;
    if (!player) return;
    if (!player.playing) player.play();
    else if (player.position > 0) { clearInterval(timer); done(); }
  }, 5);
})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, default=50, help="songs of 10 s")
    parser.add_argument("--repeat", type=int, default=5, help="turns of the other measurements")
    options = parser.parse_args()
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long, short = song_of(180, folder), song_of(10, folder)
        with Server("--folder", folder / "web") as server:
            first_sound(server, long, options.repeat)
            against_the_command(server, long, folder, options.repeat)
            under_load(server, long, options.repeat)
        with Server("--folder", folder / "other") as server:
            memory(server, short, options.songs)


def first_sound(server: Server, path: Path, repeat: int) -> None:
    """Print the seconds from choosing a file on the page to its first sound."""
    times = []
    with open_browser() as browser:
        for _ in range(repeat):
            page = browser.new_page()
            page.goto(server.address)
            wait(page, "document.querySelector('#model').options.length > 3")
            start = time.perf_counter()
            page.set_input_files("#files", str(path))
            page.evaluate(FIRST_SOUND)
            times.append(time.perf_counter() - start)
            page.close()
            remove_all(server)
    print(
        f"from choosing 180 s to the first sound: {statistics.median(times):.2f} s "
        f"({min(times):.2f} to {max(times):.2f})"
    )


def against_the_command(server: Server, path: Path, folder: Path, repeat: int) -> None:
    """Print the seconds to all stems, beside the command's."""
    command = [sys.executable, "-m", "spleeter_2", "separate", "-o", str(folder / "out"), str(path)]
    ours, theirs = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        theirs.append(time.perf_counter() - start)
        ours.append(separate(server, path))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"to all stems of 180 s: {statistics.median(ours):.2f} s, the command "
        f"{statistics.median(theirs):.2f} s, {statistics.median(ratios):.2f} times"
    )


def under_load(server: Server, path: Path, repeat: int) -> None:
    """Print what clients that ask for the state cost, and how long they wait."""
    alone, together = [], []
    answers: list[float] = []
    for _ in range(repeat):
        alone.append(separate(server, path))
        over = threading.Event()
        clients = [
            threading.Thread(target=poll, args=(server, over, answers)) for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        together.append(separate(server, path))
        over.set()
        for client in clients:
            client.join()
    ratios = [b / a for a, b in zip(alone, together, strict=True)]
    print(
        f"with {CLIENTS} clients, once a second each: {statistics.median(together):.2f} s, without "
        f"{statistics.median(alone):.2f} s, {statistics.median(ratios):.3f} times"
    )
    print(
        f"their {len(answers)} answers: median {1000 * statistics.median(answers):.1f} ms, worst "
        f"{1000 * max(answers):.0f} ms"
    )


def poll(server: Server, over: threading.Event, answers: list[float]) -> None:
    """Ask for all songs once a second, on one connection."""
    connection = server.connect()
    while not over.wait(1.0):
        start = time.perf_counter()
        connection.request("GET", "/api/songs")
        connection.getresponse().read()
        answers.append(time.perf_counter() - start)
    connection.close()


def memory(server: Server, path: Path, nb_songs: int) -> None:
    """Print the server's memory after some and after all songs."""
    sizes = {}
    for count in range(1, nb_songs + 1):
        separate(server, path)
        if count in (1, 2, 5, 10, 20, 30, 40, nb_songs):
            sizes[count] = resident(server.process.pid)
    print("memory after songs of 10 s:", ", ".join(f"{n}: {mb:.0f} MB" for n, mb in sizes.items()))


def separate(server: Server, path: Path) -> float:
    """Seconds from sending a song to its last stem; it is removed."""
    content = path.read_bytes()
    start = time.perf_counter()
    made = server.send(content, name=path.name)
    server.ask(f"/api/songs/{made['id']}/events")  # ends with the song
    seconds = time.perf_counter() - start
    assert server.song(made["id"])["state"] == "done"
    remove_all(server)
    return seconds


def remove_all(server: Server) -> None:
    """Remove all songs."""
    for song in server.ask("/api/songs").json:
        server.ask(f"/api/songs/{song['id']}", "DELETE")


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
