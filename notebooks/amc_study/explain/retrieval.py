"""What finetuning costs a model elsewhere: retrieval between pictures and captions, and the accuracy of matching.

Each picture stands with its longest caption, which names the most things. Every other picture counts as wrong even
where the caption happens to fit it too, so 100 % cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amc_lib.checkpoints import Checkpoint
from amc_lib.matching import encode_phrases, evaluating, pair_probabilities
from amc_lib.tokens import clean
from amc_study.explain.claims import RECALL_AT, RETRIEVAL, Task
from amc_study.scenes.splits import SceneSplit
from amc_study.statistics import accuracy_interval

RECALLS = (1, 5, 10)
RERANKED = 16  # candidates that the match head ranks again, the most similar ones
IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Captioned:
    """n pictures as the model reads them, [n, C, G, G], each with one caption, and their names."""

    images: Tensor
    captions: list[str]
    image_ids: list[str]

    @classmethod
    def of(cls, bank: SceneSplit) -> Captioned:
        """The pictures of a split of scenes, each with its longest caption."""
        ids = [of_image[0].image_id for of_image in bank.regions]
        return cls(bank.inputs, [of_image[-1] for of_image in bank.captions], ids)


@dataclass
class Retrieval:
    """Of n pictures and their captions for one checkpoint.

    ranks: by task and score, int [n]: how many wrong candidates stand above or beside the right one. right: the match
    probability of the right captions, [n]; wrong: by their kind, of wrong captions, [n].
    """

    ranks: dict[tuple[str, str], np.ndarray]
    right: np.ndarray
    wrong: dict[str, np.ndarray]

    def recall(self, task: str, score: str, k: int) -> np.ndarray:
        """bool [n]: does the right one stand among the first k?"""
        return self.ranks[task, score] < k

    def matching(self, kind: str) -> np.ndarray:
        """[n], 0, 0.5 or 1: the share of the right and the wrong caption that is judged rightly, at even odds."""
        return ((self.right > 0.5).astype(float) + (self.wrong[kind] <= 0.5)) / 2

    def choice(self, kind: str) -> np.ndarray:
        """bool [n]: is the right caption thought the likelier of the two, whatever the odds?"""
        return self.right > self.wrong[kind]


def retrieve(checkpoint: Checkpoint, pairs: Captioned, reranked: int = RERANKED, seed: int = 0) -> Retrieval:
    """Rank captions by picture and pictures by caption, and tell right captions from wrong ones."""
    model = checkpoint.model
    with evaluating(model):
        parts = pairs.images.split(IMAGES_AT_ONCE)
        image_embeds = torch.cat([model.encode_image(part.float().to(model.temp.device)) for part in parts])
        text_embeds, text_mask = encode_phrases(model, checkpoint.tokenizer, pairs.captions)
        similarity = (model.image_features(image_embeds) @ model.text_features(text_embeds).T).cpu()  # [n, n]

        def matched(image_rows: Tensor, text_rows: Tensor) -> Tensor:
            return pair_probabilities(model, image_embeds, text_embeds, text_mask, image_rows, text_rows)

        ranks = {}
        for task, of_query in {"picture to caption": similarity, "caption to picture": similarity.T}.items():
            ranks[task, "contrast"] = ranks_of_own(of_query)
            best = of_query.topk(min(reranked, len(of_query)), dim=1).indices  # [n, K]
            queries = torch.arange(len(best)).repeat_interleave(best.shape[1])
            rows = (queries, best.flatten()) if task.startswith("picture") else (best.flatten(), queries)
            probabilities = matched(*rows).view(best.shape)
            ranks[task, "match"] = ranks_again(ranks[task, "contrast"], best, probabilities)
        own = torch.arange(len(pairs.captions))
        right = matched(own, own).numpy()
        others = {kind: torch.from_numpy(rows) for kind, rows in wrong_captions(pairs.captions, seed).items()}
        wrong = {kind: matched(own, rows).numpy() for kind, rows in others.items()}
    return Retrieval(ranks, right, wrong)


def ranks_of_own(similarity: Tensor) -> np.ndarray:
    """int [n]: how many candidates but its own are at least as similar to each query; row q's own is column q."""
    own = similarity.diagonal()[:, None]
    return (similarity >= own).sum(1).numpy() - 1


