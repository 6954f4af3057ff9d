"""Exploring: pictures encoded once, tokens' maps, losses of a drawn box, and the widgets that show them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounder import HEIGHT, WIDTH, tiny_checkpoint
from tiny_scenes import run_notebook
from traitlets.utils.bunch import Bunch

from amc_lib import Grounder, gradcam
from amc_lib.config import AmcSettings
from amc_lib.grounding import Grounding
from amc_study.explain.explanation import box_terms, heading, outlined, overlay, token_strip
from amc_study.explain.explore import SPLIT, Explorer, load_systems, quick_png
from amc_study.rival.region_grounder import RegionGrounder
from amc_study.scenes.scene import draw

ANSWER_SECONDS = 0.3  # for a phrase asked of a picture that is encoded


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", seed=1)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def an_answer(grounder, picture) -> Grounding:
    return grounder.ground(picture, "w1")


@pytest.fixture(scope="module")
def with_detector() -> RegionGrounder:
    return RegionGrounder.load()


@pytest.fixture
def explorer(tiny_folder, other) -> Explorer:
    return Explorer({"ALBEF": Grounder.load(tiny_folder), "AMC": Grounder.load(other)}, phrase="w1 w2", scene=0)


def a_scene(explorer: Explorer, index: int) -> Image.Image:
    return draw(explorer.settings.scenes, SPLIT, index).image


def test_token_maps_add_up_to_the_heatmap_and_have_a_tile_each(grounder, picture):
    short, long = grounder.ground(picture, ["w3", "w4 w5 w6 w7"])
    assert short.tokens == ("[CLS]", "w3", "[SEP]") and len(long.tokens) == 6
    for answer in (short, long):
        torch.testing.assert_close(answer.token_maps.sum(0), answer.raw, atol=1e-8, rtol=1e-4)
        assert answer.token_maps.shape == (len(answer.tokens), *answer.raw.shape) and (answer.token_maps >= 0).all()
    assert token_strip(short).width == token_strip(long).width
    assert 2 * token_strip(short).height == token_strip(long).height  # 3 and 6 tokens, 3 in a row


@pytest.mark.parametrize("box", [(0.3, 0.1, 0.8, 0.6), (0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 0.5, 0.5)])
def test_terms_are_equations_1_to_3(an_answer, box):
    terms, raw = box_terms(an_answer, box, AmcSettings(map_size=8)), an_answer.raw
    heat = (raw - raw.min()) / (raw.max() - raw.min() + gradcam.NORMALISE_EPS)
    heat = torch.nn.functional.interpolate(heat[None, None], size=(8, 8), mode="bilinear")[0, 0].numpy()
    mask = np.zeros((8, 8), bool)
    left, top = min(round(8 * box[0]), 7), min(round(8 * box[1]), 7)
    mask[top : max(round(8 * box[3]), top + 1), left : max(round(8 * box[2]), left + 1)] = True
    inside, outside = heat[mask], heat[~mask] if (~mask).any() else np.zeros(1)
    l_mean, l_max = max(0, outside.mean() - inside.mean() + 0.1), max(0, outside.max() - inside.max() + 0.5)
    expected = {"mean inside": inside.mean(), "max inside": inside.max(), "mean outside": outside.mean()}
    expected |= {"max outside": outside.max(), "L_mean": l_mean, "L_max": l_max, "L_amc": 0.2 * l_mean + 0.8 * l_max}
    assert terms == pytest.approx(expected, abs=1e-5)


def test_outline_stands_where_the_box_is():
    white = Image.new("RGB", (40, 20), "white")
    drawn = np.asarray(outlined(white, (0.25, 0.25, 0.75, 0.75), "black"))[..., 0]
    assert drawn[5, 15] == 0 and drawn[10, 20] == 255 and np.asarray(white).min() == 255
    assert (np.asarray(outlined(white, None)) == 255).all()


def test_heading_says_whether_the_point_lies_inside_a_box(an_answer):
    answer = replace(an_answer, point=(5, 5), score=0.5, picture=Image.new("RGB", (40, 40)))
    assert heading("AMC", answer, (0.1, 0.1, 0.9, 0.9)) == "<b>AMC</b> match 50 %, points inside the box"
    assert heading("AMC", answer, (0.125, 0.1, 0.9, 0.9)).endswith("points outside the box")  # on its edge: strictly
    assert heading("AMC", answer, None) == "<b>AMC</b> match 50 %"


def shown(explorer: Explorer) -> list[bytes]:
    return [picture.value for picture in explorer.pictures.values()]


def expected_picture(explorer: Explorer, grounder: Grounder, image: Image.Image) -> bytes:
    return quick_png(outlined(grounder.ground(image, explorer.phrase.value).overlay(), explorer.box))


def test_phrase_scene_and_layer_are_answered(explorer, grounder, tiny_folder):
    scenes = [a_scene(explorer, index) for index in range(2)]
    assert shown(explorer)[0] == expected_picture(explorer, grounder, scenes[0]) != shown(explorer)[1]
    assert explorer.strips["ALBEF"].value == quick_png(token_strip(grounder.ground(scenes[0], "w1 w2")))
    explorer.phrase.value = "w3 w4"
    explorer.scene.value = 1
    assert shown(explorer)[0] == expected_picture(explorer, grounder, scenes[1])
    explorer.layer.value = 2
    assert shown(explorer)[0] == expected_picture(explorer, Grounder.load(tiny_folder, 2), scenes[1])


def test_phrases_of_the_scene_bring_their_box_and_others_have_none(explorer):
    untouched = quick_png(a_scene(explorer, 0))
    assert explorer.box is None and explorer.picture.value == untouched
    assert explorer.texts["AMC"].value == heading("AMC", explorer.answers["AMC"], None)
    phrase, box = next(iter(explorer.boxes.items()))
    explorer.suggestions.value = phrase
    assert explorer.phrase.value == phrase and explorer.suggestions.value is None
    assert (explorer.across.value, explorer.down.value) == ((box[0], box[2]), (box[1], box[3]))
    assert explorer.box == tuple(edge / 96 for edge in box) and explorer.picture.value != untouched
    terms = box_terms(explorer.answers["AMC"], explorer.box, explorer.settings.amc)
    assert explorer.texts["AMC"].value.endswith(f"<b>{terms['L_amc']:.3f}</b>")
    explorer.phrase.value = "w5 w6"  # nothing of the box stays
    assert explorer.box is None and explorer.picture.value == untouched
    assert explorer.texts["AMC"].value == heading("AMC", explorer.answers["AMC"], None)


def test_drawn_box_gives_losses_without_asking_again(explorer, monkeypatch):
    heat = explorer.strips["AMC"].value
    monkeypatch.setattr(Explorer, "_answer", None)  # whoever asks now fails
    explorer.across.value, explorer.down.value = (0, 24), (72, 96)
    terms = box_terms(explorer.answers["AMC"], (0, 0.75, 0.25, 1), explorer.settings.amc)
    assert f"<b>{terms['L_mean']:.3f}</b>" in explorer.texts["AMC"].value
    assert f"<b>{terms['L_max']:.3f}</b>" in explorer.texts["AMC"].value
    assert explorer.strips["AMC"].value == heat


def test_events_of_two_threads_wait_for_each_other(explorer, monkeypatch):
    """As JupyterLab sends them: a phrase to one thread, a moved box to another."""
    asked, go_on, answer = threading.Event(), threading.Event(), Explorer._answer

    def slowly(self: Explorer, name: str) -> Grounding:
        asked.set()
        assert go_on.wait(60)
        return answer(self, name)

    monkeypatch.setattr(Explorer, "_answer", slowly)
    phrase = threading.Thread(target=setattr, args=(explorer.phrase, "value", "w3 w4"))
    box = threading.Thread(target=setattr, args=(explorer.across, "value", (0, 10)))
    before = shown(explorer)
    phrase.start()
    assert asked.wait(60)
    box.start()
    box.join(0.3)
    assert box.is_alive() and shown(explorer) == before
    go_on.set()
    phrase.join(60)
    box.join(60)
    assert explorer.answers["AMC"].phrase == "w3 w4" and explorer.box[2] == 10 / 96
    assert explorer.texts["AMC"].value.startswith(heading("AMC", explorer.answers["AMC"], explorer.box))


def test_phrase_without_words_leaves_no_answer_and_unknown_words_are_named(explorer):
    explorer.phrase.value = "?"
    assert explorer.message.value == "<b>the phrase '?' has no words</b>" and explorer.answers == {}
    assert shown(explorer) == [explorer.picture.value] * 2 and explorer.texts["AMC"].value == "<b>AMC</b>"
    explorer.phrase.value = "w5"
    assert explorer.message.value == "" and explorer.answers["AMC"].phrase == "w5"
    explorer.phrase.value = "w5 elephant"
    assert explorer.message.value == "<b>words that the checkpoint has never read: elephant</b>"


def upload(explorer: Explorer, name: str, content: bytes) -> None:
    """What the widget's value is after a browser sent a file."""
    file = Bunch(name=name, type="", size=len(content), content=memoryview(content), last_modified=datetime.now(UTC))
    explorer.upload.value = (file,)


