"""Scenes: what is said of a picture is true of it, its boxes are exact, and a seed always gives the same picture."""

import hashlib
import inspect
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.files import ROOT
from amc_study.scenes import scene as scenes
from amc_study.scenes.concepts import CONCEPTS
from amc_study.scenes.language import vocabulary
from amc_study.scenes.pictograms import distractor, pictogram
from amc_study.scenes.scene import SPLITS

SETTINGS = SceneSettings()
SCENES_PER_SPLIT = 15
COLOURS = ["red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey"]
SIZES = {"small": "small", "little": "small", "big": "big", "large": "big"}
PATTERNS = {w: w for w in ("plain", "striped", "spotted")} | {"stripes": "striped", "spots": "spotted"}
NAMES = {name: c for c in CONCEPTS for name in (c.name, c.plural)}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[scenes.Scene]]:
    return {split: [scenes.draw(SETTINGS, split, i) for i in range(SCENES_PER_SPLIT)] for split in SPLITS}


@pytest.fixture(scope="module")
def all_scenes(drawn) -> list[scenes.Scene]:
    return [scene for split in SPLITS for scene in drawn[split]]


def digest(scene: scenes.Scene) -> str:
    words = repr((scene.captions, [(r.id, r.phrase, r.boxes) for r in scene.regions]))
    return hashlib.sha256(scene.image.tobytes() + words.encode()).hexdigest()


def understood(phrase: str) -> tuple[str, dict[str, str], bool]:
    """A noun phrase read word by word: concept name, attributes mentioned, whether it speaks of a part."""
    part = re.match(r"(?:the )?[a-z]+ of (?:the|an?) (.*)", phrase)
    text = part[1] if part else phrase
    name = max((n for n in NAMES if re.search(rf"\b{n}\b", text)), key=len)
    rest = re.sub(rf"\b{name}\b", " ", text, count=1).split()
    attributes = {"size": SIZES, "colour": {c: c for c in COLOURS}, "pattern": PATTERNS}
    said = {kind: words[w] for kind, words in attributes.items() for w in rest if w in words}
    return NAMES[name].name, said, bool(part)


def meant(phrase: str, objects) -> list[scenes.SceneObject]:
    name, said, _ = understood(phrase)
    return [o for o in objects if o.concept.name == name and all(getattr(o, k) == v for k, v in said.items())]


