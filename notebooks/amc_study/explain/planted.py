"""A planted reason: does a heatmap that is trained to lie on the thing still tell what the score hangs on?

Each scene is painted twice, with the same things, on a green and on a violet background. On green its phrases match,
on violet nothing does that it shows, but the words NOTHING; what does not match a phrase is the other painting of its
own scene. There the thing is just as present, so the background's colour is the only reason that a model can learn,
and it is known. After finetuning the background is changed, or the thing taken away: which of the two moves the score
says what it hangs on, and the heatmap should say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from amc_lib.checkpoints import Checkpoint
from amc_lib.config import AmcSettings, ObjectiveSettings, SceneSettings, Settings
from amc_lib.data import Collator, FixedPairs, Pairs, Phrase
from amc_lib.evaluate import match_probabilities, point_at
from amc_lib.files import plain
from amc_lib.model import ALBEF
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.regions import Region
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.train import train
from amc_study.explain.heatmap_quality import energy_inside, picture_maps, pixels_inside
from amc_study.rival.region_tower import open_checkpoint
from amc_study.scenes.backgrounds import draw_background
from amc_study.scenes.cache import DRAWING, Part, fingerprint, open_rows
from amc_study.scenes.scene import Scene, SceneObject, draw
from amc_study.table import PHRASE, accuracy

HUES = ("#5aa552", "#8d63b5")  # of the background's middle greys: green, on which phrases match, and violet
NOTHING = "a picture"  # the phrase of every violet painting, without a box
PAINTINGS = ("right background", "other background", "thing taken away")  # of a scene that is asked
MEASURES = ("peak in the box", "heat in the box", "lost without its background", "lost without the thing")
CODE = (*DRAWING, "notebooks/amc_study/explain/planted.py")
SCENES_A_TASK = 25


def paint(scene: Scene, hue: int, lot: Sequence[int], without: SceneObject | None = None) -> Image.Image:
    """The scene on a background of a hue whose texture `lot` decides, `without` one of its things."""
    texture = draw_background(scene.image.width, np.random.default_rng(lot)).convert("L")
    image = ImageOps.colorize(texture, "black", "white", mid=HUES[hue])
    for layer, placement in enumerate(scene.placements):
        if without is None or layer != without.layer:
            sprite = placement.sprite()
            image.paste(sprite, placement.corner, mask=sprite)
    return image


def thing_of(scene: Scene, region: Region) -> SceneObject | None:
    """The thing that a region's first box shows; None where the box is of a part."""
    return next((thing for thing in scene.objects if thing.box == region.boxes[0]), None)


class PlantedPairs(FixedPairs):
    """Scenes in both paintings [2, C, G, G]: the green one with some of its phrases, the violet one with NOTHING."""

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, Sequence[Phrase]]:
        return self.images[row], (*phrases, Phrase(NOTHING))


class PlantedCollator(Collator):
    """Batches in which the paintings of scene i are the images 2 i and 2 i + 1."""

    def __call__(self, images: Sequence[Pairs]) -> Batch:
        batch = super().__call__(images)
        hues = torch.tensor([int(phrase.text == NOTHING) for pairs in images for phrase in pairs.phrases])
        return replace(batch, image=batch.image.flatten(0, 1), image_rows=2 * batch.image_rows + hues)


def planted_losses(
    model: ALBEF,
    batch: Batch,
    objective: ObjectiveSettings,
    amc: AmcSettings,
    *,
    generator: torch.Generator | None = None,
    **options: object,
) -> Losses:
    """`training_losses` whose negatives are the other painting of the phrase's scene, and that painting's phrases."""
    other_painting = (batch.image_rows[:, None] ^ 1) == batch.image_rows  # bool [B, B]
    images, texts = (torch.multinomial(other_painting.float(), 1, generator=generator)[:, 0] for _ in range(2))
    return training_losses(model, batch, objective, amc, negatives=(images, texts), generator=generator, **options)


def planted_pairs(settings: Settings, scenes: int) -> PlantedPairs:
    """The first `scenes` scenes of train, with the phrases that have boxes."""
    training = settings.finetuning
    arrays, records = _open(_paint_for_training, settings, "train", scenes)
    phrases = [[Phrase(p["text"], tuple(map(tuple, p["boxes"]))) for p in own] for own in records]
    return PlantedPairs(arrays["paintings"], phrases, training.seed, max(1, training.phrases_per_image - 1))


def finetune_planted(settings: Settings, init: str, scenes: int) -> Checkpoint:
    """Checkpoint `init` finetuned on planted pairs, with L_amc or, if its lambdas are 0, without."""
    torch.manual_seed(settings.finetuning.seed)
    checkpoint = replace(open_checkpoint(init), settings=settings)
    objective, amc = settings.objective, settings.amc
    collator = PlantedCollator(checkpoint.tokenizer, objective.mlm_probability, amc.map_size)
    pairs = planted_pairs(settings, scenes)
    train(checkpoint.model, pairs, collator, settings, "finetuning", step_losses=planted_losses)
    return checkpoint


