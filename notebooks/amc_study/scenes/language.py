"""True statements about a scene: noun phrases, referring expressions and captions, lower case.

A phrase is built from a `Description` and means all things of the scene that fit it, so that it is never also true of
a thing without a box.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from amc_study.scenes.cast import BIG, PLAIN, SMALL, Thing
from amc_study.scenes.concepts import CONCEPTS, PARTS, Concept, Part

ATTRIBUTES = ("size", "colour", "pattern")  # in the order in which they stand before a noun
SIZE_WORDS = {SMALL: ("small", "small", "little"), BIG: ("big", "big", "large")}
PATTERN_NOUNS = {"striped": "stripes", "spotted": "spots"}
NUMBERS = {2: "two", 3: "three"}
OPENINGS = ("", "", "", "a picture of ", "we see ")  # of captions
CAPTION_LENGTHS = (1, 2, 3, 4)  # mentions in the captions of a scene, in turn until all are used
ATTRIBUTE_CHANCE = 0.55  # that a phrase mentions an attribute it does not need
PLAIN_CHANCE = 0.1  # likewise, that a thing carries no pattern
RELATIVE_CHANCE = 0.12  # that an attribute follows its noun: "helicopter that is red"
LONGER_CHANCE = 0.25  # that a distinguishing phrase also has colour and pattern, needed or not
PART_CHANCE = 0.6  # that a part of a thing is mentioned


@dataclass(frozen=True)
class Description:
    """A concept with the attributes that a phrase mentions, "" where it does not."""

    concept: Concept
    size: str = ""
    colour: str = ""
    pattern: str = ""

    @property
    def mentioned(self) -> list[str]:
        return [name for name in ATTRIBUTES if getattr(self, name)]

    def fits(self, thing: Thing) -> bool:
        same = all(getattr(self, name) == getattr(thing, name) for name in self.mentioned)
        return same and thing.concept == self.concept


@dataclass(frozen=True)
class Mention:
    """A phrase, its form inside a caption, and the indices of the things it means, or whose part it means."""

    phrase: str
    in_caption: str
    targets: tuple[int, ...]
    part: Part | None = None


def mentions(things: Sequence[Thing], rng: np.random.Generator) -> list[Mention]:
    """Noun phrases for all things: companions as a group and, where words tell them apart, one by one; parts."""
    said: dict[tuple[int, ...], Mention] = {}
    for i, thing in enumerate(things):
        descriptions = [_random_description(thing, rng)]
        if _has_company(thing, things):
            descriptions += [*_distinguishing(i, things, rng), Description(thing.concept)]
        for description in descriptions:
            mention = _mention(description, things, rng)
            said.setdefault(mention.targets, mention)
    return [*said.values(), *_part_mentions(things, rng)]


def expressions(things: Sequence[Thing], rng: np.random.Generator) -> list[Mention]:
    """For each thing with companions, a phrase that fits it alone, where there is one."""
    twins = [i for i, thing in enumerate(things) if _has_company(thing, things)]
    return [_mention(description, things, rng) for i in twins for description in _distinguishing(i, things, rng)]


def write_captions(mentioned: Sequence[Mention], rng: np.random.Generator) -> tuple[str, ...]:
    """Captions that name one to four things, shortest first; every mention is part of one."""
    shuffled = [mentioned[i] for i in rng.permutation(len(mentioned))]
    together: list[Mention] = []
    for mention in shuffled:
        taken = {target for other in together for target in other.targets}
        if mention.part is None and not taken.intersection(mention.targets):
            together.append(mention)
    chunks = [[mention] for mention in shuffled if mention not in together]
    lengths = itertools.cycle(CAPTION_LENGTHS)
    while together:
        length = next(lengths)
        chunks.append(together[:length])
        together = together[length:]
    written = [OPENINGS[rng.integers(len(OPENINGS))] + _enumeration([m.in_caption for m in chunk]) for chunk in chunks]
    return tuple(sorted(written, key=lambda caption: len(caption.split())))


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of phrases and captions, sorted."""
    texts = ["a an the and of in wearing with that is are both all", *NUMBERS.values(), *PATTERN_NOUNS.values(), PLAIN]
    texts += [text for c in CONCEPTS for text in (c.name, c.plural, *c.colours, *c.patterns)]
    texts += [word for words in SIZE_WORDS.values() for word in words]
    texts += [part.name for parts in PARTS.values() for part in parts]
    return tuple(sorted(set(re.findall("[a-z]+", " ".join([*texts, *OPENINGS])))))


