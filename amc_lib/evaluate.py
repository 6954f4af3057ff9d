"""Pointing accuracy: where the heatmap of a phrase peaks, and whether that lies inside one of the phrase's boxes.

    python -m amc_lib.evaluate CHECKPOINT FOLDER SPLIT [--json]

scores a checkpoint on a folder in Flickr30k Entities' layout (`amc_lib.score`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib import gradcam
from amc_lib.config import Explanation
from amc_lib.model import Backbone, Memory
from amc_lib.regions import Region
from amc_lib.tokens import Tokenizer


@dataclass
class Pointing:
    """A system's answers to P regions: raw heatmaps [P, G, G], points (x, y) [P, 2] in pixels, match scores [P]."""

    regions: list[Region]
    heatmaps: Tensor
    points: np.ndarray
    scores: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """bool [P]; an all-zero map is a miss."""
        return point_hits(self.points, self.regions) & self.heatmaps.flatten(1).any(1).numpy()


def peak(heatmaps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Points (x, y), int [P, 2], of raw heatmaps [P, G, G] in an image of `size` (height, width).

    The authors' convention (`grounding_eval` in their `dataset/utils.py`): the map is upsampled bicubically with
    half-pixel centres; the point is the first maximum in row-major order, as *indices* of its column and row. The
    centre of that pixel lies half a pixel further right and down.
    """
    maps = gradcam.upsample(heatmaps.float(), size, "bicubic")  # [P, H, W]
    y = maps.amax(2).argmax(1)  # the row first: a plain argmax of H * W is ten times slower
    x = maps[torch.arange(len(maps)), y].argmax(1)
    return torch.stack((x, y), dim=1).cpu().numpy()


def point_hits(points: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """bool [P]: does the point (x, y) lie inside any box (xyxy) of its region?

    Strictly, x1 < x < x2 and y1 < y < y2, with the pixel indices of `peak`: the authors' rule (`point_in_box`, same
    file), which counts the first column and row of a box as outside.
    """
    return np.array(
        [
            any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in region.boxes)
            for (x, y), region in zip(points, regions, strict=True)
        ],
        dtype=bool,
    )


@contextmanager
def evaluating(model: Backbone) -> Iterator[None]:
    """Evaluation mode, no gradients and the weights' own precision inside the block, whatever the caller's modes are.

    (What is made in `inference_mode` could not be differentiated, and a heatmap is a gradient.) Afterwards the model's
    mode is as it was.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(model.temp.device.type, enabled=False):
            yield
    finally:
        model.train(was_training)


# ---------------------------------------------------------------------------------------------------------- heatmaps


def ground_phrases(
    model: Backbone,
    tokenizer: Tokenizer,
    images: Tensor,
    phrases: Sequence[str],
    image_rows: Sequence[int],
    layer: int,
    explanation: Explanation = "gradcam",
) -> tuple[Tensor, Tensor]:
    """Raw heatmaps [P, G, G] and match probabilities [P] of phrases; phrase p is grounded in images[image_rows[p]].

    images: [B, C, H, W]. Each image is encoded once for all its phrases, and the backward pass runs only through the
    layers above the heatmap. Gradients and the training mode of the model stay as they were.
    """
    memory = remember_images(model, images).rows(torch.as_tensor(image_rows, device=model.temp.device))
    raw, scores, _ = ground_remembered(model, tokenizer, memory, phrases, layer, explanation)
    return raw, scores


def remember_images(model: Backbone, images: Tensor) -> Memory:
    """What `ground_remembered` needs of images [B, C, H, W], without gradient: good for any phrase and any layer."""
    with evaluating(model):
        return model.text_encoder.remember(model.encode_image(images.to(model.temp.device)))


def ground_remembered(
    model: Backbone,
    tokenizer: Tokenizer,
    memory: Memory,
    phrases: Sequence[str],
    layer: int,
    explanation: Explanation = "gradcam",
) -> tuple[Tensor, Tensor, Tensor]:
    """`ground_phrases` of images encoded before, row p for phrase p; also each token's share in the heatmaps.

    Those are raw maps [P, L, G, G] whose mean over the L tokens, padding included, is the heatmap.
    """
    with evaluating(model):
        text_embeds, text_mask = encode_phrases(model, tokenizer, phrases)
        watching = gradcam.watch_attention(model.text_encoder, layer, twice=False, explanation=explanation)
        with torch.enable_grad(), watching as watch:
            itm_logits = model.match(model.text_encoder.fuse(text_embeds.requires_grad_(), text_mask, memory))
            raw, token_maps = gradcam.token_heatmaps(watch, itm_logits, text_mask, explanation)
    return raw.cpu(), itm_logits.detach().float().softmax(1)[:, 1].cpu(), token_maps.cpu()


