"""The page in the browser: what its function answers, and (slow) a headless Chromium that uploads and types."""

from __future__ import annotations

import sys
from pathlib import Path

import gradio
import numpy as np
import pytest
from browser import ENTER, a_browser, needs_browser, serving
from PIL import Image
from refusal import refused
from tiny_grounder import tiny_checkpoint

from amc_lib import Grounder
from amc_lib.files import ROOT
from amc_lib.page import EXAMPLES, answering, page

PICTURE = ROOT / "data" / "photographs" / "officer.jpg"
UPLOAD = "return document.querySelector('input[type=file]')"
UPLOADED = 'return document.querySelector(\'button[aria-label*="emove"], button[aria-label*="lear"]\')'
PHRASE = "return document.querySelector('textarea')"
ANSWER = """[...document.querySelectorAll('.block')].find(
    block => block.querySelector('label')?.innerText.trim() == arguments[0])?.querySelector('img')"""
SAID = """return [...document.querySelectorAll('.prose')].map(part => part.innerText)
    .find(text => text.startsWith(arguments[0]))"""


@pytest.fixture(scope="module")
def grounders(tmp_path_factory) -> dict[str, Grounder]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: Grounder.load(tiny_checkpoint(folder / name)) for name in ("one", "two")}


def test_each_checkpoint_answers_with_its_overlay_and_a_sentence(grounders):
    picture = Image.open(PICTURE)
    first, said, second, _ = answering(grounders)(picture, "w1 zebra")
    expected = grounders["one"].ground(picture, "w1 zebra")
    assert np.array_equal(first, expected.overlay()) and first.size == second.size == picture.size
    x, y = expected.point
    assert said.startswith(f"one: &#x27;w1 zebra&#x27; is at x {x}, y {y}, in the box from")
    assert said.endswith("<br>words that the checkpoint does not know: zebra")


def test_unknown_phrase_has_no_overlay(grounders):
    overlay, said, *_ = answering(grounders)(Image.open(PICTURE), "zebra")
    assert overlay is None and "is unknown" in said


def test_what_cannot_be_asked_is_said(grounders):
    with refused("there is no picture yet", gradio.Error):
        answering(grounders)(None, "w1")
    with refused("words", gradio.Error):
        answering(grounders)(Image.open(PICTURE), "  ")


def test_examples_are_free_photographs_and_nothing_is_sent_elsewhere(grounders):
    config = page(grounders).get_config_file()
    shown = next(part["props"]["samples"] for part in config["components"] if part["type"] == "dataset")
    assert [Path(image["path"]).name for image, _ in shown] == [name for name, _ in EXAMPLES]
    assert not config["analytics_enabled"]


@pytest.mark.slow
@needs_browser
def test_a_person_uploads_a_picture_and_types_a_phrase(tmp_path):
    expected = Grounder.load().ground(PICTURE, "her glasses")
    command = [sys.executable, "-m", "amc_lib.page", "--port={port}"]
    with serving(command, tmp_path / "page.log", "/") as address, a_browser(tmp_path) as browser:
        browser.ask("/url", {"url": address})
        browser.act(browser.until(UPLOAD), "value", text=str(PICTURE))
        browser.until(UPLOADED)
        browser.act(browser.until(PHRASE), "value", text=f"her glasses{ENTER}")
        said = browser.until(SAID, "amc-photos:")
        overlay = browser.picture(ANSWER, "amc-photos")
        browser.screenshot("page.png")
    x, y = expected.point
    assert said.startswith(f"amc-photos: 'her glasses' is at x {x}, y {y}")
    assert np.array_equal(overlay, np.asarray(expected.overlay(), dtype=float))
