"""A headless Chromium for tests of pages, and servers for it to visit.

The browser is spoken to by the W3C WebDriver protocol that chromedriver understands (JSON over HTTP).
"""

from __future__ import annotations

import base64
import io
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

import numpy as np
import pytest
from PIL import Image

from amc_lib.files import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE = 300  # seconds that anything may take, on a busy machine
ENTER = "\ue007"  # the key, in the protocol's code points
SCREENSHOTS = ROOT / "build" / "browser"

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver (Debian: apt install chromium-driver)"
)

PICTURE = """return fetch({element}.src).then(answer => answer.arrayBuffer()).then(
    buffer => btoa([...new Uint8Array(buffer)].map(byte => String.fromCharCode(byte)).join('')))"""


class Browser:
    """One window. Elements are what `until` returns them as."""

    def __init__(self, address: str, profile: Path) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        arguments += ["--window-size=1440,2600", f"--user-data-dir={profile}"]
        options = {"goog:chromeOptions": {"binary": CHROMIUM, "args": arguments}}
        self.session = f"{address}/session"
        self.session += "/" + self.ask("", {"capabilities": {"alwaysMatch": options}})["sessionId"]
        self.ask("/timeouts", {"script": 1000 * PATIENCE, "pageLoad": 1000 * PATIENCE})

    def ask(self, path: str, content: object = None, method: str | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.session}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def until(self, source: str, *arguments: object) -> Any:
        """The first value of a JavaScript function's body that is neither false nor null; promises are waited for."""
        return until(lambda: self.ask("/execute/sync", {"script": source, "args": arguments}), source)

    def act(self, element: dict[str, str], action: str, **content: str) -> None:
        (name,) = element.values()
        self.ask(f"/element/{name}/{action}", content)

    def picture(self, element: str, *arguments: object) -> np.ndarray:
        """What an <img>, named by a JavaScript expression, shows: float [H, W, 3]."""
        return decoded(base64.b64decode(self.until(PICTURE.format(element=element), *arguments)))

    def screenshot(self, name: str) -> None:
        """Leave what the window shows in build/browser/."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / name).write_bytes(base64.b64decode(self.ask("/screenshot")))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def until(value: Callable[[], Any], what: str) -> Any:
    begin = time.monotonic()
    while time.monotonic() < begin + PATIENCE:
        if found := value():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"after {PATIENCE} s still not: {what}")


@contextmanager
def serving(command: list[str], log: Path, path: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address at which a command, given its port, answers `path`; it is ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def reached() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE).close()
        except OSError:
            return False
        return True

    command = [part.format(port=port) for part in command]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=env) as process:
        try:
            until(reached, log.stem)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def a_browser(folder: Path) -> Iterator[Browser]:
    """A window whose profile and log lie in `folder`."""
    with serving([CHROMEDRIVER, "--port={port}"], folder / "chromedriver.log", "/status") as address:
        browser = Browser(address, folder / "profile")
        yield browser
        browser.ask("", method="DELETE")
