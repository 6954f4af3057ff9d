"""What phrases look at: the keys and values of images, projected once and read in place by all their phrases.

R phrases, I images, N image tokens, h heads of width d.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


@dataclass(frozen=True)
class Seats:
    """Which of I images each of R phrases looks at, and the phrase's place among the m seats that each image has."""

    image_rows: Tensor  # int64 [R]
    numbers: Tensor  # int64 [R], no two alike, in [0, I * m): image * m + place
    of_each: int  # m, the most phrases of one image

    @classmethod
    def of(cls, image_rows: Tensor, images: int) -> Seats:
        order, counts = image_rows.argsort(stable=True), image_rows.bincount(minlength=images)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[image_rows[order]]
        most = int(counts.max())
        return cls(image_rows, image_rows * most + places, most)


@dataclass(frozen=True)
class ImageMemory:
    """Keys and values of I images in every fusion layer, projected once for all phrases that look at these images."""

    layers: dict[int, tuple[Tensor, Tensor]]  # keys and values [I, h, N, d] by layer
    seats: Seats | None = None  # of the phrases; None: phrase r looks at image r

    def rows(self, image_rows: Tensor) -> ImageMemory:
        """The same memory for R phrases (int64 [R], the image of each); nothing is copied."""
        images = len(next(iter(self.layers.values()))[0])
        return replace(
            self, seats=Seats.of(image_rows if self.seats is None else self.seats.image_rows[image_rows], images)
        )


def take_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """`tensor[rows]`, whose backward pass adds whole rows in their order: fast, and the same bits at every run.

    (That of indexing adds in an order that threads decide; that of `index_select` adds number by number.)
    """
    return _Rows.apply(tensor, rows)


class _Rows(torch.autograd.Function):
    """The backward pass is made of differentiable operations, so that it has a gradient itself."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = len(tensor)
        return tensor.index_select(0, rows)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        flat = gradient.flatten(1)
        return flat.new_zeros(ctx.count, flat.shape[1]).index_add(0, rows, flat).unflatten(1, gradient.shape[1:]), None
