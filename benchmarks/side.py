"""A program that a benchmark runs beside others, in turn with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


class Side:
    """A process that prints its facts as a line of JSON, and an answer to each line of JSON.

    Args:
        command: its command line.
    """

    def __init__(self, command: list) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts = self._answer()
        self.peak = 0.0  # memory in MB

    def ask(self, **message) -> dict:
        """Send a task; return its answer, which has the peak memory as ``peak``."""
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak = answer["peak"]
        return answer

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended: {self.process.args}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def peak_memory() -> float:
    """Peak memory of this process in MB, on Linux (``getrusage`` includes the parent's at fork)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
