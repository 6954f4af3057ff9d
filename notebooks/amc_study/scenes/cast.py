"""Who appears in a scene: concepts, colours, patterns and sizes, drawn at random so that words can tell twins apart.

Things of one concept come as `companions`: alike ("two cats"), or differing in one or two attributes ("red car",
"blue car", "small red car"). No other two things of a scene can be taken for one another.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from amc_lib.config import SceneSettings
from amc_study.scenes.concepts import CONCEPTS, Concept

PLAIN = "plain"  # the pattern of a thing that could carry one and does not
SMALL, BIG = "small", "big"
SIZE_RATIO = 1.7  # a big thing is at least so many times as wide as its small twin
COMPANY_SHARE = 0.6  # of the scenes without referring expressions
ALIKE_SHARE = 0.4  # of these companies
TRIPLE_SHARE = 0.3  # of the companies that could be three
LEAST_FOR_TWO_COMPANIES = 6  # things in a referring scene, so that fillers remain
PLAIN_SHARE = 0.5  # of the things that could carry a pattern
CONTRAST_WEIGHTS = {"colour": 2.0, "pattern": 2.0, "size": 0.4}
LIVING = ("people", "animals")  # referring_a, RefCOCO+'s testA; referring_b shows the rest
_CLOSE = ("red orange", "orange yellow", "orange brown", "pink purple", "blue purple", "white grey", "brown black")
CLOSE_COLOURS = frozenset(frozenset(pair.split()) for pair in _CLOSE)  # never told apart by their names


@dataclass(frozen=True)
class Thing:
    """A named pictogram; "" where an attribute does not apply. `width` is its longer side, a share of the scene's."""

    concept: Concept
    colour: str = ""
    pattern: str = ""
    size: str = ""
    width: float = 0.0


@cache
def _strangers(concept: Concept) -> frozenset[str]:
    """Names of the concepts that may not stand in a scene with this one, its own included.

    A phrase for one of them could be true of the other, or of what it wears or rides.
    """
    dressed = {"people": "clothes", "clothes": "people"}.get(concept.category)
    strangers = [c for c in CONCEPTS if c == concept or (c.kin and c.kin == concept.kin) or c.category == dressed]
    return frozenset(c.name for c in strangers)


def draw_cast(settings: SceneSettings, split: str, rng: np.random.Generator) -> list[Thing]:
    """The things of one scene, companions first."""
    least, most = settings.train_objects if split in ("pretrain", "train") else settings.objects
    total = int(rng.integers(least, most + 1))
    refers = _refers(split)
    companies = 1 + (total >= LEAST_FOR_TWO_COMPANIES) if refers else total > 1 and rng.random() < COMPANY_SHARE
    things: list[Thing] = []
    for _ in range(companies):
        concept = _next_concept(things, split, settings, rng)
        contrasts = _contrasts(concept, settings)
        if not contrasts or (not refers and rng.random() < ALIKE_SHARE):
            things += _alike(concept, total - len(things), settings, rng)
        else:
            things += _told_apart(concept, contrasts, total - len(things), settings, rng)
    while len(things) < total:
        things.append(_thing(_next_concept(things, "", settings, rng), settings, rng))
    return things


def _refers(split: str) -> bool:
    return split.startswith("referring")


def _next_concept(things: list[Thing], split: str, settings: SceneSettings, rng: np.random.Generator) -> Concept:
    """A concept that may join the things; in referring splits one of their kind whose members can be told apart.

    There, concepts come the more often the more attributes can tell their members apart, lest size tell nearly all.
    """
    barred = frozenset().union(*(_strangers(thing.concept) for thing in things))
    pool = [concept for concept in CONCEPTS if concept.name not in barred]
    weights = np.ones(len(pool))
    if _refers(split):
        mine = [(c.category in LIVING) == (split == "referring_a") for c in pool]
        ways = [sum(CONTRAST_WEIGHTS[name] for name in _contrasts(c, settings)) for c in pool]
        weights = np.array(mine) * np.array(ways)
    if not weights.any():
        raise ValueError(f"objects {settings.objects}: there are not so many concepts that may stand in one scene")
    return pool[rng.choice(len(pool), p=weights / weights.sum())]


