"""Pointing accuracy: where the heatmap of a phrase peaks, and whether that lies inside one of the phrase's boxes."""

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
from amc_lib.model import ALBEF
from amc_lib.model.text import ImageMemory
from amc_lib.regions import Region
from amc_lib.tokens import Tokenizer


@dataclass
class Pointing:
    """What a system says of P regions: raw heatmaps [P, G, G], points (x, y) [P, 2] in pixels, match scores [P]."""

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

    The map is upsampled bicubically with half-pixel centres; the first maximum in row-major order is the point.
    """
    maps = gradcam.upsample(heatmaps.float(), size, "bicubic")  # [P, H, W]
    y = maps.amax(2).argmax(1)  # the row first: a plain argmax of H * W is ten times slower
    x = maps[torch.arange(len(maps)), y].argmax(1)
    return torch.stack((x, y), dim=1).cpu().numpy()


def point_hits(points: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """bool [P]: does the point (x, y) lie strictly inside any box (xyxy) of its region?"""
    return np.array(
        [
            any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in region.boxes)
            for (x, y), region in zip(points, regions, strict=True)
        ],
        dtype=bool,
    )


def pointing_hits(heatmaps: Tensor, regions: Sequence[Region]) -> np.ndarray:
    """bool [P]: do the peaks of heatmaps [P, G, G] hit their regions? An all-zero map is a miss."""
    sizes = [region.image.open().size for region in regions]  # (width, height)
    points = np.array(
        [peak(heatmap[None], (height, width))[0] for heatmap, (width, height) in zip(heatmaps, sizes, strict=True)]
    )
    return point_hits(points.reshape(-1, 2), regions) & heatmaps.flatten(1).any(1).cpu().numpy()


def ground_phrases(
    model: ALBEF,
    tokenizer: Tokenizer,
    images: Tensor,
    phrases: Sequence[str],
    image_rows: Sequence[int],
    layer: int,
    explanation: Explanation = "gradcam",
) -> tuple[Tensor, Tensor]:
    """Raw heatmaps [P, G, G] and match probabilities [P] of phrases, phrase p asked of images[image_rows[p]].

    images: [B, C, H, W]. Each image is encoded once for all its phrases, and the backward pass runs only through the
    layers above the heatmap. Gradients and the training mode of the model stay as they were.
    """
    memory = remember_images(model, images).rows(torch.as_tensor(image_rows, device=model.temp.device))
    raw, scores, _ = ground_remembered(model, tokenizer, memory, phrases, layer, explanation)
    return raw, scores


def remember_images(model: ALBEF, images: Tensor) -> ImageMemory:
    """What `ground_remembered` needs of images [B, C, H, W], without gradient: good for any phrase and any layer."""
    with _evaluating(model), torch.no_grad():
        return model.text_encoder.remember(model.encode_image(images.to(model.temp.device)))


def ground_remembered(
    model: ALBEF,
    tokenizer: Tokenizer,
    memory: ImageMemory,
    phrases: Sequence[str],
    layer: int,
    explanation: Explanation = "gradcam",
) -> tuple[Tensor, Tensor, Tensor]:
    """`ground_phrases` of images encoded before, row p for phrase p; also each token's share in the heatmaps.

    Those are raw maps [P, L, G, G] whose mean over the L tokens, padding included, is the heatmap.
    """
    with _evaluating(model):
        tokens = tokenizer(phrases, model.settings.text.positions)
        input_ids, text_mask = (tensor.to(model.temp.device) for tensor in tokens)
        with torch.no_grad():
            text_embeds = model.encode_text(input_ids, text_mask)
        with torch.enable_grad(), gradcam.watch_attention(model.text_encoder, layer, twice=False) as watch:
            fusion_embeds = model.text_encoder.fuse(text_embeds.requires_grad_(), text_mask, memory)
            itm_logits = model.match(fusion_embeds)
            raw, of_tokens = gradcam.token_heatmaps(watch, itm_logits, text_mask, explanation)
    return raw.cpu(), itm_logits.detach().float().softmax(1)[:, 1].cpu(), of_tokens.cpu()


@contextmanager
def _evaluating(model: ALBEF) -> Iterator[None]:
    """The model in evaluation mode inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def point_at(
    model: ALBEF,
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
    points = np.zeros((len(regions), 2), dtype=int)
    scores = np.zeros(len(regions), dtype=np.float32)
    heatmaps = torch.zeros(len(regions), 0, 0)
    groups = list(by_image.values())
    for chunk in tqdm(list(_chunks(groups, images_at_once)), desc=progress, disable=progress is None):
        loaded = [load_image(regions[members[0]]) for members in chunk]
        rows = [row for row, members in enumerate(chunk) for _ in members]
        at = [p for members in chunk for p in members]
        images = torch.stack([image for image, _ in loaded]).float()
        asked = [regions[p].phrase for p in at]
        raw, probability = ground_phrases(model, tokenizer, images, asked, rows, layer, explanation)
        if not heatmaps.numel():
            heatmaps = raw.new_zeros(len(regions), *raw.shape[1:])
        heatmaps[at], scores[at] = raw, probability.numpy()
        for size in {size for _, size in loaded}:
            same = [k for k, row in enumerate(rows) if loaded[row][1] == size]
            points[[at[k] for k in same]] = peak(raw[same], size)
    return Pointing(list(regions), heatmaps, points, scores)


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
