"""Concepts and their pictograms: names of their own, colours and patterns that one sees."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from amc_study.scenes.concepts import CONCEPTS, PARTS
from amc_study.scenes.pictograms import DISTRACTORS, pictogram

COLOUR_CHART = """red dc1e1e, blue 326edc, green 46aa3c, yellow ffe628, orange fa9628, purple 8c50b4, pink ffaac8,
brown 8c5a28, black 282828, white ffffff, grey aaaaaa"""  # chosen by eye, apart from the code's tones
COLOUR_ANCHORS = {name: tuple(bytes.fromhex(code)) for name, code in map(str.split, COLOUR_CHART.split(","))}


def test_concepts_have_names_of_their_own_and_a_fifth_of_each_category_is_unannotated():
    for names in ([c.name for c in CONCEPTS], [c.plural for c in CONCEPTS], [c.character for c in CONCEPTS]):
        assert len(set(names)) == len(names) >= 150
    assert not {c.character for c in CONCEPTS} & set(DISTRACTORS)
    assert set(PARTS) <= {c.name for c in CONCEPTS}
    unannotated = Counter(c.category for c in CONCEPTS if not c.annotated)
    for category, size in Counter(c.category for c in CONCEPTS).items():
        assert abs(unannotated[category] - size / 5) <= 0.5


@pytest.mark.parametrize("concept", [c for c in CONCEPTS if c.colours][::3], ids=lambda c: c.name)
def test_colours_and_patterns_are_what_one_sees(concept):
    rasters = {colour: np.asarray(pictogram(concept, colour)).astype(int) for colour in concept.colours}
    ink = next(iter(rasters.values()))[..., 3] > 127
    changing = ink & (np.ptp(np.stack(list(rasters.values())), axis=0).max(-1) > 60)
    assert changing.sum() > 0.08 * ink.sum(), "the coloured area is too small to be seen"
    for colour, raster in rasters.items():
        shades, counts = np.unique(raster[changing][:, :3], axis=0, return_counts=True)
        seen = shades[counts.argmax()]
        assert min(COLOUR_ANCHORS, key=lambda word: sum((seen - COLOUR_ANCHORS[word]) ** 2)) == colour
        for pattern in concept.patterns:
            marked = np.abs(np.asarray(pictogram(concept, colour, pattern)).astype(int) - raster).max(-1) > 60
            assert 0.06 < marked.sum() / ink.sum() < 0.6


@pytest.mark.parametrize("look", [("turquoise",), ("black", "striped")])
def test_unknown_colours_and_patterns_are_refused(look):
    with pytest.raises(ValueError, match="dog"):
        pictogram(next(concept for concept in CONCEPTS if concept.name == "dog"), *look)