def _has_company(thing: Thing, things: Sequence[Thing]) -> bool:
    return sum(other.concept == thing.concept for other in things) > 1


def _random_description(thing: Thing, rng: np.random.Generator) -> Description:
    """A thing's concept with a random choice of its attributes."""
    values = {name: getattr(thing, name) for name in ATTRIBUTES}
    chances = {name: PLAIN_CHANCE if value == PLAIN else ATTRIBUTE_CHANCE for name, value in values.items()}
    return Description(thing.concept, **{name: value for name, value in values.items() if rng.random() < chances[name]})


def _distinguishing(i: int, things: Sequence[Thing], rng: np.random.Generator) -> list[Description]:
    """A description of as few attributes as possible that fits thing i alone, sometimes one more; [] if none does."""
    given = [name for name in ATTRIBUTES if getattr(things[i], name)]
    for number in range(len(given) + 1):
        fitting = []
        for subset in itertools.combinations(given, number):
            description = Description(things[i].concept, **{name: getattr(things[i], name) for name in subset})
            if sum(description.fits(thing) for thing in things) == 1:
                fitting.append(description)
        if fitting:
            chosen = fitting[rng.integers(len(fitting))]
            if rng.random() >= 1 - LONGER_CHANCE:
                pattern = "" if things[i].pattern == PLAIN else things[i].pattern
                chosen = replace(chosen, colour=things[i].colour, pattern=chosen.pattern or pattern)
            return [chosen]
    return []


def _mention(description: Description, things: Sequence[Thing], rng: np.random.Generator) -> Mention:
    targets = tuple(i for i, thing in enumerate(things) if description.fits(thing))
    if len(targets) == 1:
        noun = _noun(description, rng)
        forms = (noun, noun, noun, _with_article(noun), _with_article(noun), f"the {noun}")
        return Mention(forms[rng.integers(len(forms))], _with_article(noun), targets)
    number = NUMBERS[len(targets)]
    nouns = _noun(description, rng, plural=True)
    whole = f"both {nouns}" if len(targets) == 2 else f"all {number} {nouns}"
    forms = (f"{number} {nouns}", f"{number} {nouns}", f"the {number} {nouns}", nouns, whole)
    return Mention(forms[rng.integers(len(forms))], f"{number} {nouns}", targets)


def _part_mentions(things: Sequence[Thing], rng: np.random.Generator) -> list[Mention]:
    """A phrase for one part of some of the things that have parts and can be told from their companions."""
    found = []
    for i, thing in enumerate(things):
        parts = PARTS.get(thing.concept.name, ())
        if not parts or rng.random() > PART_CHANCE:
            continue
        part = parts[rng.integers(len(parts))]
        for description in _distinguishing(i, things, rng):
            noun = _noun(description, rng)
            owner = f"the {noun}" if rng.random() < 0.7 else _with_article(noun)
            definite = "the " if rng.random() < 0.4 else ""
            found.append(Mention(f"{definite}{part.name} of {owner}", f"the {part.name} of {owner}", (i,), part))
    return found


def _noun(description: Description, rng: np.random.Generator, plural: bool = False) -> str:
    """The description as words, without article: "small red striped cups", "prince in blue"."""
    concept = description.concept
    before = {name: getattr(description, name) for name in ATTRIBUTES}
    if description.size:
        words = SIZE_WORDS[description.size]
        before["size"] = words[rng.integers(len(words))]
    after = ""
    if concept.category == "people" and before["colour"]:
        after = f" {'wearing' if rng.random() < RELATIVE_CHANCE else 'in'} {before.pop('colour')}"
    elif description.mentioned and rng.random() < RELATIVE_CHANCE:
        name = description.mentioned[rng.integers(len(description.mentioned))]
        word = before.pop(name)
        after = f" with {PATTERN_NOUNS[word]}" if word in PATTERN_NOUNS else f" that {'are' if plural else 'is'} {word}"
    return " ".join([word for word in before.values() if word] + [concept.plural if plural else concept.name]) + after


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"  # no noun or attribute begins like "hour" or "unicorn"


def _enumeration(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
