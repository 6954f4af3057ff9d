"""Phrases as people type them: what of one a checkpoint reads, and which of its words it knows."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from amc_lib.tokens import MAX_WORDS, Tokenizer, clean

ARTICLES = {"a", "an", "the"}  # words that alone ask for nothing
TYPOGRAPHIC = str.maketrans(
    {"…": "..."}
    | dict.fromkeys("‘’‚‛′´`", "'")
    | dict.fromkeys("“”„‟″«»‹›", '"')
    | dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")  # that are not seen: soft hyphens, joiners
)
BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])[,;:!?()](?=[^\W\d_])")  # a mark without a blank, which `clean` would drop


def checked_phrases(phrase: str | Iterable[str]) -> list[str]:
    """One phrase or several as a list. Raises ValueError for one that is not text or has no words."""
    single = isinstance(phrase, str | bytes) or not isinstance(phrase, Iterable)
    phrases = [phrase] if single else list(phrase)
    for text in phrases:
        if not isinstance(text, str):
            raise ValueError(f"a phrase must be text, got {text!r:.80}")
        clean(as_typed(text))
    return phrases


def as_typed(phrase: str) -> str:
    """A phrase with the marks of a keyboard in place of typographic ones, and a blank for one that alone parts words.

    `clean` keeps the former as words and joins what the latter part ("dog,cat"), as in training.
    """
    return BETWEEN_WORDS.sub(" ", phrase.translate(TYPOGRAPHIC))


def unread_words(tokenizer: Tokenizer, phrase: str, positions: int) -> tuple[str, ...]:
    """The words at the end of a phrase that are not read: those behind MAX_WORDS, and those without a position left.

    positions: the most tokens that the model reads, [CLS] and [SEP] included.
    """
    words = clean(phrase, len(phrase)).split()
    ends = accumulate((len(tokenizer.tokens(word, positions)) - 2 for word in words), initial=2)
    whole = sum(end <= positions for end in ends) - 1
    return tuple(words[min(whole, MAX_WORDS) :])


def unknown_words(tokenizer: Tokenizer, phrase: str) -> tuple[str, ...]:
    """Words in other letters than Latin ones, those that are [UNK], and those that are spelled (`_is_spelled`).

    A vocabulary may hold other scripts, as BERT's does; captions in English never taught what they mean. Signs are
    words as well, marks of punctuation are not. By BERT's pieces, 5 of 406 words of English captions, most of them
    rare, are wrongly unknown ("kiwi"), and a fifth of letters at random is wrongly known; so are nearly all words of
    other languages ("hund"), which look like its names.
    """
    words = [word for word in clean(phrase).split() if not all(unicodedata.category(c)[0] == "P" for c in word)]
    return tuple(word for word in words if not _is_known(tokenizer, word))


def says_nothing(phrase: str, unknown: Sequence[str]) -> bool:
    """Whether a phrase has no word but articles and those `unknown_words`: then an answer to it has no meaning."""
    return {word for word in clean(phrase).split() if any(map(str.isalnum, word))} <= {*unknown, *ARTICLES}


def _is_known(tokenizer: Tokenizer, word: str) -> bool:
    word = word.strip("".join(c for c in word if unicodedata.category(c)[0] == "P" or c in string.punctuation))
    if not word or any(c.isalpha() and "LATIN" not in unicodedata.name(c, "") for c in word):
        return False
    _, *pieces, _ = tokenizer.tokens(word)  # between [CLS] and [SEP]
    return pieces[:1] not in ([], ["[UNK]"]) and not _is_spelled(tokenizer, pieces)


def _is_spelled(tokenizer: Tokenizer, pieces: Sequence[str]) -> bool:
    """Whether a word is put together from pieces that mean nothing: letter by letter, or from short ones at random.

    The former begins with a single letter, or has two or more behind its beginning ("surfer ##s" is known). The latter
    has most of its letters in pieces of one or two, and at two places three letters that stand so in no whole word of
    the vocabulary: short pieces alone make "pug" and "frisbee" as well.
    """
    first, *others = (piece.removeprefix("##") for piece in pieces)
    if not others:
        return False
    if all(len(other) == 1 for other in others) and (len(first) == 1 or len(others) > 1):
        return True
    word = "".join((first, *others))
    in_short = sum(len(piece) for piece in (first, *others) if len(piece) <= 2)
    if not word.isalpha() or len(word) <= 3 or 2 * in_short <= len(word):
        return False
    return sum(three not in _threes_of(tokenizer.vocabulary) for three in _threes(word)) > 1


@lru_cache(maxsize=4)
def _threes_of(vocabulary: tuple[str, ...]) -> frozenset[str]:
    """Every three letters in a row that a whole word of the vocabulary has."""
    return frozenset(three for word in vocabulary if word.isalpha() for three in _threes(word))


def _threes(word: str) -> Iterator[str]:
    """Every three letters in a row, the ends of the word counted as letters."""
    marked = f"^{word}$"
    return (marked[start : start + 3] for start in range(len(word)))
