"""Exploring: pictures encoded once, tokens' maps, losses of a drawn box, and the widgets that show them."""

from __future__ import annotations

import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_grounder import HEIGHT, PHRASES, WIDTH, tiny_checkpoint
from traitlets.utils.bunch import Bunch

from amc_lib import Grounder, gradcam
from amc_lib.checkpoints import Checkpoint
from amc_lib.config import AmcSettings
from amc_lib.grounder import Grounding
from amc_lib.presets import preset
from amc_study.explain.explanation import box_terms, heading, mask_picture, outlined, overlay, quick_png, token_strip
from amc_study.explain.explore import Explorer, draw_scene, load_systems, png
from amc_study.rival.detector_runs import load_detector
from amc_study.rival.region_grounder import RegionGrounder
from amc_study.rival.region_tower import build_model
from amc_study.rival.settings import detector_based

SYSTEMS = ("ALBEF", "AMC")
ANSWER_SECONDS = 0.3  # for a phrase asked of a picture that is encoded


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", seed=1)


@pytest.fixture(scope="module")
def grounder(folder) -> Grounder:
    return Grounder.load(folder)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def with_detector() -> RegionGrounder:
    """The shipped detector under an untrained matcher."""
    chosen = detector_based(preset("scenes"))
    torch.manual_seed(0)
    tokenizer = Grounder.load("albef-scenes").checkpoint.tokenizer
    return RegionGrounder(Checkpoint(build_model(chosen.model).eval(), tokenizer, chosen, {}, ""), load_detector())


@pytest.fixture
def explorer(folder, other) -> Explorer:
    return Explorer({"ALBEF": Grounder.load(folder), "AMC": Grounder.load(other)}, phrase="w1 w2", scene=0)


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


# ------------------------------------------------------------------------------------------ encoded images and tokens


def test_encoded_picture_gives_the_same_answers_and_is_not_encoded_again(grounder, picture, monkeypatch):
    encoded, fresh = grounder.encode(picture), grounder.ground(picture, PHRASES)
    monkeypatch.setattr(grounder.checkpoint.model, "encode_image", None)  # whoever encodes now fails
    for kept, new in zip(grounder.ground(encoded, PHRASES), fresh, strict=True):
        assert (kept.point, kept.score) == (new.point, new.score) and (kept.heatmap == new.heatmap).all()
    deeper = Grounder(grounder.checkpoint, layer=2).ground(encoded, "w1 w2")
    assert (deeper.heatmap != fresh[0].heatmap).any()


def test_questions_from_two_threads_do_not_meet(grounder, picture):
    """As in JupyterLab, where widgets are handled beside the running cells."""
    encoded, phrases = grounder.encode(picture), [f"w{n} w{n + 1}" for n in range(1, 13)]
    expected = [grounder.ground(encoded, phrase) for phrase in phrases]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda phrase: grounder.ground(encoded, phrase), phrases))
    for one, other in zip(found, expected, strict=True):
        assert one.score == other.score and (one.heatmap == other.heatmap).all()


def test_picture_encoded_by_another_checkpoint_is_refused(grounder, other, picture):
    with refused("this image was encoded by another checkpoint"):
        Grounder.load(other).ground(grounder.encode(picture), "w1")


