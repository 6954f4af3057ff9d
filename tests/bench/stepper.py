"""A model with its optimizer, ready to take training steps on random batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from amc_lib.config import Settings
from amc_lib.model import ALBEF
from amc_lib.model.trunk import NETWORKS
from amc_lib.presets import preset
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.tokens import IGNORED
from amc_lib.train import parameter_groups

TOKENS = 12  # of a phrase, as Visual Genome's region descriptions have


def random_batch(images: int, settings: Settings | None = None, device: str = "cpu", phrases: int = 1) -> Batch:
    """Random images with `phrases` phrases of TOKENS tokens each; every phrase has a box.

    Images are pixels, or the trunk's features where the settings have a trunk. Default: the paper's settings.
    """
    settings = settings or preset("paper")
    generator = torch.Generator().manual_seed(0)
    vision, side = settings.model.vision, settings.amc.map_size
    channels, extent = (NETWORKS["lite0"].width, vision.grid) if vision.trunk == "lite0" else (3, vision.image_size)
    pairs = images * phrases
    input_ids = torch.randint(110, settings.model.text.vocab_size, (pairs, TOKENS), generator=generator)
    labels = torch.full_like(input_ids, IGNORED)
    labels[:, 2:4] = input_ids[:, 2:4]
    box_mask = torch.zeros(pairs, side, side)
    box_mask[:, side // 6 : side // 2, side // 4 : 3 * side // 4] = 1
    return Batch(
        image=torch.randn(images, channels, extent, extent, generator=generator),
        image_rows=torch.arange(images).repeat_interleave(phrases),
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        mlm_input_ids=input_ids,
        mlm_labels=labels,
        box_mask=box_mask,
        has_box=torch.ones(pairs, dtype=torch.bool),
        unreadable=torch.tensor(0),
    ).to(device)


class Stepper:
    """An ALBEF of seed 0 in training mode, with AdamW; `precision` is float32 or bf16 (autocast)."""

    def __init__(
        self, settings: Settings, device: str = "cpu", precision: str = "float32", checkpointing: bool = False
    ):
        self.settings, self.device, self.precision = settings, device, precision
        torch.manual_seed(0)
        self.model: ALBEF = ALBEF(settings.model).to(device).train()
        self.model.checkpoint_layers(checkpointing)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.02), lr=1e-5, fused=True)

    def losses(self, batch: Batch, **draw: Any) -> Losses:
        """`draw`: `negatives` or `generator` of `training_losses`."""
        objective, amc = self.settings.objective, self.settings.amc
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            return training_losses(self.model, batch, objective, amc, alpha=0.4, **draw)

    def step(self, batch: Batch, **draw: Any) -> Losses:
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(batch, **draw)
        losses.total.backward()
        self.optimizer.step()
        return losses


def kept_bytes(stepper: Any, batch: Batch) -> int:
    """Bytes that autograd keeps for the backward pass of the batch; parameters and buffers are not counted."""
    persistent = {tensor.untyped_storage().data_ptr() for tensor in stepper.model.state_dict().values()}
    kept = {}  # by address; held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in persistent:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        stepper.losses(batch)
    return sum(storage.nbytes() for storage in kept.values())


FUSED_ON_CPU = {  # torch's own counter leaves these out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])
    ),
}


def count_flops(stepper: Stepper, batch: Batch) -> int:
    """Floating-point operations of matrix products and attentions in the losses and their backward pass."""
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        stepper.losses(batch).total.backward()
    return counter.get_total_flops()
