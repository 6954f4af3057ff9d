"""06_explore in a headless Chromium: JupyterLab runs its cells, a phrase is typed, the picture becomes the right one.

The browser is spoken to by the W3C WebDriver protocol that chromedriver understands (JSON over HTTP). A screenshot is
left in build/browser/.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
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
from amc_study.explain.explore import Explorer, load_systems

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
ABSENT = "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
PATIENCE = 300  # seconds that anything may take, on a busy machine
ENTER, CONTROL, RELEASE = "\ue007", "\ue009", "\ue000"  # keys, in the protocol's code points
TOKEN = "explore"
SCENE, TYPED = 3, "pink kite"

RUN_MENU = "return [...document.querySelectorAll('.lm-MenuBar-item')].find(item => item.textContent.trim() == 'Run')"
RUN_ALL = "return document.querySelector('.lm-Menu-item[data-command=\"runmenu:run-all\"]')"
CONNECTED = "return document.querySelector('#jp-main-statusbar')?.innerText.includes('(ipykernel) | Idle')"
DONE = """return [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
    .every(prompt => /[0-9]/.test(prompt.textContent))"""
PHRASE = """return [...document.querySelectorAll('.widget-text')]
    .find(box => box.querySelector('label')?.textContent == 'phrase')?.querySelector('input')"""
COLUMN = """[...document.querySelectorAll('.widget-vbox')].find(box => box.querySelector(':scope > img') &&
    [...box.children].some(child => child.querySelector('b')?.textContent == arguments[0]))"""
SOURCE = f"{COLUMN}?.querySelector('img').src"
SAID = f"{COLUMN}?.querySelector('.widget-html-content').innerText"
PICTURE = f"""return fetch({COLUMN}.querySelector('img').src).then(answer => answer.arrayBuffer()).then(
    buffer => btoa([...new Uint8Array(buffer)].map(byte => String.fromCharCode(byte)).join('')))"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=ABSENT)]


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

    def picture(self, system: str) -> np.ndarray:
        return decoded(base64.b64decode(self.until(PICTURE, system)))


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


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """The address of a JupyterLab that holds a copy of the notebook and leaves no trace elsewhere."""
    (tmp_path / "lab").mkdir()
    shutil.copy(ROOT / "notebooks" / "06_explore.ipynb", tmp_path / "lab")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path / 'lab'}"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.news_url="]
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"), "PYTHONPATH": str(ROOT)}
    with serving(command, tmp_path / "lab.log", f"/api?token={TOKEN}", os.environ | own) as address:
        yield address


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    with serving([CHROMEDRIVER, "--port={port}"], tmp_path / "chromedriver.log", "/status") as address:
        browser = Browser(address, tmp_path / "profile")
        yield browser
        browser.ask("", method="DELETE")


def test_typed_phrase_changes_the_picture(lab, browser):
    expected = Explorer(load_systems("scenes"), TYPED, SCENE)
    browser.ask("/url", {"url": f"{lab}/lab/tree/06_explore.ipynb?token={TOKEN}"})
    browser.until(CONNECTED)  # before that, running cells would ask which kernel to take
    browser.act(browser.until(RUN_MENU), "click")
    browser.act(browser.until(RUN_ALL), "click")
    source = {name: browser.until(f"return {SOURCE}", name) for name in expected.pictures}
    browser.until(DONE)
    before, said_before = browser.picture("AMC"), browser.until(f"return {SAID}", "AMC")
    browser.act(browser.until(PHRASE), "value", text=f"{CONTROL}a{RELEASE}{TYPED}{ENTER}")
    for name in expected.pictures:
        browser.until(f"return {SOURCE} != arguments[1]", name, source[name])
    said = browser.until(f"const said = {SAID}; return said != arguments[1] && said", "AMC", said_before)
    after = browser.picture("AMC")
    (ROOT / "build" / "browser").mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "browser" / "06_explore.png").write_bytes(base64.b64decode(browser.ask("/screenshot")))
    assert np.abs(after - before).mean() > 1  # grey levels, of 255
    assert np.abs(after - decoded(expected.pictures["AMC"].value)).mean() < 0.1
    assert said.startswith("AMC match ") and "Lmean = max(0, " in said
