"""Attention that keeps no probabilities it can do without: fused where the library's kernel is fast, else our own.

On CPU the library's fused kernel knows no dropout (it then takes a slow form that copies keys and values), its backward
pass in bf16 is slower than matrix products, and rows that look at one image would each need a copy of its keys and
values. There `attend` takes a form of its own, once differentiable, in which all these rows look in one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


@dataclass(frozen=True)
class Shared:
    """Keys or values of images, and the image that each of R rows looks at: stands for `of_images[rows]`."""

    of_images: Tensor  # [I, h, N, d]
    rows: Tensor  # int64 [R]

    def gather(self) -> Tensor:
        return take_rows(self.of_images, self.rows)  # [R, h, N, d]


def take_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """`tensor[rows]`, whose backward pass adds whole rows up in their order: fast, and the same bits at every run.

    That of indexing adds in an order that threads decide; that of `index_select` adds number by number.
    """
    return _Rows.apply(tensor, rows)


class _Rows(torch.autograd.Function):
    """`take_rows`; the backward pass is made of differentiable operations, so that it has a gradient itself."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = len(tensor)
        return tensor.index_select(0, rows)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        flat = gradient.flatten(1)  # rows without gaps, which the sum is several times faster on
        summed = flat.new_zeros(ctx.count, flat.shape[1]).index_add(0, rows, flat)
        return summed.unflatten(1, gradient.shape[1:]), None


def gathered(tokens: Tensor | Shared) -> Tensor:
    """[R, h, N, d], one set of keys or values for each row."""
    return tokens.gather() if isinstance(tokens, Shared) else tokens


def attend(
    query: Tensor, key: Tensor | Shared, value: Tensor | Shared, padding: Tensor | None, dropout: float, scaling: float
) -> Tensor:
    """query [R, h, L, d], key and value [R, h, N, d] or shared, additive padding [R, 1, 1, N] -> [R, h, L, d]."""
    on_cpu = query.device.type == "cpu"
    if on_cpu and isinstance(key, Shared):
        return _by_image(query, key, value, dropout, scaling)
    if not on_cpu or not (dropout or _rounded_gradient(query)):
        key, value = gathered(key), gathered(value)
        return F.scaled_dot_product_attention(query, key, value, padding, dropout, scale=scaling)
    R, h = query.shape[:2]
    if padding is not None:
        padding = padding.expand(R, h, 1, -1).flatten(0, 1)  # [R*h, 1, N]
    flat = (x.flatten(0, 1) for x in (query, key, value))  # [R*h, ., d]
    return _Attention.apply(*flat, padding, dropout, scaling).unflatten(0, (R, h))


def _rounded_gradient(query: Tensor) -> bool:
    return query.dtype is torch.bfloat16 and query.requires_grad and torch.is_grad_enabled()


def _by_image(query: Tensor, key: Shared, value: Shared, dropout: float, scaling: float) -> Tensor:
    """Image by image: the queries of all rows that look at it, as if they were one longer text."""
    order = key.rows.argsort(stable=True)
    counts = key.rows.bincount(minlength=len(key.of_images)).tolist()
    seen = []
    of_image = take_rows(query, order).split(counts)
    for own, k, v in zip(of_image, key.of_images.unbind(), value.of_images.unbind(), strict=True):
        flat = own.transpose(0, 1).flatten(1, 2)  # [r, h, L, d] -> [h, r*L, d]
        attended = _Attention.apply(flat, k, v, None, dropout, scaling)
        seen.append(attended.unflatten(1, own.shape[::2][:2]).transpose(0, 1))  # -> [r, h, L, d]
    return take_rows(torch.cat(seen), order.argsort())


class _Attention(torch.autograd.Function):
    """G attentions at once, query [G, L, d], key and value [G, N, d], padding [G, 1, N] or None -> [G, L, d]."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        dropout: float,
        scaling: float,
    ) -> Tensor:
        start = query.new_zeros(1, 1, 1) if padding is None else padding
        scores = torch.baddbmm(start, query, key.transpose(1, 2), alpha=scaling)  # [G, L, N]
        probabilities = scores.softmax(-1)
        weights, kept = torch.native_dropout(probabilities, dropout, True) if dropout else (probabilities, None)
        ctx.save_for_backward(query, key, value, probabilities, kept)
        ctx.dropout, ctx.scaling = dropout, scaling
        return weights @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, probabilities, kept = ctx.saved_tensors
        of_weights = gradient @ value.transpose(1, 2)  # [G, L, N]
        weights = probabilities
        if kept is not None:
            scale = 1 / (1 - ctx.dropout)
            weights, of_weights = (x * kept * scale for x in (weights, of_weights))
        of_scores = torch._softmax_backward_data(of_weights, probabilities, -1, probabilities.dtype) * ctx.scaling
        return (
            of_scores @ key,
            of_scores.transpose(1, 2) @ query,
            weights.transpose(1, 2) @ gradient,
            None,
            None,
            None,
        )
