"""What phrases of photographs name: their head nouns, and the lot of nouns that give no box in finetuning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from amc_lib.regions import Region
from amc_lib.tokens import clean


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "a an the this that these those his her its their my our your another other one two three four five six seven "
    "eight nine ten some several many few all both each every"
)
RELATIONS = _words(  # they end what a phrase names; verbs that also stand before a noun ("running shoes") do not
    "of in on with at from to for by near under over behind beside between through into onto against around across "
    "along above below beneath inside outside upon among within without about toward towards next atop during while "
    "as who whom whose which that where wearing holding carrying sitting standing laying lying looking riding dressed "
    "made filled covered attached surrounded containing consisting is are"
)
MEASURES = _words(  # "a group of people" names people
    "group pair couple bunch set number lot variety series piece kind type sort dozen body one some several many few "
    "all both each most two three four"
)
STANDINS = DETERMINERS | _words("it itself them something someone anything everything everyone")
ALIKE = _words(  # singular and plural are one word, or there is no singular
    "glasses sunglasses pants jeans shorts goggles scissors clothes trousers tights overalls headphones earphones "
    "binoculars pajamas lens gas canvas christmas series species abdomen specimen"
)
IRREGULAR = {
    "people": "person", "feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose", "oxen": "ox",
    "buses": "bus", "leaves": "leaf", "wolves": "wolf", "knives": "knife", "shelves": "shelf", "scarves": "scarf",
    "calves": "calf", "hooves": "hoof", "loaves": "loaf", "elves": "elf", "halves": "half", "tomatoes": "tomato",
    "potatoes": "potato", "heroes": "hero", "cookies": "cookie", "hoodies": "hoodie", "collies": "collie",
    "movies": "movie", "zombies": "zombie", "rookies": "rookie", "mustaches": "mustache", "moustaches": "moustache",
    "canvases": "canvas", "lenses": "lens",
}  # fmt: skip


def head_noun(phrase: str) -> str:
    """The noun that a phrase is about, in the singular: "two small dogs in the snow" -> "dog".

    It is the last word before the first preposition, relative word or participle such as "wearing"; words that only
    count or measure ("a group of people") are passed over. Rules, not a parser. ValueError for a phrase without words.
    """
    words = clean(phrase).split()
    end = _end(words)
    while words[end : end + 1] == ["of"] and words[end + 1 :] and singular(words[end - 1]) in MEASURES:
        words = words[end + 1 :]
        end = _end(words)
    return singular(words[end - 1])


def _end(words: list[str]) -> int:
    """Where the noun phrase that `words` begin with ends, at least one word after its determiners."""
    start = next((i for i, word in enumerate(words) if word not in DETERMINERS), len(words) - 1)
    return next((i for i in range(start + 1, len(words)) if words[i] in RELATIONS), len(words))


def singular(noun: str) -> str:
    """The singular of an English noun by simple rules; a noun in the singular stays as it is."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun in ALIKE:
        return noun
    if noun.endswith("men"):
        return f"{noun[:-3]}man"
    if noun.endswith("children"):
        return noun[:-3]
    if len(noun) < 4 or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies") and len(noun) > 4:
        return f"{noun[:-3]}y"
    return noun[:-2] if noun.endswith(("ches", "shes", "sses", "xes", "zzes")) else noun[:-1]


def never_boxed(regions: Iterable[Region], share: float = 0.2, seed: int = 0) -> frozenset[str]:
    """A share of the head nouns of `regions` by lot, balanced over entity types and frequency.

    Nouns are ordered by the entity type of most of their phrases and, within it, by how many phrases they head; of
    every run of 1 / share neighbours in that order one is drawn. So each noun is as likely as any other, and each
    stretch of the order (a type, its common or its rare nouns) gives its share to within two nouns. STANDINS, which
    name nothing by themselves, are never drawn. The lot depends on the phrases and the seed, not on their order.
    ValueError for a share outside [0, 1).
    """
    if share == 0:
        return frozenset()
    if not 0 < share < 1:
        raise ValueError(f"the share of head nouns that are never boxed must lie in [0, 1), got {share}")
    types: dict[str, Counter[str]] = defaultdict(Counter)  # noun -> phrases that it heads, by entity type
    for region in regions:
        if (noun := head_noun(region.phrase)) not in STANDINS:
            types[noun][region.entity] += 1
    ordered = sorted(types, key=lambda noun: (_most_common(types[noun]), -types[noun].total(), noun))
    runs = np.arange(np.ceil(share * len(ordered)))
    places = ((runs + np.random.default_rng(seed).random(len(runs))) / share).astype(int)
    return frozenset(ordered[place] for place in places if place < len(ordered))


def _most_common(counts: Counter[str]) -> str:
    """The first by name of those that are equally common."""
    return min(counts, key=lambda name: (-counts[name], name))
