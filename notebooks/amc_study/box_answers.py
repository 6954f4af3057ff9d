"""What a model with a box head answers: for each phrase the box that it regresses (an ablation against heatmaps)."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import remember_images
from amc_study.rival.region_answers import RegionAnswers
from amc_study.tiers import Split


@torch.no_grad()
def answer_by_boxes(checkpoint: Checkpoint, bank: Split) -> RegionAnswers:
    """Boxes (xyxy, pixels) and match probabilities for all phrases of a split, one image at a time."""
    model, tokenizer = checkpoint.model.eval(), checkpoint.tokenizer
    ordered = sorted(bank.all_regions(), key=lambda region: region.image_id)  # stable: phrases keep their order
    boxes, scores = {}, {}
    with bank.fit(model):
        for _, group in groupby(ordered, key=lambda region: region.image_id):
            regions = list(group)
            image, (height, width) = bank.load(regions[0])
            memory = remember_images(model, image[None].float()).rows(torch.zeros(len(regions), dtype=torch.long))
            tokens = tokenizer([region.phrase for region in regions], model.settings.text.positions)
            input_ids, text_mask = (tensor.to(model.temp.device) for tensor in tokens)
            fused = model.text_encoder.fuse(model.encode_text(input_ids, text_mask), text_mask, memory)
            found = model.box_head(fused).cpu() * torch.tensor([width, height, width, height])
            probabilities = model.match(fused).softmax(1)[:, 1].cpu()
            boxes |= {region.id: box for region, box in zip(regions, found.numpy(), strict=True)}
            scores |= {region.id: float(p) for region, p in zip(regions, probabilities, strict=True)}
    asked = bank.all_regions()
    return RegionAnswers(
        asked, np.stack([boxes[region.id] for region in asked]), np.array([scores[region.id] for region in asked])
    )
