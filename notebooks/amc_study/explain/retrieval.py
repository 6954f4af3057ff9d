"""What finetuning costs a model elsewhere: retrieval between pictures and captions, and the accuracy of matching.

Each scene stands with its longest caption, which names the most things, each photograph with its first. Every other
picture counts as wrong even where the caption happens to fit it too, so 100 % cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amc_lib.checkpoints import Checkpoint
from amc_lib.config import TrainingSettings
from amc_lib.evaluate import encode_phrases, evaluating, pair_probabilities
from amc_lib.tokens import clean
from amc_study.explain.claims import RECALL_AT, RETRIEVAL
from amc_study.photos.album import AlbumSplit
from amc_study.scenes.splits import SceneSplit
from amc_study.statistics import mean_interval
from amc_study.table import accuracy
from amc_study.tiers import Split

TO_CAPTION, TO_PICTURE = "picture to caption", "caption to picture"
RECALLS = (1, 5, 10)
RERANKED = 16  # candidates that the match head ranks again, the most similar ones
IMAGES_AT_ONCE = 64
LEAST_LIKELY = 1e-7  # of float32 probabilities, before their logarithm is taken


@dataclass(frozen=True)
class Captioned:
    """n pictures as the model reads them, [n, C, G, G], each with one caption and its id."""

    images: Tensor
    captions: list[str]
    image_ids: list[str]

    @classmethod
    def longest(cls, split: SceneSplit) -> Captioned:
        """The pictures of a split of scenes, each with its longest caption."""
        ids = [regions[0].image_id for regions in split.regions]
        return cls(split.inputs, [captions[-1] for captions in split.captions], ids)

    @classmethod
    def first(cls, split: AlbumSplit) -> Captioned:
        """The photographs of a split, each with its first caption."""
        return cls(split.inputs, [captions[0] for captions in split.captions], list(split.rows))


def captioned(split: Split) -> Captioned | None:
    """The pictures of a split with captions; None where it has phrases alone, as in the paper tier."""
    of_kind = {SceneSplit: Captioned.longest, AlbumSplit: Captioned.first}.get(type(split))
    return of_kind(split) if of_kind else None


@dataclass
class Retrieval:
    """What one checkpoint makes of n pictures and their captions.

    ranks: by task and score, int [n]: how many wrong candidates stand above or beside the right one. right: the match
    probabilities of the right captions, [n]; wrong: by kind, those of wrong captions, [n].
    """

    ranks: dict[tuple[str, str], np.ndarray]
    right: np.ndarray
    wrong: dict[str, np.ndarray]

    def rows(self, system: str, seed: int, image_ids: Sequence[str]) -> pd.DataFrame:
        """A row for each task, score, measure and picture, as in the tidy table; `hit` is 0, 0.5 or 1.

        recall@k: the right candidate is among the first k. matching: the share of the right and the wrong caption
        that is judged right at even odds. choice: the right caption is the likelier of the two.
        """
        values = {(*key, f"recall@{k}"): ranks < k for key, ranks in self.ranks.items() for k in RECALLS}
        for kind, wrong in self.wrong.items():
            task = f"right or {kind} caption"
            values[task, "match", "matching"] = told_apart(self.right, wrong)
            values[task, "match", "choice"] = self.right > wrong
        names = {"system": system, "seed": seed, "image_id": image_ids, "phrase_id": image_ids}
        parts = [
            pd.DataFrame(names | {"split": task, "score": score, "measure": measure, "hit": hits.astype(float)})
            for (task, score, measure), hits in values.items()
        ]
        return pd.concat(parts, ignore_index=True)


def retrieve(checkpoint: Checkpoint, pairs: Captioned, reranked: int = RERANKED, seed: int = 0) -> Retrieval:
    """Rank captions by picture and pictures by caption, and tell right captions from wrong ones."""
    model, ranks = checkpoint.model, {}
    with evaluating(model):
        parts = pairs.images.split(IMAGES_AT_ONCE)
        image_embeds = torch.cat([model.encode_image(part.float().to(model.temp.device)) for part in parts])
        text_embeds, text_mask = encode_phrases(model, checkpoint.tokenizer, pairs.captions)
        matched = partial(pair_probabilities, model, image_embeds, text_embeds, text_mask)
        text_feat = model.text_features(text_embeds, text_mask)
        similarity = (model.image_features(image_embeds) @ text_feat.T).cpu()  # [n, n]
        for task, scores in {TO_CAPTION: similarity, TO_PICTURE: similarity.T}.items():
            ranks[task, "contrast"] = right_ranks(scores)
            best = scores.topk(min(reranked, len(scores)), dim=1).indices  # [n, K]
            rows = torch.arange(len(best)).repeat_interleave(best.shape[1]), best.flatten()
            probabilities = matched(*(rows if task == TO_CAPTION else rows[::-1])).view(best.shape)
            ranks[task, "match"] = reranked_ranks(ranks[task, "contrast"], best, probabilities)
        own, others = torch.arange(len(pairs.captions)), wrong_captions(pairs.captions, seed)
        wrong = {kind: matched(own, torch.from_numpy(rows)).numpy() for kind, rows in others.items()}
        return Retrieval(ranks, matched(own, own).numpy(), wrong)


def right_ranks(similarity: Tensor) -> np.ndarray:
    """int [n]: how many candidates but its own are at least as similar to each query; row q's own is column q."""
    own = similarity.diagonal()[:, None]
    return (similarity >= own).sum(1).numpy() - 1


