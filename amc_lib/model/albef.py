"""ALBEF (Li et al., NeurIPS 2021): towers, fusion, contrastive space, and the momentum model with its queues.

The class holds state and maps inputs to embeddings; the objectives that train it stand in `losses.py`. Parameter
and buffer names are those of the authors' checkpoints.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_lib.config import ModelSettings
from amc_lib.model import minilm
from amc_lib.model.text import TextEncoder
from amc_lib.model.trunk import NETWORKS, FrozenTrunk
from amc_lib.model.vision import ImageTower

MOMENTUM_PAIRS = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")


class ALBEF(nn.Module):
    """B images, L text positions, N = G*G + 1 image tokens, D width, E contrastive width, Q queue size."""

    resize = "bilinear"

    def __init__(self, settings: ModelSettings, visual_encoder: nn.Module | None = None) -> None:
        """`visual_encoder` takes the place of the vision transformer of `settings.vision`."""
        super().__init__()
        if visual_encoder is None and settings.vision.trunk == "regions":
            raise ValueError("a model over a detector's proposals: open it with amc_study's RegionGrounder.load")
        self.settings = settings
        self.trunk = FrozenTrunk(settings.vision.trunk) if settings.vision.trunk in NETWORKS else None
        self.text_trunk = minilm.TextTrunk() if settings.text.trunk == "minilm" else None
        self.visual_encoder = visual_encoder or ImageTower(settings.vision)
        self.text_encoder = TextEncoder(
            settings.text, settings.vision.width, minilm.TrunkWords(settings.text) if self.text_trunk else None
        )
        self.vision_proj = nn.Linear(settings.vision.width, settings.embed_dim)
        self.text_proj = nn.Linear(settings.text.width, settings.embed_dim)
        self.itm_head = nn.Linear(settings.text.width, 2)
        self.temp = nn.Parameter(torch.tensor(settings.temperature))
        for name in MOMENTUM_PAIRS:
            setattr(self, f"{name}_m", copy.deepcopy(getattr(self, name)).requires_grad_(False))
        self.start_queues()

    def start_queues(self) -> None:
        """Queues of the settings' size, filled with directions drawn at random, in place of those that are there."""
        shape = self.settings.embed_dim, self.settings.queue_size
        self.register_buffer("image_queue", F.normalize(torch.randn(shape, device=self.temp.device), dim=0))
        self.register_buffer("text_queue", F.normalize(torch.randn(shape, device=self.temp.device), dim=0))
        self.register_buffer("queue_ptr_img", torch.zeros(1, dtype=torch.long, device=self.temp.device))
        self.register_buffer("queue_ptr_txt", torch.zeros(1, dtype=torch.long, device=self.temp.device))

    def checkpoint_layers(self, enable: bool) -> None:
        """Keep only the inputs of layers for the backward pass and compute the rest again there: memory for time."""
        self.visual_encoder.set_grad_checkpointing(enable)
        self.text_encoder.checkpointing = enable

    def read_image(self, image: Tensor) -> Tensor:
        """What the image tower reads: pixels [B, 3, S, S] as they are, or through the frozen trunk where there is one.

        Features that the trunk gave earlier ([B, channels, G, G]) pass unchanged.
        """
        return self.trunk(image) if self.trunk is not None and image.shape[1] == 3 else image

    def encode_image(self, image: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] or trunk features -> image_embeds [B, N, D]."""
        return self.visual_encoder(self.read_image(image))

    def read_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the text encoder reads of int64 [B, L], mask [B, L]: the same, or what the frozen trunk says of it."""
        return input_ids if self.text_trunk is None else self.text_trunk(input_ids, attention_mask)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, L], mask [B, L] -> text_embeds [B, L, D]."""
        return self.text_encoder.encode(self.read_text(input_ids, attention_mask), attention_mask)

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """[B, N, D] -> image_feat [B, E] of unit length."""
        return F.normalize(self.vision_proj(image_embeds[:, 0]), dim=-1)

    def text_features(self, text_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[B, L, D] -> text_feat [B, E] of unit length; the text layers have read the mask before."""
        return F.normalize(self.text_proj(text_embeds[:, 0]), dim=-1)

    def match(self, fusion_embeds: Tensor) -> Tensor:
        """[B, L, D] -> itm_logits [B, 2]; column 1 is "match"."""
        return self.itm_head(fusion_embeds[:, 0])

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        self.temp.clamp_(*self.settings.temperature_range)

    @torch.no_grad()
    def update_momentum(self) -> None:
        """Every momentum parameter becomes momentum * itself + (1 - momentum) * its online twin."""
        online, averaged = [], []
        for name in MOMENTUM_PAIRS:
            pairs = zip(getattr(self, name).parameters(), getattr(self, f"{name}_m").parameters(), strict=True)
            for parameter, average in pairs:
                if parameter.requires_grad:  # what is frozen stays equal
                    online.append(parameter)
                    averaged.append(average)
        torch._foreach_lerp_(averaged, online, 1 - self.settings.momentum)

    @torch.no_grad()
    def copy_to_momentum(self) -> None:
        """Make the momentum model equal to the online model."""
        for name in MOMENTUM_PAIRS:
            getattr(self, f"{name}_m").load_state_dict(getattr(self, name).state_dict())

    @torch.no_grad()
    def enqueue(self, image_feat_m: Tensor, text_feat_m: Tensor) -> None:
        """Write features [B, E] into the next B columns of the queues, wrapping at their end."""
        if not self.settings.queue_size:
            return
        for queue, pointer, features in (
            (self.image_queue, self.queue_ptr_img, image_feat_m),
            (self.text_queue, self.queue_ptr_txt, text_feat_m),
        ):
            columns = (int(pointer) + torch.arange(len(features), device=queue.device)) % queue.shape[1]
            queue[:, columns] = features.T.to(queue.dtype)
            pointer.fill_((int(pointer) + len(features)) % queue.shape[1])
