"""06_explore in a real browser: JupyterLab runs its cells, a phrase is typed, the picture changes to the right one.

A screenshot is left in build/browser/.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
from browser import Browser, chromium
from PIL import Image

from amc_study.explain.explore import Explorer, load_systems

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "build" / "browser"
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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (browsers.CHROMIUM and browsers.CHROMEDRIVER), reason=browsers.ABSENT),
]


@pytest.fixture
def lab(tmp_path) -> str:
    """The address of a JupyterLab that holds a copy of the notebook and leaves no trace elsewhere."""
    (tmp_path / "lab").mkdir()
    shutil.copy(ROOT / "notebooks" / "06_explore.ipynb", tmp_path / "lab")
    port = browsers.free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path / 'lab'}"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.news_url="]
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"), "PYTHONPATH": str(ROOT)}
    with browsers.running(command, tmp_path / "lab.log", env=os.environ | own):
        browsers.answers(f"http://127.0.0.1:{port}/api?token={TOKEN}")
        yield f"http://127.0.0.1:{port}"


def picture_of(browser: Browser, system: str) -> np.ndarray:
    return decoded(base64.b64decode(browser.script(PICTURE, system)))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def test_typed_phrase_changes_the_picture(lab, tmp_path):
    expected = Explorer(load_systems("scenes"), TYPED, SCENE)
    with chromium(tmp_path) as browser:
        browser.open(f"{lab}/lab/tree/06_explore.ipynb?token={TOKEN}")
        browser.until(CONNECTED)  # before that, running cells would ask which kernel to take
        browser.click(browser.until(RUN_MENU))
        browser.click(browser.until(RUN_ALL))
        source = {name: browser.until(f"return {SOURCE}", name) for name in expected.pictures}
        browser.until(DONE)
        before, said_before = picture_of(browser, "AMC"), browser.script(f"return {SAID}", "AMC")
        browser.type(browser.until(PHRASE), TYPED)
        for name in expected.pictures:
            browser.until(f"return {SOURCE} != arguments[1]", name, source[name])
        said = browser.until(f"const said = {SAID}; return said != arguments[1] && said", "AMC", said_before)
        after = picture_of(browser, "AMC")
        browser.screenshot(SCREENSHOTS / "06_explore.png")
    assert np.abs(after - before).mean() > 1  # grey levels, of 255
    assert np.abs(after - decoded(expected.pictures["AMC"].value)).mean() < 0.1
    assert said.startswith("AMC match ") and "Lmean = max(0, " in said
