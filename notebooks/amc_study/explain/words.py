"""Do the words that carry the heat carry the score? Deletion of words, as `faithfulness` deletes cells.

A heatmap is the sum of what each word of the phrase looks at. If it explains the score, the phrase without its hottest
word must match worse than without a word drawn by lot, and that worse than without its coldest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import ground_remembered, remember_images
from amc_lib.regions import Region
from amc_lib.tokens import Tokenizer, clean
from amc_study.explain.faithfulness import group_means
from amc_study.tiers import Split

WORDS = ("hottest", "random", "coldest")  # the word that is left out


def word_heats(tokenizer: Tokenizer, phrase: str, token_maps: Tensor) -> np.ndarray:
    """The share of the heat [W] of each word of a phrase; token_maps [L, G, G] of [CLS], the words' pieces and [SEP].

    A word beyond the positions of the model has none.
    """
    heats, place = token_maps.double().sum((1, 2)).tolist(), 1
    words = []
    for word in clean(phrase).split():
        pieces = len(tokenizer.tokens(word)) - 2
        words.append(sum(heats[place : place + pieces]))
        place += pieces
    return np.array(words) / (sum(words) or 1)


def without_each(phrase: str) -> list[str]:
    """The phrase without its first word, without its second, and so on."""
    words = clean(phrase).split()
    return [" ".join(words[:w] + words[w + 1 :]) for w in range(len(words))]


def word_deletion(
    checkpoint: Checkpoint, layer: int, regions: Sequence[Region], split: Split, seed: int = 0
) -> pd.DataFrame:
    """What the match probability of each phrase of two words or more loses without one of its words.

    Columns: phrase_id, image_id, word (of WORDS), fall (probability with the word minus without). Which word is the
    random one depends on (seed, number of the region) alone.
    """
    model, tokenizer, explanation = checkpoint.model, checkpoint.tokenizer, checkpoint.settings.amc.explanation
    found = []
    with split.fit(model):
        for number, region in enumerate(tqdm(regions, desc="words", leave=False)):
            shorter = without_each(region.phrase)
            if len(shorter) < 2:
                continue
            image = split.load(region)[0][None].float()
            asked = [region.phrase, *shorter]
            rows = torch.zeros(len(asked), dtype=torch.long, device=model.temp.device)
            memory = remember_images(model, image).rows(rows)
            _, scores, maps = ground_remembered(model, tokenizer, memory, asked, layer, explanation)
            (whole, *parts), heats = scores.tolist(), word_heats(tokenizer, region.phrase, maps[0])
            lot = np.random.default_rng((seed, number)).integers(len(shorter))
            for word, place in zip(WORDS, (heats.argmax(), lot, heats.argmin()), strict=True):
                found.append((region.id, region.image_id, word, whole - parts[place]))
    return pd.DataFrame(found, columns=["phrase_id", "image_id", "word", "fall"])


def word_table(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean fall for each system and word with its interval over images; what `word_deletion` gives, and column system.

    Columns: system, word, fall, fall_low, fall_high, phrases.
    """
    by = ["system", "word"]
    counts = measured.groupby(by, sort=False).agg(phrases=("phrase_id", "nunique"))
    return group_means(measured, by, "fall").merge(counts, on=by).round(4)