def test_token_maps_are_attention_times_positive_gradient_and_add_up_to_the_heatmap(grounder, picture):
    model, tokenizer = grounder.checkpoint.model, grounder.checkpoint.tokenizer
    encoded = grounder.encode(picture)
    ids, mask = tokenizer(["w4 w5 w6"])
    with gradcam.watch_attention(model.text_encoder, grounder.layer, twice=True) as watch:
        logits = model.match(model.text_encoder.fuse(model.encode_text(ids, mask), mask, encoded.memory))
    (gradient,) = torch.autograd.grad(logits[0, 1], watch.probabilities)
    L, N = watch.probabilities.shape[2:]
    of_heads = (watch.probabilities * gradient.clamp(min=0))[0].mean(0).detach()  # [L, N]
    expected = of_heads[:, 1:].reshape(L, round((N - 1) ** 0.5), -1) / L
    alone, short = grounder.ground(encoded, "w4 w5 w6"), grounder.ground(encoded, ["w4 w5 w6", "w3"])[1]
    assert alone.tokens == ("[CLS]", "w4", "w5", "w6", "[SEP]") and short.tokens == ("[CLS]", "w3", "[SEP]")
    torch.testing.assert_close(alone.token_maps, expected, atol=1e-7, rtol=1e-4)
    for answer in (alone, short):
        torch.testing.assert_close(answer.token_maps.sum(0), answer.raw, atol=1e-8, rtol=1e-4)
        assert answer.token_maps.shape == (len(answer.tokens), *answer.raw.shape) and (answer.token_maps >= 0).all()


def test_strip_has_a_tile_for_each_token(grounder, picture):
    short, long = grounder.ground(picture, ["w3", "w4 w5 w6 w7"])
    assert token_strip(short).width == token_strip(long).width == 300
    assert [token_strip(answer).height for answer in (short, long)] == [116, 232]  # 3 and 6 tokens, 3 in a row
    assert (np.asarray(token_strip(short))[16:] != np.asarray(token_strip(long))[16:116]).any()


# ------------------------------------------------------------------------------------------------ losses of a drawn box


def grounding_of(raw: torch.Tensor, size: tuple[int, int] = (40, 40)) -> Grounding:
    heatmap = np.zeros(size[::-1], dtype=np.float32)
    return Grounding("cat", (5, 5), 0.5, (), ("cat",), Image.new("RGB", size), heatmap, raw, raw[None])


