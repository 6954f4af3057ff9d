"""Tokens: phrases cleaned as PROTOCOL says, cut into known tokens, corrupted in the shares of BERT."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from amc_lib.tokens import CHARACTERS, IGNORED, SPECIAL, Tokenizer, clean, word_vocabulary

WORDS = ("red", "helicopter", "and", "cat", "on", "the", "grass", "a")
PAD, UNK, CLS, SEP, MASK = range(5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(word_vocabulary(WORDS), max_tokens=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("Red Helicopter", "red helicopter"),
        (",.'!?\"()*#:;~cat,.'!?\"()*#:;~", "cat"),
        ("the cat's toy", "the cats toy"),
        ("black-and-white/grey cat", "black and white grey cat"),
        ("<person> on a bench", "person on a bench"),
        ("  two \t cats \n", "two cats"),
        ("50% [a] & b", "50% [a] & b"),
    ],
)
def test_cleaning_follows_the_protocol(phrase, expected):
    assert clean(phrase) == expected


def test_words_beyond_the_limit_are_cut():
    assert clean(" ".join(f"w{i}" for i in range(60))).split() == [f"w{i}" for i in range(50)]
    assert clean("one two three", max_words=2) == "one two"
    assert clean("one-two three", max_words=2) == "one two"


@pytest.mark.parametrize("phrase", ["", "?!", " / . "])
def test_phrase_of_no_words_is_refused_by_its_text(phrase):
    with pytest.raises(ValueError, match=re.escape(f"the phrase {phrase!r} has no words")):
        clean(phrase)


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abcXYZ09 ,.'!?\"()*#:;~-/\t", min_size=1) | st.text(min_size=1))
def test_cleaning_twice_changes_nothing(phrase):
    try:
        once = clean(phrase)
    except ValueError:
        return
    assert clean(once) == once
    assert not set(once) & set(",.'!?\"()*#:;~-/")
    assert once == once.strip() and "  " not in once


def test_vocabulary_starts_with_the_special_tokens_and_has_no_double():
    vocabulary = word_vocabulary(["red", "a", "cat", "red"])
    assert tuple(vocabulary[:5]) == SPECIAL
    assert vocabulary[-2:] == ["cat", "red"]
    assert len(vocabulary) == len(set(vocabulary)) == 5 + 2 * len(CHARACTERS) + 2


@pytest.mark.parametrize(
    ("phrase", "tokens"),
    [
        ("The RED helicopter!", ["the", "red", "helicopter"]),
        ("a dog", ["a", "d", "##o", "##g"]),
        ("cats", ["cat", "##s"]),
        ("red 猫", ["red", "[UNK]"]),
    ],
)
def test_words_outside_the_vocabulary_fall_to_pieces(tokenizer, phrase, tokens):
    assert tokenizer.tokens(phrase) == ["[CLS]", *tokens, "[SEP]"]
    assert [tokenizer.vocabulary[i] for i in tokenizer([phrase])[0][0]] == ["[CLS]", *tokens, "[SEP]"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1) | st.text(alphabet="redcatgrs é[MASK]猫\u0301\x00", min_size=1), min_size=1))
def test_ids_are_those_of_transformers(tokenizer, phrases):
    reference = BertTokenizer(vocab={token: i for i, token in enumerate(tokenizer.vocabulary)})
    cleaned = []
    for phrase in phrases:
        with contextlib.suppress(ValueError):  # no words
            cleaned.append(clean(phrase))
    if cleaned:
        expected = reference(cleaned, padding=True, truncation=True, max_length=8, return_tensors="pt")
        ids, mask = tokenizer(cleaned)
        assert ids.equal(expected["input_ids"]) and mask.equal(expected["attention_mask"])


def test_longer_phrases_are_cut_and_still_end_with_sep(tokenizer):
    ids, mask = tokenizer(["cat " * 20, "cat"])
    assert ids.shape == (2, 8)
    assert ids[0].tolist() == [CLS] + [ids[0, 1].item()] * 6 + [SEP]
    assert mask[0].all() and tokenizer(["cat " * 20], max_tokens=5)[0].shape == (1, 5)


def test_vocabulary_without_a_special_token_is_refused():
    with pytest.raises(ValueError, match=re.escape("the vocabulary lacks [UNK], [MASK]")):
        Tokenizer(["[PAD]", "[CLS]", "[SEP]", "cat"], max_tokens=8)


@pytest.fixture(scope="module")
def many(tokenizer) -> torch.Tensor:
    """Forty thousand phrases, [40000, 5]: three words between [CLS] and [SEP], or one and padding."""
    ids, _ = tokenizer(["the red cat", "grass"])
    return ids.repeat(20_000, 1)


@pytest.fixture(scope="module")
def corrupted(tokenizer, many) -> tuple[torch.Tensor, torch.Tensor]:
    return tokenizer.corrupt(many, 0.4, generator())


def test_chosen_tokens_are_masked_replaced_or_kept(tokenizer, many, corrupted):
    ids, labels = corrupted
    chosen, spared, vocabulary = labels != IGNORED, (many == PAD) | (many == CLS), len(tokenizer.vocabulary)
    assert not chosen[spared].any() and chosen[~spared].float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert chosen[many == SEP].float().mean().item() == pytest.approx(0.4, abs=0.02)
    assert labels[chosen].equal(many[chosen]) and ids[~chosen].equal(many[~chosen])
    masked, same = ((ids == other)[chosen].float().mean().item() for other in (MASK, many))
    assert masked == pytest.approx(0.8 + 0.1 / vocabulary, abs=0.01)  # a drawn token may be [MASK] too
    assert same == pytest.approx(0.1 + 0.1 / vocabulary, abs=0.005)
    drawn = ids[chosen & (ids != MASK) & (ids != many)].bincount(minlength=vocabulary).float()  # from all tokens
    drawn = drawn[torch.arange(vocabulary) != MASK]
    assert drawn.min() > 0.4 * drawn.mean() and drawn.max() < 1.6 * drawn.mean()


def test_same_generator_same_corruption(tokenizer, many):
    rows = many[:50].clone()
    first, second, other = (tokenizer.corrupt(rows, 0.4, generator(seed)) for seed in (3, 3, 4))
    assert first[0].equal(second[0]) and first[1].equal(second[1])
    assert not first[1].equal(other[1])
    assert rows.equal(many[:50])