def test_uploaded_picture_is_asked_and_shown_small(explorer, grounder, picture):
    large = picture.resize((2000, 1000))
    upload(explorer, "large.png", quick_png(large))
    assert (explorer.across.max, explorer.down.max) == (2000, 1000) and explorer.box is None and explorer.boxes == {}
    assert explorer.answers["AMC"].heatmap.shape == (240, 480)
    assert (explorer.answers["ALBEF"].raw == grounder.ground(large, "w1 w2").raw).all()  # read at its full size
    before = shown(explorer)
    upload(explorer, "<mine>.txt", b"no picture")
    assert explorer.message.value == "<b>&lt;mine&gt;.txt: cannot be read as an image</b>"
    assert shown(explorer) == before


def test_detector_based_system_shows_its_box(tiny_folder, with_detector):
    explorer = Explorer({"AMC": Grounder.load(tiny_folder), "VMRM": with_detector}, "w1 w2")
    scene = a_scene(explorer, 0)
    answer = with_detector.ground(scene, "w1 w2")
    assert explorer.answers["VMRM"].boxes[0] == pytest.approx(answer.boxes[0], abs=0.01)
    assert explorer.texts["VMRM"].value == f"<b>VMRM</b> best of {len(answer.boxes)} boxes"
    x1, y1, x2, y2 = (round(edge) for edge in answer.boxes[0])
    changed = np.argwhere((np.asarray(overlay(explorer.answers["VMRM"])) != np.asarray(scene)).any(2))
    assert (changed.min(0) >= (y1, x1)).all() and (changed.max(0) < (max(y2, y1 + 1), max(x2, x1 + 1))).all()


def test_systems_are_loaded_by_name_or_folder(other):
    systems = load_systems("scenes", amc=other)
    assert list(systems)[:2] == ["ALBEF", "AMC"]
    assert systems["AMC"].checkpoint.sha256 == Grounder.load(other).checkpoint.sha256
    assert systems["ALBEF"].checkpoint.sha256 == Grounder.load("albef-scenes").checkpoint.sha256


def test_notebook_opens_on_a_scene_where_boxes_help_and_explains_a_failure():
    """What the text of 06 says of its two scenes is so."""
    explorer, begin = run_notebook("06_explore")["explorer"], time.process_time()
    hits = {name: "points inside" in explorer.texts[name].value for name in ("ALBEF", "AMC")}
    assert hits == {"ALBEF": False, "AMC": True}
    explorer.phrase.value = "pink kite"
    assert time.process_time() - begin < 2 * ANSWER_SECONDS  # of one thread or two
    red, purple = Grounder.load("amc-scenes").ground(a_scene(explorer, 4), ["a red canoe", "a purple canoe"])
    assert np.hypot(*np.subtract(red.point, purple.point)) < 8