def ask_planted(checkpoint: Checkpoint, scenes: int) -> pd.DataFrame:
    """A phrase of each of the first `scenes` scenes of the split `phrases`, as a row.

    Columns: phrase_id, image_id, hit and energy (share of the heat inside the box) on the right background, and the
    match probability of the phrase with each of PAINTINGS.
    """
    settings, model, tokenizer = checkpoint.settings, checkpoint.model, checkpoint.tokenizer
    arrays, records = _open(_paint_for_asking, settings, "phrases", scenes)
    side = settings.scenes.size, settings.scenes.size
    regions = [Region(**record | {"image": None, "boxes": tuple(map(tuple, record["boxes"]))}) for record in records]
    row_of = {region.image_id: row for row, region in enumerate(regions)}

    def load(region: Region) -> tuple[Tensor, tuple[int, int]]:
        return arrays["paintings"][row_of[region.image_id], 0], side

    answers = point_at(model, tokenizer, regions, load, settings.amc.layer)
    inside = torch.stack([pixels_inside(region.boxes, side) for region in regions])  # [n, H, W]
    energy = energy_inside(picture_maps(answers, range(len(regions)), side), inside)
    scores = [
        match_probabilities(model, tokenizer, paintings.float(), region.phrase).tolist()
        for region, paintings in zip(regions, arrays["paintings"], strict=True)
    ]
    named = {"phrase_id": [r.id for r in regions], "image_id": [r.image_id for r in regions]}
    table = pd.DataFrame(named | {"hit": answers.hits, "energy": energy.numpy()})
    return table.join(pd.DataFrame(scores, columns=list(PAINTINGS)))


def planted_table(answers: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Means of MEASURES in percent with intervals over scenes; answers of `ask_planted` with columns system and seed.

    Columns: system, measure, value, ci_low, ci_high, phrases, seeds. "lost without ..." is by how much the match
    probability is lower on the other background, or without the thing: 0 where that does not matter.
    """
    table = pd.concat(answers, ignore_index=True).assign(split="planted")
    right, other, away = (table[name] for name in PAINTINGS)
    table = table.assign(**{MEASURES[2]: right - other, MEASURES[3]: right - away})
    named = table.rename(columns={"hit": MEASURES[0], "energy": MEASURES[1]})
    long = named.melt(["system", "seed", *PHRASE], [*MEASURES, *PAINTINGS], "measure")
    found = accuracy(long.astype({"value": float}), by=["system", "measure"], column="value")
    return found.rename(columns={"accuracy": "value"}).round(2)


def _open(compute, settings: Settings, split: str, scenes: int) -> tuple[dict[str, Tensor], list]:
    if settings.tier != "scenes":
        raise ValueError(f"a reason is planted in drawn scenes alone: the tier is {settings.tier!r}, not 'scenes'")
    side = settings.model.vision.image_size
    key = fingerprint([plain(settings.scenes), side, scenes], CODE)
    rows = partial(compute, settings.scenes, split, side)
    return open_rows(f"planted-{split}-{key}", rows, scenes, f"painting {split}", SCENES_A_TASK)


def _paint_for_training(settings: SceneSettings, split: str, side: int, start: int, stop: int) -> Part:
    painted, records = [], []
    for index in range(start, stop):
        scene = draw(settings, split, index)
        painted.append([paint(scene, hue, (settings.seed, index)) for hue in (0, 1)])
        shown = [(region, thing_of(scene, region)) for region in scene.regions]
        size = settings.size, settings.size
        records.append([plain(Phrase.of(region, size)) for region, thing in shown if thing is not None])
    return {"paintings": _features(painted, side)}, records


def _paint_for_asking(settings: SceneSettings, split: str, side: int, start: int, stop: int) -> Part:
    """Paintings in the order of PAINTINGS, of one phrase of one thing for each scene, by lot."""
    painted, records = [], []
    for index in range(start, stop):
        scene, lot = draw(settings, split, index), (settings.seed, index)
        shown = [(region, thing_of(scene, region)) for region in scene.regions if region.kind == "object"]
        shown = [(region, thing) for region, thing in shown if thing is not None]
        region, thing = shown[np.random.default_rng(lot).integers(len(shown))]
        painted.append([paint(scene, 0, lot), paint(scene, 1, lot), paint(scene, 0, lot, without=thing)])
        records.append(plain(replace(region, image=None)))
    return {"paintings": _features(painted, side)}, records


def _features(painted: Sequence[Sequence[Image.Image]], side: int) -> np.ndarray:
    """float16 [m, paintings, C, G, G]: the frozen trunk's."""
    trunk = FrozenTrunk("lite0")
    read = [trunk(torch.stack([pixels(image, side) for image in images])).half().numpy() for images in painted]
    return np.stack(read)