@given(
    values=st.lists(st.floats(0, 5, width=32), min_size=16, max_size=16),
    across=st.tuples(st.floats(0, 1), st.floats(0, 1)), down=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_terms_are_equations_1_to_3(values, across, down):
    amc = AmcSettings(map_size=8)
    (x1, x2), (y1, y2) = sorted(across), sorted(down)
    raw = torch.tensor(values).reshape(4, 4)
    terms = box_terms(grounding_of(raw), (x1, y1, x2, y2), amc)
    shifted = raw - raw.min()
    heat = torch.nn.functional.interpolate(
        (shifted / (shifted.max() + gradcam.NORMALISE_EPS))[None, None], size=(8, 8), mode="bilinear"
    )[0, 0].numpy()
    mask = np.zeros((8, 8), bool)
    left, top = min(round(8 * x1), 7), min(round(8 * y1), 7)
    mask[top : max(round(8 * y2), top + 1), left : max(round(8 * x2), left + 1)] = True
    inside, outside = heat[mask], heat[~mask] if (~mask).any() else np.zeros(1)
    assert terms.mean_inside == pytest.approx(inside.mean(), abs=1e-5)
    assert terms.peak_outside == pytest.approx(outside.max(), abs=1e-5)
    l_mean, l_max = (max(0, outside.mean() - inside.mean() + 0.1), max(0, outside.max() - inside.max() + 0.5))
    assert (terms.l_mean, terms.l_max) == (pytest.approx(l_mean, abs=1e-5), pytest.approx(l_max, abs=1e-5))
    assert terms.l_amc == pytest.approx(0.2 * l_mean + 0.8 * l_max, abs=1e-5)


def test_mask_and_outline_stand_where_the_box_is():
    white = Image.new("RGB", (40, 20), "white")
    light = np.asarray(mask_picture(white, (0.25, 0.5, 0.5, 1.0)))[..., 0]
    assert (light[10:, 10:20] == 255).all() and (light == 255).sum() == 100 and light.min() == 64
    box = np.asarray(outlined(white, (0.25, 0.25, 0.75, 0.75), "black"))[..., 0]
    assert box[5, 15] == 0 and box[10, 20] == 255 and np.asarray(white).min() == 255
    everything = np.asarray(mask_picture(white, (1.0, 1.0, 1.0, 1.0)))[..., 0]
    assert (everything == 255).sum() == 1  # at least one pixel, as in training


def test_heading_says_whether_the_point_lies_inside():
    answer = grounding_of(torch.ones(2, 2))
    assert heading("AMC", answer, (0.1, 0.1, 0.9, 0.9)) == "<b>AMC</b> match 50 %, points inside the box"
    assert heading("AMC", answer, (0.125, 0.1, 0.9, 0.9)).endswith("points outside the box")  # on its edge: strictly


def test_quick_png_is_the_same_picture(picture):
    assert (np.asarray(Image.open(io.BytesIO(quick_png(picture)))) == np.asarray(picture)).all()


# ------------------------------------------------------------------------------------------------------------- Explorer


def shown(explorer: Explorer) -> list[bytes]:
    return [picture.value for picture in explorer.pictures.values()]


def expected_picture(explorer: Explorer, grounder: Grounder, image: Image.Image) -> bytes:
    return quick_png(outlined(grounder.ground(image, explorer.phrase.value).overlay(), explorer.box))


def test_explorer_shows_every_system(explorer, grounder):
    scene = draw_scene(explorer.settings.scenes, 0)
    assert scene.size == (96, 96)
    assert shown(explorer)[0] == expected_picture(explorer, grounder, scene) != shown(explorer)[1]
    answer = grounder.ground(scene, "w1 w2")
    terms = box_terms(answer, (0.25, 0.25, 0.75, 0.75), explorer.settings.amc)
    assert explorer.texts["ALBEF"].value.startswith(f"<b>ALBEF</b> match {100 * answer.score:.0f} %")
    assert explorer.texts["ALBEF"].value.endswith(f"<b>{terms.l_amc:.3f}</b>")
    assert explorer.strips["ALBEF"].value == quick_png(token_strip(answer))
    assert re.fullmatch(r"answered in \d+ ms", explorer.time.value)


def test_new_phrase_scene_and_layer_are_answered(explorer, grounder, folder):
    scenes = [draw_scene(explorer.settings.scenes, index) for index in range(2)]
    explorer.phrase.value = "w3 w4"
    assert shown(explorer)[0] == expected_picture(explorer, grounder, scenes[0])
    explorer.scene.value = 1
    assert shown(explorer)[0] == expected_picture(explorer, grounder, scenes[1])
    explorer.layer.value = 2
    assert shown(explorer)[0] == expected_picture(explorer, Grounder.load(folder, 2), scenes[1])
    explorer.layer.value = explorer.scene.value = 99  # widgets keep to the layers and scenes that there are
    assert (explorer.layer.value, explorer.scene.value) == (4, 2)


def test_phrases_of_the_scene_bring_their_box(explorer):
    assert explorer.boxes, "the first scene has no phrase of one box"
    phrase, box = next(iter(explorer.boxes.items()))
    explorer.suggestions.value = phrase
    assert explorer.phrase.value == phrase and explorer.suggestions.value is None
    assert (explorer.across.value, explorer.down.value) == ((box[0], box[2]), (box[1], box[3]))
    scene = draw_scene(explorer.settings.scenes, 0)
    assert explorer.mask.value == quick_png(mask_picture(scene, explorer.box))


def test_drawn_box_changes_losses_and_mask_without_asking_again(explorer, monkeypatch):
    heat, said, mask = explorer.strips["AMC"].value, explorer.texts["AMC"].value, explorer.mask.value
    monkeypatch.setattr(Explorer, "_answer", None)  # whoever asks now fails
    explorer.across.value, explorer.down.value = (0, 24), (72, 96)
    assert explorer.texts["AMC"].value != said and explorer.mask.value != mask
    assert explorer.strips["AMC"].value == heat
    terms = box_terms(explorer.answers["AMC"], (0, 0.75, 0.25, 1), explorer.settings.amc)
    assert f"<b>{terms.l_mean:.3f}</b>" in explorer.texts["AMC"].value
    assert f"<b>{terms.l_max:.3f}</b>" in explorer.texts["AMC"].value


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


def test_phrase_of_no_words_is_said_above_the_old_pictures(explorer):
    before = shown(explorer)
    explorer.phrase.value = "?"
    assert explorer.message.value == "<b>the phrase '?' has no words</b>"
    assert shown(explorer) == before
    explorer.phrase.value = "w5"
    assert explorer.message.value == "" and shown(explorer) != before


def test_box_can_be_drawn_before_any_phrase_is_answered(folder):
    explorer = Explorer({"AMC": Grounder.load(folder)}, phrase="?")
    assert explorer.message.value == "<b>the phrase '?' has no words</b>" and explorer.pictures["AMC"].value == b""
    before = explorer.mask.value
    explorer.across.value = (10, 20)
    assert explorer.mask.value != before


def upload(explorer: Explorer, name: str, content: bytes) -> None:
    """What the widget's value is after a browser sent a file."""
    file = Bunch(name=name, type="", size=len(content), content=memoryview(content), last_modified=datetime.now(UTC))
    explorer.upload.value = (file,)


def test_uploaded_picture_is_asked_and_shown_small(explorer, grounder, picture):
    upload(explorer, "mine.png", png(picture))
    assert shown(explorer)[0] == expected_picture(explorer, grounder, picture)
    assert explorer.boxes == {}
    large = picture.resize((2000, 1000))
    upload(explorer, "large.png", png(large))
    assert (explorer.across.max, explorer.down.max) == (2000, 1000) and explorer.box == (0.25, 0.25, 0.75, 0.75)
    assert explorer.answers["AMC"].heatmap.shape == (240, 480)
    assert (explorer.answers["ALBEF"].raw == grounder.ground(large, "w1 w2").raw).all()  # read at its full size


def test_upload_that_is_no_picture_is_said(explorer):
    before = shown(explorer)
    upload(explorer, "<mine>.txt", b"no picture")
    assert explorer.message.value == "<b>&lt;mine&gt;.txt: cannot be read as an image</b>"
    assert shown(explorer) == before


def test_detector_based_system_shows_its_box(folder, with_detector):
    explorer = Explorer({"AMC": Grounder.load(folder), "VMRM": with_detector}, "w1 w2")
    scene = draw_scene(explorer.settings.scenes, 0)
    answer = with_detector.ground(scene, "w1 w2")
    assert explorer.answers["VMRM"].boxes[0] == pytest.approx(answer.boxes[0], abs=0.01)
    assert explorer.texts["VMRM"].value.startswith(f"<b>VMRM</b> best of {len(answer.boxes)} boxes")
    x1, y1, x2, y2 = (round(edge) for edge in answer.boxes[0])
    changed = np.argwhere((np.asarray(overlay(explorer.answers["VMRM"])) != np.asarray(scene)).any(2))
    assert (changed.min(0) >= (y1, x1)).all() and (changed.max(0) < (max(y2, y1 + 1), max(x2, x1 + 1))).all()
    assert "VMRM" not in explorer.strips


def test_systems_are_loaded_by_name_or_folder(folder, other):
    systems = load_systems("scenes", amc=other)
    assert list(systems)[:2] == list(SYSTEMS)
    assert systems["AMC"].checkpoint.sha256 == Grounder.load(other).checkpoint.sha256
    assert systems["ALBEF"].checkpoint.sha256 == Grounder.load("albef-scenes").checkpoint.sha256


def test_phrase_is_answered_in_time_by_all_three_systems(with_detector):
    """Processor time of one thread, so that other work on the machine does not count."""
    systems = {"ALBEF": Grounder.load("albef-scenes"), "AMC": Grounder.load(), "VMRM": with_detector}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        explorer = Explorer(systems, "red bell pepper", scene=2)
        seconds = []
        for phrase in ("spotted cup", "a small green bell pepper", "kite", "the big striped cup", "globe"):
            begin = time.process_time()
            explorer.phrase.value = phrase
            seconds.append(time.process_time() - begin)
    finally:
        torch.set_num_threads(threads)
    assert sorted(seconds)[2] < ANSWER_SECONDS
