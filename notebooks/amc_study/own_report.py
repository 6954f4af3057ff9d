"""A model beside own data: where finetuning starts from, words that it lacks, its answers before and after."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from amc_lib.checkpoints import Checkpoint
from amc_lib.datasets.photos import PhotoSplit
from amc_lib.evaluate import Pointing, point_at
from amc_lib.tokens import Tokenizer, clean
from amc_study.own_data import FeatureSplit, OwnData
from amc_study.rival.region_tower import open_checkpoint
from amc_study.statistics import accuracy_interval

IMAGES_AT_ONCE = 4  # photographs with many phrases take memory


def starting_checkpoint(source: str | Path, tier: str) -> Checkpoint:
    """The checkpoint that finetuning starts from. ValueError for one of another tier, or that reads proposals."""
    checkpoint = open_checkpoint(source)
    if checkpoint.settings.tier != tier:
        raise ValueError(f"{source} is a checkpoint of the tier {checkpoint.settings.tier!r}, not of {tier!r}")
    if checkpoint.settings.model.vision.trunk == "regions":
        raise ValueError(f"{source} reads a detector's proposals; own data are pictures")
    return checkpoint


def unknown_words(tokenizer: Tokenizer, data: OwnData) -> pd.DataFrame:
    """Words that the model has no token for, most frequent first: in how many phrases, and as what they are read.

    Then the number of phrases with any such word and, if there are any, of those that training cuts.
    """
    phrases = [clean(region.phrase).split() for regions in data.splits.values() for region in regions]
    pieces = {word: tokenizer.tokens(word)[1:-1] for words in phrases for word in words}
    unknown = {word: " ".join(read) for word, read in pieces.items() if len(read) != 1 or read == ["[UNK]"]}
    rows = [
        {"word": word, "phrases": sum(word in words for words in phrases), "read as": read}
        for word, read in unknown.items()
    ]
    rows.sort(key=lambda row: (-row["phrases"], row["word"]))
    affected = sum(any(word in unknown for word in words) for words in phrases)
    rows.append({"word": f"{len(unknown)} of {len(pieces)} words", "phrases": affected, "read as": ""})
    lengths = [2 + sum(len(pieces[word]) for word in words) for words in phrases]  # with [CLS] and [SEP]
    if cut := sum(length > tokenizer.max_tokens for length in lengths):
        rows.append({"word": f"longer than {tokenizer.max_tokens} tokens", "phrases": cut, "read as": "its beginning"})
    return pd.DataFrame(rows, columns=["word", "phrases", "read as"])


def ask(checkpoint: Checkpoint, bank: FeatureSplit | PhotoSplit) -> Pointing:
    """The answers of a checkpoint to a split, from the layer of its settings."""
    with bank.fit(checkpoint.model):
        return point_at(
            checkpoint.model, checkpoint.tokenizer, bank.all_regions(), bank.load, checkpoint.settings.amc.layer,
            IMAGES_AT_ONCE, progress=bank.title,
        )  # fmt: skip


def comparison(before: Pointing, after: Pointing) -> pd.DataFrame:
    """Pointing accuracy before and after, and the change, in percent with 95 % intervals (bootstrap over images).

    The change is paired: both answered the same phrases.
    """
    ids = [region.image_id for region in before.regions]
    hits = {"before": before.hits, "after": after.hits, "change": after.hits.astype(float) - before.hits}
    rows = []
    for name, values in hits.items():
        interval = accuracy_interval(values, ids)
        bounds = {"accuracy": interval.value, "ci_low": interval.low, "ci_high": interval.high}
        rows.append({"system": name} | {key: round(value, 2) for key, value in bounds.items()})
    return pd.DataFrame(rows).assign(phrases=len(ids), images=len(set(ids)))
