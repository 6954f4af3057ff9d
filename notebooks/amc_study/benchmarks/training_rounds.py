"""Rounds of training on scenes by one version of the library: a script that is told what to train, and says seconds.

    PYTHONPATH=TREE python -P training_rounds.py INPUTS.json

Each line of its input is a command as JSON (stage, batch_size, further fields of TrainingSettings); each line that it
prints is the answer: seconds of training, and samples (pairs of image and phrase) trained on. It keeps to what the
library has had since its first landed study, so that any version since can be timed.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from amc_lib import data as pairing
from amc_lib.model import build
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_lib.train import set_seed, train
from amc_study.scenes.language import vocabulary

try:
    from amc_lib.presets import preset
except ImportError:  # the first landed study had them elsewhere
    from amc_lib.config import preset

Dataset = getattr(pairing, "FixedPairs", pairing.PairDataset)


class CountingCollator:
    """A collator that counts the pairs that it has put into batches."""

    def __init__(self, collator: pairing.Collator) -> None:
        self.collator, self.samples = collator, 0

    def __call__(self, images: list[pairing.Pairs]) -> object:
        self.samples += sum(len(pairs.phrases) for pairs in images)
        return self.collator(images)


class Rounds:
    """The scenes model, untrained, with images of random features (their values cost nothing) and drawn phrases."""

    def __init__(self, inputs: dict) -> None:
        set_seed(0)
        self.settings = preset("scenes")
        self.model = build(self.settings.model)
        self.phrases = {stage: [_phrases(row) for row in rows] for stage, rows in inputs["phrases"].items()}
        count = max(map(len, self.phrases.values()))
        self.images = list(torch.randn(count, *inputs["features"]).half())
        tokenizer = Tokenizer(word_vocabulary(vocabulary()), self.settings.model.text.max_tokens)
        objective, amc = self.settings.objective, self.settings.amc
        self.collator = CountingCollator(pairing.Collator(tokenizer, objective.mlm_probability, amc.map_size))

    def train(self, stage: str, **changed: object) -> dict[str, float]:
        """One epoch of finetuning; of pretraining two, the second with fusion, as its preset halves them."""
        epochs = 2 if stage == "pretraining" else 1
        training = replace(
            getattr(self.settings, stage),
            epochs=epochs, fuse_from=epochs - 1, short_captions_until=0, hard_negatives_from=epochs - 1, **changed,
        )  # fmt: skip
        settings, phrases = replace(self.settings, **{stage: training}), self.phrases[stage]
        dataset = Dataset(self.images[: len(phrases)], phrases, 0, training.phrases_per_image)
        self.collator.samples = 0
        begin = time.perf_counter()
        train(self.model, dataset, self.collator, settings, stage)
        return {"seconds": time.perf_counter() - begin, "samples": self.collator.samples}


def _phrases(records: list) -> list[pairing.Phrase]:
    return [pairing.Phrase(text, tuple(map(tuple, boxes)), things) for text, boxes, things in records]


def main() -> None:
    rounds = Rounds(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    for line in sys.stdin:
        print(json.dumps(rounds.train(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
