"""Pictograms: names of their own, and colours and patterns that look like their words."""

from collections import Counter

import numpy as np
import pytest

from amc_study.scenes.concepts import CONCEPTS, PARTS
from amc_study.scenes.pictograms import DISTRACTORS, pictogram

COLOUR_ANCHORS = {  # what a person would point at on a colour chart, chosen apart from the code's tones
    "red": (220, 30, 30),
    "blue": (50, 110, 220),
    "green": (70, 170, 60),
    "yellow": (255, 230, 40),
    "orange": (250, 150, 40),
    "purple": (140, 80, 180),
    "pink": (255, 170, 200),
    "brown": (140, 90, 40),
    "black": (40, 40, 40),
    "white": (255, 255, 255),
    "grey": (170, 170, 170),
}


def test_concepts_are_many_and_have_names_of_their_own():
    assert len(CONCEPTS) >= 150
    assert {"people", "animals", "food", "plants", "vehicles", "objects"} <= {c.category for c in CONCEPTS}
    for taken in ([c.name for c in CONCEPTS], [c.plural for c in CONCEPTS], [c.character for c in CONCEPTS]):
        assert len(set(taken)) == len(taken)
    assert not {c.character for c in CONCEPTS} & set(DISTRACTORS)
    assert set(PARTS) <= {c.name for c in CONCEPTS}


def test_pictograms_differ():
    prints = {np.asarray(pictogram(c).convert("RGBa").resize((24, 24))).tobytes() for c in CONCEPTS}
    assert len(prints) == len(CONCEPTS)


def test_a_fifth_of_each_category_is_unannotated():
    sizes = Counter(c.category for c in CONCEPTS)
    unannotated = Counter(c.category for c in CONCEPTS if not c.annotated)
    for category, size in sizes.items():
        assert abs(unannotated[category] - size / 5) <= 0.5


@pytest.mark.parametrize("concept", [c for c in CONCEPTS if c.colours], ids=lambda c: c.name)
def test_colour_words_are_what_one_sees(concept):
    rasters = {colour: np.asarray(pictogram(concept, colour)).astype(int) for colour in concept.colours}
    ink = next(iter(rasters.values()))[..., 3] > 127
    changing = ink & (np.ptp(np.stack(list(rasters.values())), axis=0).max(-1) > 60)
    assert changing.sum() > 0.08 * ink.sum(), "the coloured area is too small to be seen"
    for colour, raster in rasters.items():
        shades, counts = np.unique(raster[changing][:, :3], axis=0, return_counts=True)
        seen = shades[counts.argmax()]
        nearest = min(COLOUR_ANCHORS, key=lambda word: sum((seen - COLOUR_ANCHORS[word]) ** 2))
        assert nearest == colour


@pytest.mark.parametrize("concept", [c for c in CONCEPTS if c.patterns], ids=lambda c: c.name)
def test_patterns_mark_a_good_part_of_the_fill(concept):
    for colour in concept.colours:
        plain = np.asarray(pictogram(concept, colour)).astype(int)
        for pattern in concept.patterns:
            marked = np.abs(np.asarray(pictogram(concept, colour, pattern)).astype(int) - plain).max(-1) > 60
            assert 0.06 < marked.sum() / (plain[..., 3] > 127).sum() < 0.6


def test_unknown_colours_and_patterns_are_refused():
    dog = next(c for c in CONCEPTS if c.name == "dog")
    with pytest.raises(ValueError, match="dog"):
        pictogram(dog, "turquoise")
    with pytest.raises(ValueError, match="dog"):
        pictogram(dog, "black", "striped")