def _thing(concept: Concept, settings: SceneSettings, rng: np.random.Generator) -> Thing:
    """A thing of a concept with random colour, pattern and width."""
    colour = concept.colours[rng.integers(len(concept.colours))] if concept.colours else ""
    pattern = ""
    if concept.patterns:
        plain = rng.random() < PLAIN_SHARE
        pattern = PLAIN if plain else concept.patterns[rng.integers(len(concept.patterns))]
    return Thing(concept, colour, pattern, width=float(rng.uniform(*settings.object_width)))


@cache
def _contrasts(concept: Concept, settings: SceneSettings) -> tuple[str, ...]:
    """Attributes by which two things of this concept can be told apart."""
    narrowest, widest = settings.object_width
    possible = {
        "colour": bool(_colour_pairs(concept)),
        "pattern": bool(concept.patterns),
        "size": widest >= SIZE_RATIO * narrowest,
    }
    return tuple(name for name, given in possible.items() if given)


@cache
def _colour_pairs(concept: Concept) -> list[tuple[str, str]]:
    """Ordered pairs of the concept's colours that nobody confuses."""
    colours = concept.colours
    return [(a, b) for a in colours for b in colours if a != b and frozenset((a, b)) not in CLOSE_COLOURS]


def _alike(concept: Concept, room: int, settings: SceneSettings, rng: np.random.Generator) -> list[Thing]:
    """Two or three things with the same attributes and nearly the same width."""
    number = 3 if room > 2 and rng.random() < TRIPLE_SHARE else 2
    return _with_similar_widths([_thing(concept, settings, rng)] * number, settings, rng)


def _with_similar_widths(things: list[Thing], settings: SceneSettings, rng: np.random.Generator) -> list[Thing]:
    widths = [np.clip(thing.width * rng.uniform(0.9, 1.1), *settings.object_width) for thing in things]
    return [replace(thing, width=float(width)) for thing, width in zip(things, widths, strict=True)]


def _told_apart(
    concept: Concept, contrasts: tuple[str, ...], room: int, settings: SceneSettings, rng: np.random.Generator
) -> list[Thing]:
    """Twins that differ in one attribute, or triplets of whom one differs in a first, one in a second attribute."""
    weights = np.array([CONTRAST_WEIGHTS[name] for name in contrasts])
    number = 2 if len(contrasts) > 1 and room > 2 and rng.random() < TRIPLE_SHARE else 1
    chosen = [contrasts[i] for i in rng.choice(len(contrasts), number, replace=False, p=weights / weights.sum())]
    values = {name: _two_values(concept, name, rng) for name in chosen}
    first = replace(_thing(concept, settings, rng), **{name: value for name, (value, _) in values.items()})
    company = [first] + [replace(first, **{name: other}) for name, (_, other) in values.items()]
    if "size" not in chosen:
        return _with_similar_widths(company, settings, rng)
    narrowest, widest = settings.object_width
    small = float(rng.uniform(narrowest, widest / SIZE_RATIO))
    big = float(rng.uniform(small * SIZE_RATIO, widest))
    return [replace(thing, width=small if thing.size == SMALL else big) for thing in company]


def _two_values(concept: Concept, attribute: str, rng: np.random.Generator) -> tuple[str, str]:
    """Two different values of an attribute, in random order."""
    if attribute == "colour":
        pairs = _colour_pairs(concept)
        return pairs[rng.integers(len(pairs))]
    values = (SMALL, BIG) if attribute == "size" else (PLAIN, concept.patterns[rng.integers(len(concept.patterns))])
    return values if rng.random() < 0.5 else values[::-1]
