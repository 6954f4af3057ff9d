"""06_explore in a headless Chromium: JupyterLab runs its cells, a phrase is typed, the picture becomes the right one.

A screenshot is left in build/browser/.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from browser import ENTER, a_browser, decoded, needs_browser, serving

from amc_lib.files import ROOT
from amc_study.explain.explore import Explorer, load_systems

CONTROL, RELEASE = "\ue009", "\ue000"  # keys, in the protocol's code points
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
IMAGE = f"{COLUMN}?.querySelector('img')"
SAID = f"{COLUMN}?.querySelector('.widget-html-content').innerText"

pytestmark = [pytest.mark.slow, needs_browser]


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
def browser(tmp_path):
    with a_browser(tmp_path) as browser:
        yield browser


def test_typed_phrase_changes_the_picture(lab, browser):
    expected = Explorer(load_systems("scenes"), TYPED, SCENE)
    browser.ask("/url", {"url": f"{lab}/lab/tree/06_explore.ipynb?token={TOKEN}"})
    browser.until(CONNECTED)  # before that, running cells would ask which kernel to take
    browser.act(browser.until(RUN_MENU), "click")
    browser.act(browser.until(RUN_ALL), "click")
    source = {name: browser.until(f"return {IMAGE}?.src", name) for name in expected.pictures}
    browser.until(DONE)
    before, said_before = browser.picture(IMAGE, "AMC"), browser.until(f"return {SAID}", "AMC")
    browser.act(browser.until(PHRASE), "value", text=f"{CONTROL}a{RELEASE}{TYPED}{ENTER}")
    for name in expected.pictures:
        browser.until(f"return {IMAGE}?.src != arguments[1]", name, source[name])
    said = browser.until(f"const said = {SAID}; return said != arguments[1] && said", "AMC", said_before)
    after = browser.picture(IMAGE, "AMC")
    browser.screenshot("06_explore.png")
    assert np.abs(after - before).mean() > 1  # grey levels, of 255
    assert np.abs(after - decoded(expected.pictures["AMC"].value)).mean() < 0.1
    assert said.startswith("AMC match ") and "Lmean = max(0, " in said