def ranks_again(ranks: np.ndarray, best: Tensor, probabilities: Tensor) -> np.ndarray:
    """Ranks after the candidates `best` [n, K] were ordered by their probabilities [n, K]; others keep their ranks."""
    own = best == torch.arange(len(best))[:, None]
    of_own = torch.where(own, probabilities, 0).sum(1, keepdim=True)
    above = ((probabilities >= of_own) & ~own).sum(1).numpy()
    return np.where(own.any(1).numpy(), above, ranks)


def wrong_captions(captions: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """For each picture a caption of another: "random", or "similar": one that shares the most of its words.

    The choice depends on the captions alone, so every model is asked the same. Similarity is the number of common
    words over the number of all words of both; among equals one is drawn.
    """
    count, rng = len(captions), np.random.default_rng(seed)
    random = (np.arange(count) + rng.integers(1, count, count)) % count
    words = [set(clean(caption).split()) for caption in captions]
    vocabulary = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    has = np.zeros((count, len(vocabulary)))
    for row, of_caption in enumerate(words):
        has[row, [vocabulary[word] for word in of_caption]] = 1
    common, lengths = has @ has.T, has.sum(1)
    alike = common / (lengths[:, None] + lengths - common)
    np.fill_diagonal(alike, -1)
    alike[alike == 1] = -1  # the same words: no wrong caption
    order = rng.permutation(count)
    return {"random": random, "similar": order[alike[:, order].argmax(axis=1)]}


def retrieval_table(measured: Mapping[str, Sequence[Retrieval]], image_ids: Sequence[str]) -> pd.DataFrame:
    """Recall at 1, 5 and 10, accuracy of matching and of choosing, in percent with intervals over pictures.

    Columns: system, task, score ("contrast", "match"), measure, value, ci_low, ci_high, chance, pictures, seeds.
    """
    n, rows = len(image_ids), []
    for system, of_seed in measured.items():
        for task, score in of_seed[0].ranks:
            for k in RECALLS:
                values = np.array([one.recall(task, score, k) for one in of_seed])
                rows.append(_row(system, task, score, f"recall@{k}", values, image_ids, min(1.0, k / n)))
        for kind in of_seed[0].wrong:
            for measure in ("matching", "choice"):
                values = np.array([getattr(one, measure)(kind) for one in of_seed])
                rows.append(_row(system, f"right or {kind} caption", "match", measure, values, image_ids, 0.5))
    return pd.DataFrame(rows)


def _row(
    system: str, task: str, score: str, measure: str, values: np.ndarray, image_ids: Sequence[str], chance: float
) -> dict[str, object]:
    interval = accuracy_interval(values, image_ids)
    row = {"system": system, "task": task, "score": score, "measure": measure, "value": round(interval.value, 2)}
    row |= {"ci_low": round(interval.low, 2), "ci_high": round(interval.high, 2), "chance": round(100 * chance, 2)}
    return row | {"pictures": len(image_ids), "seeds": len(values)}


def kept_tasks(measured: Mapping[str, Sequence[Retrieval]], image_ids: Sequence[str]) -> dict[str, Task]:
    """What finetuning should not cost, as the tasks RETRIEVAL of the claims."""

    def of_systems(values: Callable[[Retrieval], np.ndarray]) -> Task:
        return Task({s: np.array([values(one) for one in of_seed]) for s, of_seed in measured.items()}, image_ids)

    tasks = (
        of_systems(lambda one: one.recall("caption to picture", "match", RECALL_AT)),
        of_systems(lambda one: one.recall("picture to caption", "match", RECALL_AT)),
        of_systems(lambda one: one.matching("similar")),
    )
    return dict(zip(RETRIEVAL, tasks, strict=True))
