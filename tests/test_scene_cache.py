"""Splits of scenes and their cache: drawn once, an interruption leaves nothing, other code is another entry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from amc_lib.config import SceneSettings, VisionSettings
from amc_lib.files import ROOT
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_study.scenes import cache
from amc_study.scenes import scene as scenes
from amc_study.scenes.cache import DRAWING, fingerprint
from amc_study.scenes.splits import SceneSplit, open_scenes

SETTINGS = SceneSettings(size=96, object_width=(0.2, 0.3), objects=(2, 3), val=3)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    monkeypatch.setattr(cache, "WORKERS", 1)


def test_split_is_drawn_once_and_holds_what_its_scenes_show(tmp_path, monkeypatch):
    vision = VisionSettings(64)
    split, scene = open_scenes(SETTINGS, vision, "val"), scenes.draw(SETTINGS, "val", 2)
    assert split.captions[2] == list(scene.captions) and split.regions[2] == list(scene.regions)
    expected = FrozenTrunk("lite0")(pixels(scene.image, 64)[None])[0]
    torch.testing.assert_close(split.inputs[2].float(), expected, atol=4e-3, rtol=2e-3)  # float16
    assert len(list(tmp_path.iterdir())) == 1

    monkeypatch.setattr(cache, "_fill", None)
    again = open_scenes(SETTINGS, vision, "val")
    assert torch.equal(again.inputs, split.inputs) and again.regions == split.regions
    assert open_scenes(replace(SETTINGS, phrases=7), vision, "val").captions == split.captions  # which it does not read
    for changed in (replace(SETTINGS, seed=1), replace(SETTINGS, val=4)):
        with pytest.raises(TypeError):
            open_scenes(changed, vision, "val")


def test_captions_give_the_phrases_that_they_list():
    captions = [["a big red cup"], ["we see two cats, a small dog and the hat of a woman in blue"]]
    (short,), long = SceneSplit(SETTINGS, "pretrain", torch.zeros(2), captions, []).caption_phrases()
    listed = ["we see two cats", "a small dog", "the hat of a woman in blue"]
    assert (short.text, short.things) == ("a big red cup", 1)
    assert [(phrase.text, phrase.things) for phrase in long] == [(captions[1][0], 3), *((text, 1) for text in listed)]


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(settings, split, start, stop):
        if start:
            raise KeyboardInterrupt
        return {"rows": np.zeros((stop - start, 2))}, [None] * (stop - start)

    with pytest.raises(KeyboardInterrupt):
        cache.open_entry("rows", interrupted, replace(SETTINGS, val=4), "val", None, scenes_a_task=2)
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_knows_statements_and_tables_and_no_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROOT", tmp_path)

    def found(code: str, table: str = "a", content: int = 1) -> str:
        (tmp_path / "code.py").write_text(code)
        (tmp_path / "table.csv").write_text(table)
        return fingerprint([content], ["*.py", "table.csv"])

    first = found('"""Draws."""\nx = 1  # one\n')
    assert found('"""Draws well."""\n\nx = 1\n') == first
    assert len({first, found("x = 1", content=2), found("x = 1", table="b"), found("x = 2")}) == 4
    with pytest.raises(ValueError, match=r"no file matches 'renamed\.py'"):
        fingerprint([1], ["*.py", "renamed.py"])


def test_drawing_depends_on_what_draws():
    files = {path.name for pattern in DRAWING for path in ROOT.glob(pattern)}
    assert {"cast.py", "concepts.csv"} <= files
