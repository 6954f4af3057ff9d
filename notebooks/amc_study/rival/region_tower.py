"""The model of the detector-based system: an ALBEF whose visual tokens are proposals of a detector.

Each proposal is its feature vector and its place; the tower mixes them and puts a class token in front, so that the
fusion layers see N = K + 1 tokens as they see patches.
"""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from amc_lib.checkpoints import Checkpoint, load_checkpoint
from amc_lib.config import ModelSettings, VisionSettings
from amc_lib.model import ALBEF
from amc_lib.model import build_model as backbone
from amc_lib.model.text import initial_std, initialise
from amc_lib.model.vision import NORM_EPS

GEOMETRY = 5  # x1, y1, x2, y2 as shares of the picture's sides, and the box's share of its area


class RegionTower(nn.Module):
    """[B, K, F + 5] -> image_embeds [B, K + 1, D]; token 0 is the class token, token k + 1 proposal k."""

    def __init__(self, settings: VisionSettings) -> None:
        super().__init__()
        width = settings.width
        self.feature = nn.Sequential(
            nn.LayerNorm(settings.region_width), nn.Linear(settings.region_width, width), nn.LayerNorm(width)
        )
        self.place = nn.Sequential(nn.Linear(GEOMETRY, width), nn.LayerNorm(width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(
            *(Block(width, settings.heads, settings.mlp_ratio, qkv_bias=True) for _ in range(settings.depth))
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        std = initial_std(width)
        for module in self.modules():
            initialise(module, std)
        nn.init.normal_(self.cls_token, std=std)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Thirty tokens are few: nothing is recomputed."""

    def forward(self, regions: Tensor) -> Tensor:
        features, place = regions[..., :-GEOMETRY], regions[..., -GEOMETRY:]
        tokens = self.feature(features) + self.place(place)  # [B, K, D]
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1)
        return self.norm(self.blocks(tokens))  # [B, K + 1, D]


class VMRM(ALBEF):
    """ALBEF over proposals, with a head [D -> F] that predicts the features of a hidden one."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings, RegionTower(settings.vision))
        self.region_head = nn.Linear(settings.text.width, settings.vision.region_width)


def build_model(settings: ModelSettings) -> ALBEF:
    """VMRM where the settings say that proposals are read, else the model of their backbone."""
    return VMRM(settings) if settings.vision.trunk == "regions" else backbone(settings)


def open_checkpoint(source: str | Path) -> Checkpoint:
    """`amc_lib.checkpoints.load_checkpoint` for models of both kinds."""
    return load_checkpoint(source, build_model)
