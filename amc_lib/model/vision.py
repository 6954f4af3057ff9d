"""The image tower: timm's VisionTransformer, whose parameters carry ALBEF's names.

One class serves both tiers. Without a trunk it cuts pixels into patches (ViT-B/16); with a trunk each place of the
trunk's feature map is one patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from amc_lib.config import VisionSettings
from amc_lib.model.text import initial_std, initialise
from amc_lib.model.trunk import NETWORKS

NORM_EPS = 1e-6  # of ALBEF's image tower


class ImageTower(VisionTransformer):
    """[B, C, H, W] -> image_embeds [B, N, D]; token 0 is the class token, the rest the grid in row-major order."""

    def __init__(self, settings: VisionSettings) -> None:
        with_trunk = settings.trunk in NETWORKS
        super().__init__(
            img_size=settings.grid if with_trunk else settings.image_size,
            patch_size=1 if with_trunk else settings.patch_size,
            in_chans=NETWORKS[settings.trunk].width if with_trunk else 3,
            embed_dim=settings.width,
            depth=settings.depth,
            num_heads=settings.heads,
            mlp_ratio=settings.mlp_ratio,
            drop_path_rate=settings.drop_path,
            norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
            global_pool="",
            num_classes=0,
        )
        self.blocks.apply(partial(initialise, std=initial_std(settings.width)))

    def forward(self, image: Tensor) -> Tensor:
        return self.forward_features(image)  # [B, N, D], normalised


def resize_positions(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embeddings [1, 1 + g*g, D] for another grid, [1, 1 + grid*grid, D]: bicubic, as in ALBEF.

    The class token's embedding stays.
    """
    return resample_abs_pos_embed(pos_embed, [grid, grid], num_prefix_tokens=1, antialias=False)


@contextmanager
def input_side(tower: ImageTower, side: int) -> Iterator[None]:
    """Inside the block the tower reads square images of `side` pixels, its position embeddings resized to them."""
    positions, patches = tower.pos_embed, tower.patch_embed
    side_before = patches.img_size[0]
    patches.set_input_size((side, side))
    tower.pos_embed = nn.Parameter(resize_positions(positions.detach(), patches.grid_size[0]), requires_grad=False)
    try:
        yield
    finally:
        patches.set_input_size((side_before, side_before))
        tower.pos_embed = positions