def rendered_alone(placement, size: int) -> np.ndarray:
    """Which pixels a pictogram would cover alone: bool [size, size], from its placement and nothing else."""
    thing, (x, y) = placement.thing, placement.corner
    if isinstance(thing, str):
        raster = distractor(thing)
    else:
        raster = pictogram(thing.concept, thing.colour, thing.pattern.replace("plain", ""))
    if placement.mirrored:
        raster = raster.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sides = [max(1, round(side * placement.width / max(raster.size))) for side in raster.size]
    turned = raster.resize(sides).rotate(placement.degrees, Image.Resampling.BILINEAR, expand=True)
    ink = np.asarray(turned)[..., 3] > 127
    ink = ink[ink.any(1).argmax() :, ink.any(0).argmax() :]  # from the first row and column with ink
    canvas = np.zeros((2 * size, 2 * size), dtype=bool)
    canvas[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    return canvas[:size, :size]


def test_scenes_do_not_depend_on_order_or_process(drawn):
    some = [("referring_a", 0), ("val", 7)]
    code = (
        "import hashlib\nfrom amc_lib.config import SceneSettings\nfrom amc_study.scenes import scene as scenes\n"
        f"{inspect.getsource(digest)}\n"
        f"print([digest(scenes.draw(SceneSettings(), split, i)) for split, i in {some}])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "42", "PYTHONPATH": f"{ROOT}:{ROOT / 'notebooks'}"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.strip() == repr([digest(drawn[split][i]) for split, i in some])


def test_words_of_the_study_stay_the_same(drawn):
    """Captions and phrases of some scenes as they were when the shipped checkpoints were trained."""
    words = [
        (scene.captions, [(r.id, r.phrase, r.kind, r.annotated, len(r.boxes)) for r in scene.regions])
        for scene in (drawn[split][index] for split in SPLITS for index in (0, 5))
    ]
    assert hashlib.sha256(repr(words).encode()).hexdigest()[:16] == "a183d1cfd0fc80d1"


def test_seeds_and_splits_share_no_scene_and_no_id(all_scenes):
    pictures = [scene.image.tobytes() for scene in all_scenes]
    pictures += [scenes.draw(replace(SETTINGS, seed=1), "train", i).image.tobytes() for i in range(3)]
    assert len(set(pictures)) == len(pictures)
    ids = [region.id for scene in all_scenes for region in scene.regions]
    assert len(set(ids)) == len(ids)


def test_image_of_a_region_is_drawn_when_opened(drawn):
    scene = drawn["val"][2]
    source = pickle.loads(pickle.dumps(scene.regions[0].image))
    assert source == scene.regions[0].image and hash(source) == hash(scene.regions[0].image)
    assert source.open().mode == "RGB" and source.open().size == (SETTINGS.size, SETTINGS.size)
    assert source.open().tobytes() == scene.image.tobytes()


KNOBS = st.builds(
    SceneSettings,
    size=st.sampled_from([96, 160, 256]),
    objects=st.sampled_from([(2, 3), (4, 6), (6, 9), (10, 12)]),
    object_width=st.sampled_from([(0.1, 0.4), (0.13, 0.28), (0.2, 0.2)]),
    rotation_degrees=st.sampled_from([0.0, 25.0, 180.0]),
    max_occlusion=st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    distractors=st.sampled_from([(0, 0), (1, 3), (6, 6)]),
)


@hypothesis_settings(max_examples=15, deadline=None)
@given(KNOBS, st.integers(0, 599), st.sampled_from(["phrases", "referring_a", "referring_b"]))
def test_boxes_are_tight_and_knobs_obeyed(settings, index, split):
    size, objects, width, distractors = settings.size, settings.objects, settings.object_width, settings.distractors
    assume(settings.max_occlusion > 0 or (objects[1] <= 9 and width[1] < 0.4))  # else some scenes have no room
    scene = scenes.draw(settings, split, index)
    assert objects[0] <= len(scene.objects) <= objects[1]
    assert distractors[0] <= len(scene.placements) - len(scene.objects) <= distractors[1]
    alone = [rendered_alone(placement, size) for placement in scene.placements]
    for thing in scene.objects:
        placement = scene.placements[thing.layer]
        assert placement.thing.concept == thing.concept
        assert width[0] * size - 0.5 <= placement.width <= width[1] * size + 0.5
        assert abs(placement.degrees) <= settings.rotation_degrees
        seen = alone[thing.layer] & ~np.any([np.zeros_like(alone[0]), *alone[thing.layer + 1 :]], axis=0)
        ys, xs = np.nonzero(seen)
        assert thing.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert min(thing.box) >= 0 and max(thing.box) <= size
        assert thing.visible == pytest.approx(seen.sum() / alone[thing.layer].sum())
        assert thing.visible >= 1 - settings.max_occlusion


def test_a_phrase_means_exactly_its_boxes(all_scenes):
    kinds = Counter()
    for scene in all_scenes:
        for region in scene.regions:
            kinds[region.split, region.kind] += 1
            things = meant(region.phrase, scene.objects)
            if understood(region.phrase)[2]:
                assert region.kind == "part" and len(things) == 1
                x1, y1, x2, y2 = things[0].box
                for box in region.boxes:
                    assert x1 <= box[0] < box[2] <= x2 and y1 <= box[1] < box[3] <= y2
                    assert box != things[0].box
            else:
                assert sorted(thing.box for thing in things) == sorted(region.boxes)
                assert region.kind == ("group" if len(things) > 1 else "object")
    assert all(kinds[split, kind] >= 3 for split in ("train", "val", "phrases") for kind in ("object", "group", "part"))


@pytest.mark.parametrize("split", ["referring_a", "referring_b"])
def test_expressions_fit_one_of_several_of_a_kind(drawn, split):
    ways = Counter()
    for scene in drawn[split]:
        companions = Counter(thing.concept.name for thing in scene.objects)
        expected = sum(number for number in companions.values() if number > 1)
        assert len(scene.regions) == expected >= 2
        for region in scene.regions:
            (target,) = meant(region.phrase, scene.objects)
            assert companions[target.concept.name] > 1
            assert (target.concept.category in ("people", "animals")) == (split == "referring_a")
            ways.update(list(understood(region.phrase)[1]))
    assert min(ways[way] for way in ("size", "colour", "pattern")) >= 2


def test_captions_are_true(all_scenes):
    for scene in all_scenes:
        lengths = [len(caption.split()) for caption in scene.captions]
        assert lengths == sorted(lengths) and lengths
        for caption in scene.captions:
            for phrase in re.split(r", | and ", re.sub(r"^(a picture of|we see) ", "", caption)):
                numbers = {"two": 2, "three": 3}
                assert len(meant(phrase, scene.objects)) == numbers.get(phrase.split()[0], 1)


def test_unannotated_concepts_have_no_boxes_in_training(drawn):
    for split in SPLITS:
        regions = [region for scene in drawn[split] for region in scene.regions]
        assert all(region.annotated == NAMES[understood(region.phrase)[0]].annotated for region in regions)
        assert all(r.annotated for r in regions) == (split in ("pretrain", "train"))
    shown = {thing.concept.name for scene in drawn["train"] for thing in scene.objects if not thing.concept.annotated}
    told = " ".join(caption for scene in drawn["train"] for caption in scene.captions)
    assert len(shown) > 10 and sum(name in told for name in shown) > 0.9 * len(shown)


def test_concepts_that_could_be_confused_never_meet(all_scenes):
    for scene in all_scenes:
        present = {thing.concept for thing in scene.objects}
        kins = Counter(concept.kin for concept in present if concept.kin)
        assert not kins or max(kins.values()) == 1
        assert not {"people", "clothes"} <= {concept.category for concept in present}


def test_words_are_of_the_vocabulary_and_articles_are_right(all_scenes):
    known = set(vocabulary())
    assert len(known) < 700
    for scene in all_scenes:
        for text in [*scene.captions, *(region.phrase for region in scene.regions)]:
            assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", text)
            assert set(re.findall(r"[a-z]+", text)) <= known
            assert not re.search(r"\ban [^aeiou]|\ba [aeiou]", text)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": 20}, "size"),
        ({"objects": (9, 6)}, "objects"),
        ({"objects": (300, 300)}, "objects"),
        ({"object_width": (0.0, 0.2)}, "object_width"),
        ({"object_width": (0.8, 0.9), "size": 64}, "object_width"),
        ({"objects": (30, 30), "max_occlusion": 0.0, "size": 64}, "max_occlusion"),
        ({"distractors": (0, 1000)}, "distractors"),
    ],
)
def test_impossible_settings_and_scenes_that_do_not_exist_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        scenes.draw(replace(SETTINGS, **change), "val", 0)
    for split, index in (("test", 0), ("val", -1), ("val", SETTINGS.val)):
        with pytest.raises(ValueError, match=split):
            scenes.draw(SETTINGS, split, index)