def point_at(
    model: Backbone,
    tokenizer: Tokenizer,
    regions: Sequence[Region],
    load_image: Callable[[Region], tuple[Tensor, tuple[int, int]]],
    layer: int,
    images_at_once: int = 32,
    progress: str | None = None,
    explanation: Explanation = "gradcam",
) -> Pointing:
    """Ground every region's phrase in its image. `load_image` gives the model's input [C, H, W] and (height, width).

    The result keeps the order of `regions`. `progress` names a bar; None shows none.
    """
    by_image: dict[str, list[int]] = defaultdict(list)
    for p, region in enumerate(regions):
        by_image[region.image_id].append(p)
    groups = list(by_image.values())
    points, scores = np.zeros((len(regions), 2), dtype=int), np.zeros(len(regions), dtype=np.float32)
    heatmaps = torch.zeros(len(regions), 0, 0)
    for start in tqdm(range(0, len(groups), images_at_once), desc=progress, disable=progress is None):
        chunk = groups[start : start + images_at_once]
        images, sizes = zip(*(load_image(regions[members[0]]) for members in chunk), strict=True)
        rows = [row for row, members in enumerate(chunk) for _ in members]
        phrases = [p for members in chunk for p in members]  # as indices of regions
        texts = [regions[p].phrase for p in phrases]
        raw, match = ground_phrases(model, tokenizer, torch.stack(images).float(), texts, rows, layer, explanation)
        if not heatmaps.numel():
            heatmaps = raw.new_zeros(len(regions), *raw.shape[1:])
        heatmaps[phrases], scores[phrases] = raw, match.numpy()
        for size in set(sizes):
            same = [k for k, row in enumerate(rows) if sizes[row] == size]
            points[[phrases[k] for k in same]] = peak(raw[same], size)
    return Pointing(list(regions), heatmaps, points, scores)


# ------------------------------------------------------------------------------------------------------ match scores


def encode_phrases(model: Backbone, tokenizer: Tokenizer, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
    """text_embeds [P, L, D] and their mask [P, L]."""
    tokens = tokenizer(phrases, model.settings.text.positions)
    input_ids, text_mask = (tensor.to(model.temp.device) for tensor in tokens)
    return model.encode_text(input_ids, text_mask), text_mask


def match_probabilities(model: Backbone, tokenizer: Tokenizer, images: Tensor, phrase: str) -> Tensor:
    """[n]: the probability that `phrase` matches each of n images (pixels, or the features that the trunk gives)."""
    with evaluating(model):
        image_embeds = model.encode_image(images.to(model.temp.device))
        rows = torch.arange(len(images))
        return pair_probabilities(model, image_embeds, *encode_phrases(model, tokenizer, [phrase]), rows, rows * 0)


def pair_probabilities(
    model: Backbone,
    image_embeds: Tensor,
    text_embeds: Tensor,
    text_mask: Tensor,
    image_rows: Tensor,
    text_rows: Tensor,
    at_once: int = 256,
) -> Tensor:
    """[n]: the probability that image `image_rows[k]` and text `text_rows[k]` match (int64 [n] both).

    image_embeds [I, N, D], text_embeds [P, L, D] and text_mask [P, L] as the towers give them. Call it inside
    `evaluating`.
    """
    encoder, parts = model.text_encoder, []
    for images, texts in zip(image_rows.split(at_once), text_rows.split(at_once), strict=True):
        used, rows = images.unique(return_inverse=True)
        memory = encoder.remember(image_embeds[used]).rows(rows)
        itm_logits = model.match(encoder.fuse(text_embeds[texts], text_mask[texts], memory))
        parts.append(itm_logits.float().softmax(1)[:, 1].cpu())
    return torch.cat(parts)


if __name__ == "__main__":
    from amc_lib.score import main

    main()
