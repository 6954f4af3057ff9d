"""Bases beside one another: what each pretraining cost, what its model knows, and where finetuning takes it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from torch import nn

from amc_study.comparison import layer_accuracies
from amc_study.explain.retrieval import TO_CAPTION, TO_PICTURE, base_table, captioned, retrieve
from amc_study.run_folder import Run
from amc_study.tiers import Split

MEASURES = {  # column -> task, score, measure of `base_table`
    "ITM loss": ("right or random caption", "match", "ITM loss"),
    "told apart": ("right or random caption", "match", "matching"),
    "above a random one": ("right or random caption", "match", "choice"),
    "above a similar one": ("right or similar caption", "match", "choice"),
    "recall@1 of captions": (TO_CAPTION, "contrast", "recall@1"),
    "recall@10 of captions": (TO_CAPTION, "contrast", "recall@10"),
    "recall@1 of pictures": (TO_PICTURE, "contrast", "recall@1"),
    "recall@10 of pictures": (TO_PICTURE, "contrast", "recall@10"),
}


def bases_table(runs: Mapping[str, Run], split: Split) -> pd.DataFrame:
    """A row for each run by its name, asked a split of captioned pictures with phrases.

    Columns: base, stage ("pretraining", or "finetuning" above one), words (what the text tower reads: "minilm", or
    "none" for words learnt from nothing), epochs (of that stage, as seed, minutes and threads), weights (trained ones,
    the momentum copy not counted), layer (the fusion layer that points best), pointing (of that layer), and MEASURES;
    percent, the ITM loss in nats.
    """
    pairs, rows = captioned(split), []
    for name, run in runs.items():
        checkpoint, account = run.checkpoint(), run.metrics["provenance"]
        settings, layers = checkpoint.settings, layer_accuracies(checkpoint, split)
        best = max(layers, key=layers.get)
        found = base_table(retrieve(checkpoint, pairs), pairs.image_ids)
        values = found.set_index(["task", "score", "measure"])["value"]
        stage = run.metrics["stage"]
        row = {"base": name, "stage": stage, "words": settings.model.text.trunk}
        row |= {"epochs": getattr(settings, stage).epochs, "seed": account["seed"]}
        row |= {"weights": trained_weights(checkpoint.model)}
        row |= {"minutes": round(account["seconds"] / 60), "threads": account["threads"]}
        row |= {"layer": best, "pointing": round(layers[best], 2)}
        rows.append(row | {column: values[key] for column, key in MEASURES.items()})
    return pd.DataFrame(rows)


def trained_weights(model: nn.Module) -> int:
    """How many numbers of a model training moves by gradients."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
