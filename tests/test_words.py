"""Words that carry the heat: their shares, and what the score loses without one, against a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from test_faithfulness import LAYER, Pictures, region, tiny

from amc_lib.evaluate import ground_remembered, match_probabilities, remember_images
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_study.explain.words import WORDS, without_each, word_deletion, word_heats, word_table


def test_a_word_has_the_heat_of_its_pieces():
    tokenizer = Tokenizer([*SPECIAL, "a", "red", "##dish", "cat"], max_tokens=12)
    assert tokenizer.tokens("a reddish cat") == ["[CLS]", "a", "red", "##dish", "cat", "[SEP]"]
    maps = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0, 9.0])[:, None, None] * torch.ones(2, 2)
    assert word_heats(tokenizer, "a Reddish cat!", maps).tolist() == pytest.approx([0.1, 0.5, 0.4])
    assert word_heats(tokenizer, "a reddish cat", torch.zeros(6, 2, 2)).tolist() == [0, 0, 0]
    assert word_heats(tokenizer, "a reddish cat", maps[:3]).tolist() == pytest.approx([1 / 3, 2 / 3, 0])  # cut off


def test_each_word_is_left_out_in_turn():
    assert without_each("The red, red cat") == ["red red cat", "the red cat", "the red cat", "the red red"]


def test_falls_are_those_of_a_plain_loop():
    checkpoint, phrases = tiny(), ["w1 w2 w3 w4", "w5", "w6 w7 w8"]
    bank = Pictures([region(n, phrase=phrase) for n, phrase in enumerate(phrases)])
    found = word_deletion(checkpoint, LAYER, bank.regions, bank)
    assert found["phrase_id"].tolist() == ["r0"] * 3 + ["r2"] * 3  # a phrase of one word has nothing to lose
    for asked in (bank.regions[0], bank.regions[2]):
        image, model, tokenizer = bank.load(asked)[0][None], checkpoint.model, checkpoint.tokenizer
        whole, *parts = (
            match_probabilities(model, tokenizer, image, phrase).item()
            for phrase in (asked.phrase, *without_each(asked.phrase))
        )
        _, _, maps = ground_remembered(model, tokenizer, remember_images(model, image), [asked.phrase], LAYER)
        heats = maps[0, 1:-1].sum((1, 2)).tolist()  # of [CLS], one piece a word, [SEP]
        mine = found[found["phrase_id"] == asked.id].set_index("word")["fall"]
        assert mine["hottest"] == pytest.approx(whole - parts[heats.index(max(heats))], abs=1e-6)
        assert mine["coldest"] == pytest.approx(whole - parts[heats.index(min(heats))], abs=1e-6)
        assert any(mine["random"] == pytest.approx(whole - part, abs=1e-6) for part in parts)
        assert np.ptp(parts) > 1e-5


def test_the_table_has_means_over_phrases():
    rows = [
        ("AMC", word, f"r{n}", f"i{n}", fall + n / 10)
        for n in range(3)
        for word, fall in zip(WORDS, (0.5, 0.2, 0), strict=True)
    ]
    table = word_table(pd.DataFrame(rows, columns=["system", "word", "phrase_id", "image_id", "fall"]))
    np.testing.assert_allclose(table["fall"], [0.6, 0.3, 0.1])
    assert table["word"].tolist() == list(WORDS) and (table["phrases"] == 3).all()
