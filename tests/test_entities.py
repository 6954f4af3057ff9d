"""Head nouns of phrases, and the lot of nouns that are never boxed: drawn alike from common and rare ones."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from amc_study.photos.entities import head_noun, never_boxed


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("A man", "man"),
        ("Two small dogs", "dog"),
        ("a black and white dog", "dog"),
        ("the woman's hat", "hat"),
        ("a man in an orange hat", "man"),
        ("The older lady who smiles", "lady"),
        ("a girl wearing a pink dress", "girl"),
        ("white running shoes", "shoe"),
        ("a cup of coffee", "cup"),
        ("a set of stairs", "stair"),
        ("a large group of people", "person"),
        ("two of the men", "man"),
        ("a pair of sunglasses", "sunglasses"),
        ("a large group", "group"),
        ("a couple", "couple"),
        ("in-line skates", "skate"),
        ("both", "both"),
        ("of", "of"),
        ("a group of", "group"),
    ],
)
def test_head_noun_is_what_the_phrase_is_about(phrase, noun):
    assert head_noun(phrase) == noun


@pytest.mark.parametrize(
    "nouns",
    [
        *["women woman", "children child", "firemen fireman", "puppies puppy", "ties tie", "benches bench"],
        *["boxes box", "grasses grass", "scarves scarf", "gloves glove", "shoes shoe", "buses bus", "horses horse"],
        *["jeans jeans", "tennis tennis", "bus bus", "dress dress", "gas gas", "glasses glasses"],
    ],
)
def test_one_and_several_have_one_noun(nouns):
    several, one = nouns.split()
    assert head_noun(f"some {several}") == head_noun(f"a {one}") == one


def test_phrase_without_words_is_refused():
    with pytest.raises(ValueError, match="has no words"):
        head_noun("...")


TYPES = {"people": 30, "animals": 20, "scene": 40, "other": 13}  # nouns of each
COUNTS = {f"{entity}{i}x": (entity, nouns - i) for entity, nouns in TYPES.items() for i in range(nouns)}
REGIONS = [SimpleNamespace(phrase=f"a {noun}", entity=entity) for noun, (entity, n) in COUNTS.items() for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_lot_is_balanced_over_types_and_within_each_over_frequency(seed):
    lot = never_boxed(REGIONS, 0.2, seed)
    assert len(lot) == pytest.approx(0.2 * len(COUNTS), abs=1)
    for entity, nouns in TYPES.items():
        ranked = [f"{entity}{i}x" for i in range(nouns)]  # the commonest first
        for third in range(3):
            part = ranked[third * nouns // 3 : (third + 1) * nouns // 3]
            assert len(lot.intersection(part)) == pytest.approx(0.2 * len(part), abs=1.99)


def test_every_noun_is_as_likely():
    drawn = Counter(noun for seed in range(200) for noun in never_boxed(REGIONS, 0.2, seed))
    shares = [drawn[noun] / 200 for noun in COUNTS]
    assert min(shares) > 0.06 and max(shares) < 0.34  # 0.2, five standard errors to either side


def test_lot_depends_on_phrases_and_seed_alone():
    mixed = random.Random(0).sample(REGIONS, len(REGIONS))
    assert never_boxed(mixed) == never_boxed(REGIONS) != never_boxed(REGIONS, seed=1)


def test_a_noun_counts_where_most_of_its_phrases_are():
    """Dogs, called people once, are animals: of the five animals one is drawn, whatever the lot."""
    animals = [
        ("dog", "people"),
        *[("dog", "animals")] * 2,
        *((noun, "animals") for noun in ("cat", "cow", "bird", "ox")),
    ]
    people = [(noun, "people") for noun in ("man", "woman", "boy", "girl", "lady")]
    regions = [SimpleNamespace(phrase=noun, entity=entity) for noun, entity in animals + people]
    for seed in range(20):
        assert len(never_boxed(regions, 0.2, seed) & {"dog", "cat", "cow", "bird", "ox"}) == 1


def test_words_that_stand_for_others_are_never_drawn():
    phrases = ["one of them", "the others", "someone", "a dog"]
    regions = [SimpleNamespace(phrase=phrase, entity="other") for phrase in phrases]
    assert {noun for seed in range(20) for noun in never_boxed(regions, 0.5, seed)} == {"dog"}


@pytest.mark.parametrize("share", [1, -0.1, 20])
def test_share_is_less_than_all(share):
    with pytest.raises(ValueError, match="must lie in"):
        never_boxed(REGIONS, share)
