"""A headless browser driven over DevTools' pipe: JSON messages ended by NUL, to its fd 3 and from its fd 4."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, " ": 32, "Escape": 27, "?": 191, "m": 77, "t": 84}
PATIENCE = 60  # seconds for one answer


def find_browser() -> str | None:
    """The first browser on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser(folder):
    """Start a browser with its profile in folder; yields a Tab, and ends the browser afterwards."""
    fcntl = pytest.importorskip("fcntl")
    to_browser, from_browser = os.pipe(), os.pipe()
    far = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser[0], from_browser[1])]  # clear of 3 and 4
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    process = subprocess.Popen(
        [find_browser(), *options, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"],
        preexec_fn=lambda: (os.dup2(far[0], 3), os.dup2(far[1], 4)),
        pass_fds=(3, 4),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_browser[0], from_browser[1], *far):
        os.close(end)
    try:
        yield Tab(to_browser[1], from_browser[0])
    finally:
        process.kill()
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])


class Tab:
    """One page. problems: what its console reported as errors, exceptions, and requests beyond the file itself."""

    def __init__(self, write_end: int, read_end: int):
        self.write_end, self.read_end, self.received, self.count, self.session = write_end, read_end, b"", 0, None
        self.problems, self.loaded = [], False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **arguments) -> dict:
        """Call a DevTools method and wait for its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": arguments}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.count:
            self.note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def receive(self) -> dict:
        """The next message of the browser."""
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.read_end], [], [], until - time.monotonic())
            part = os.read(self.read_end, 1 << 16) if ready else b""
            assert part, "the browser does not answer"
            self.received += part
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def note(self, event: dict) -> None:
        """Remember what goes wrong on the page, and when it has loaded."""
        method, told = event.get("method"), event.get("params", {})
        self.loaded |= method == "Page.loadEventFired"
        if (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"))
            or (method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"))
            or (method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")))
        ):
            self.problems.append(told)

    def open(self, path, width=1280, height=800, dark=False) -> None:
        """Load a file in a window of this size, and wait until it is there."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self.note(self.receive())

    def evaluate(self, expression: str):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=KEYS[key])

    def screenshot(self, path) -> None:
        """Write what is seen to a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
