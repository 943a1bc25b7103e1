"""A headless Chromium behind a pipe: open a page, ask it things, see what it requests."""

import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --autoplay-policy=no-user-gesture-required "
    "--window-size=1300,1000 --remote-debugging-pipe about:blank"
).split()


class Browser:
    """Speaks the DevTools protocol; ``requests`` are the addresses that pages asked for."""

    def __init__(self, profile: Path) -> None:
        theirs, self._commands = os.pipe()
        self._answers, back = os.pipe()

        def hand_over() -> None:
            os.dup2(theirs, 30)
            os.dup2(back, 31)
            os.dup2(30, 3)
            os.dup2(31, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, f"--user-data-dir={profile}", *OPTIONS],
            preexec_fn=hand_over,
            pass_fds=(3, 4, theirs, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._buffer = b""
        self._count = 0
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime"):
            self._ask(f"{domain}.enable", self._session)

    def open(self, path: Path) -> None:
        """Load a page and wait for it."""
        self._ask("Page.navigate", self._session, url=path.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str):
        """The value that a script's promise comes to."""
        answer = self._ask(
            "Runtime.evaluate",
            self._session,
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _ask(self, method: str, session: str | None = None, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            chunk = os.read(self._answers, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        content = json.loads(message)
        if content.get("method") == "Network.requestWillBeSent":
            self.requests.append(content["params"]["request"]["url"][:200])
        return content
