"""A headless Chromium for tests, spoken to by the W3C WebDriver protocol that chromedriver understands (JSON, HTTP)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
ABSENT = "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
PATIENCE = 300  # seconds that anything may take, on a busy machine
ENTER, CONTROL, RELEASE = "\ue007", "\ue009", "\ue000"  # keys, in the protocol's code points


class Browser:
    """One window. Elements are what `script` returns them as."""

    def __init__(self, address: str, profile: Path) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        arguments += ["--window-size=1440,2600", f"--user-data-dir={profile}"]
        options = {"goog:chromeOptions": {"binary": CHROMIUM, "args": arguments}}
        self._address = f"{address}/session"
        session = self._post("", {"capabilities": {"alwaysMatch": options}})
        self._address += f"/{session['sessionId']}"
        self._post("/timeouts", {"script": 1000 * PATIENCE, "pageLoad": 1000 * PATIENCE})

    def open(self, url: str) -> None:
        self._post("/url", {"url": url})

    def script(self, source: str, *arguments: object) -> Any:
        """What a function body in JavaScript returns; a promise is waited for."""
        return self._post("/execute/sync", {"script": source, "args": arguments})

    def until(self, source: str, *arguments: object) -> Any:
        """The first value of a script that is neither false nor null. TimeoutError after `PATIENCE`."""
        return until(lambda: self.script(source, *arguments), source)

    def click(self, element: dict[str, str]) -> None:
        self._post(f"/element/{_id(element)}/click", {})

    def type(self, element: dict[str, str], text: str) -> None:
        """Replace what a text field holds, and press Enter."""
        self._post(f"/element/{_id(element)}/value", {"text": f"{CONTROL}a{RELEASE}{text}{ENTER}"})

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(f"{self._address}/screenshot", timeout=PATIENCE) as answer:
            path.write_bytes(base64.b64decode(json.load(answer)["value"]))

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self._address, method="DELETE"), timeout=PATIENCE).close()

    def _post(self, path: str, content: object) -> Any:
        request = urllib.request.Request(f"{self._address}{path}", json.dumps(content).encode())
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its profile in `folder` and is gone when the block ends."""
    port = free_port()
    with running([CHROMEDRIVER, f"--port={port}"], folder / "chromedriver.log"):
        answers(f"http://127.0.0.1:{port}/status")
        browser = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A process that is ended with the block; what it says goes to `log`."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


def answers(url: str) -> None:
    """Wait until something answers at an address."""

    def reached() -> bool:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
        except OSError:
            return False
        return True

    until(reached, url)


def until(value: Callable[[], Any], what: str) -> Any:
    begin = time.monotonic()
    while time.monotonic() < begin + PATIENCE:
        if found := value():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"after {PATIENCE} s still not: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _id(element: dict[str, str]) -> str:
    (name,) = element.values()
    return name