def reranked_ranks(ranks: np.ndarray, best: Tensor, probabilities: Tensor) -> np.ndarray:
    """Ranks after the candidates `best` [n, K] were ordered by their probabilities [n, K]; others keep their ranks."""
    own = best == torch.arange(len(best))[:, None]
    right = torch.where(own, probabilities, 0).sum(1, keepdim=True)
    above = ((probabilities >= right) & ~own).sum(1).numpy()
    return np.where(own.any(1).numpy(), above, ranks)


def wrong_captions(captions: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """For each picture a caption of another: "random", or "similar": one that shares the most of its words.

    The choice depends on the captions alone, so every model is asked the same. Similarity is the number of common
    words over the number of all words of both; among equals one is drawn.
    """
    count, rng = len(captions), np.random.default_rng(seed)
    random = (np.arange(count) + rng.integers(1, count, count)) % count
    words = [set(clean(caption).split()) for caption in captions]
    vocabulary = set().union(*words)
    has = np.array([[word in those for word in vocabulary] for those in words], dtype=float)  # [n, W]
    common, lengths = has @ has.T, has.sum(1)
    alike = common / (lengths[:, None] + lengths - common)
    np.fill_diagonal(alike, -1)
    alike[alike == 1] = -1  # the same words: no wrong caption
    order = rng.permutation(count)
    return {"random": random, "similar": order[alike[:, order].argmax(axis=1)]}


def retrieval_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Recall at 1, 5 and 10, accuracy of matching and of choosing, in percent with intervals over pictures.

    Columns: system, task, score ("contrast", "match"), measure, value, ci_low, ci_high, chance, pictures, seeds.
    """
    table = accuracy(rows, by=["system", "split", "score", "measure"])
    table = table.rename(columns={"split": "task", "accuracy": "value", "phrases": "pictures"})
    k = pd.to_numeric(table["measure"].str.partition("@")[2], errors="coerce")  # NaN where two captions are compared
    table.insert(7, "chance", (100 * k / table["pictures"]).clip(upper=100).fillna(50.0))
    return table.round(2)


def told_apart(right: np.ndarray, wrong: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """float [n]: the share of a picture's two captions that is judged right, of their match probabilities [n]."""
    return ((right > threshold).astype(float) + (wrong <= threshold)) / 2


def told_by_halves(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """`told_apart` [n], each half of the pictures (every other one) by the threshold that is best on the other half."""
    told, even = np.empty(len(right)), np.arange(len(right)) % 2 == 0
    for half in (even, ~even):
        candidates = np.concatenate((right[~half], wrong[~half]))
        best = max(candidates, key=lambda value: told_apart(right[~half], wrong[~half], value).mean())
        told[half] = told_apart(right[half], wrong[half], best)
    return told


def base_table(found: Retrieval, image_ids: Sequence[str]) -> pd.DataFrame:
    """How well a pretrained model matches: `retrieval_table`, and two measures more of as many wrong captions as right.

    "ITM loss" is in nats; its `chance` is the loss of the prior alone, which takes all for equally likely. "matching,
    fitted threshold" is `matching` not at even odds but at the probability that divides the captions of the other half
    of the pictures best: where it is much higher, the head is not unable to tell them apart, but shifted.
    """
    table, losses = retrieval_table(found.rows("ALBEF", 0, image_ids)), []
    for kind, wrong in found.wrong.items():
        likelihoods = np.stack((found.right, 1 - wrong)).astype(float).clip(LEAST_LIKELY, 1)  # [2, n]
        loss = mean_interval(-np.log(likelihoods).mean(0), image_ids)
        measured = loss.value, loss.low, loss.high, np.log(2)
        losses.append(("ALBEF", f"right or {kind} caption", "match", "ITM loss", *measured, len(image_ids), 1))
        told = mean_interval(100 * told_by_halves(found.right, wrong), image_ids)
        measured = told.value, told.low, told.high, 50.0
        name = "matching, fitted threshold"
        losses.append(("ALBEF", f"right or {kind} caption", "match", name, *measured, len(image_ids), 1))
    table = pd.concat([table, pd.DataFrame(losses, columns=table.columns)], ignore_index=True)
    return table.drop(columns=["system", "seeds"]).round(3)


def itm_in_training(history: pd.DataFrame, schedule: TrainingSettings) -> pd.DataFrame:
    """A row as in `base_table`: the last ITM loss of training with negatives drawn uniformly, before hard ones begin.

    Its `chance` is the loss of the prior, which knows that one pair in three is right. Without a row where the schedule
    has no hard negatives, or fusion begins with them.
    """
    uniform = history[(history["itm"] > 0) & (history["epoch"] <= schedule.hard_negatives_from)]
    if schedule.hard_negatives_from >= schedule.epochs or uniform.empty:
        return pd.DataFrame()
    prior = -np.log([1 / 3, 2 / 3]) @ [1 / 3, 2 / 3]
    row = {"task": "training, before hard negatives", "score": "match", "measure": "ITM loss"}
    return pd.DataFrame([row | {"value": uniform["itm"].iloc[-1], "chance": prior.round(3)}])


def kept_tasks(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What finetuning should not cost, as the tasks RETRIEVAL of the claims."""
    recall = rows[(rows["score"] == "match") & (rows["measure"] == f"recall@{RECALL_AT}")]
    matching = rows[(rows["split"] == "right or similar caption") & (rows["measure"] == "matching")]
    parts = recall[recall["split"] == TO_PICTURE], recall[recall["split"] == TO_CAPTION], matching
    return dict(zip(RETRIEVAL, parts, strict=True))
