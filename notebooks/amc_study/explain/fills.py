"""What stands where a picture was erased: three ways to fill it, none of which is neutral.

A fill takes a picture [3, S, S] as the model reads it and k masks [k, S, S], true where it is erased, and gives the k
filled pictures [k, 3, S, S]; what is not erased stays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.sparse as sparse
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import splu
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Fill = Callable[[Tensor, Tensor], Tensor]

BLUR = 8  # the picture's side over the blur's standard deviation
COARSE = 4  # pixels along a side that imputation takes together
NEIGHBOURS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12, (1, -1): 1 / 12}  # weights of ROAD, each both ways
NOISE = 0.01  # standard deviation, in units of normalised pixels (ROAD)


def mean_colour(image: Tensor, gone: Tensor) -> Tensor:
    """The picture's own mean colour."""
    return torch.where(gone[:, None], image.mean((1, 2), keepdim=True), image)


def blurred(image: Tensor, gone: Tensor) -> Tensor:
    """The picture blurred until nothing can be recognised; large areas keep their colour."""
    sigma = image.shape[-1] / BLUR
    return torch.where(gone[:, None], gaussian_blur(image, [2 * round(2 * sigma) + 1] * 2, [sigma] * 2), image)


def imputed(image: Tensor, gone: Tensor) -> Tensor:
    """Noisy linear imputation (ROAD; Rong et al., ICML 2022): each erased pixel is the mean of its eight neighbours.

    The erased pixels together are the solution of a linear system; diagonal neighbours weigh half. A mean colour or a
    blur shows where something was erased, this hardly does. Solved on blocks of COARSE pixels, an erased pixel making
    its block unknown, and enlarged; a picture without a known block gets its mean colour. The noise is always the same.
    """
    side, size = image.shape[-1], (image.shape[-1] // COARSE,) * 2
    known = F.adaptive_avg_pool2d(image, size).flatten(1).double().numpy()  # [3, n * n]
    unknown = F.adaptive_max_pool2d(gone[:, None].float(), size).flatten(1).bool().numpy()  # [k, n * n]
    filled = torch.from_numpy(np.stack([_solved(known, of_mask, size[0]) for of_mask in unknown]))  # [k, 3, n * n]
    filled = filled.unflatten(-1, size).to(image.dtype)  # [k, 3, n, n]
    large = F.interpolate(filled, (side, side), mode="bilinear", align_corners=False)
    noise = NOISE * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image.dtype)
    return torch.where(gone[:, None], large + noise, image)


def _solved(values: np.ndarray, unknown: np.ndarray, side: int) -> np.ndarray:
    """values [3, side * side] with the `unknown` ones (bool) as means of their neighbours."""
    if unknown.all():
        return np.repeat(values.mean(axis=1, keepdims=True), side * side, axis=1)
    weights = _weights(side)[unknown]
    filled = values.copy()
    if unknown.any():
        system = sparse.identity(int(unknown.sum()), format="csc") - weights[:, unknown]
        filled[:, unknown] = splu(system.tocsc()).solve(weights[:, ~unknown] @ values[:, ~unknown].T).T
    return filled


@lru_cache(maxsize=4)
def _weights(side: int) -> sparse.csr_array:
    """[n, n] for the n cells of a grid: the weight of each neighbour in a cell's mean; rows sum to 1."""
    number = np.arange(side * side).reshape(side, side)
    rows, columns, weights = [], [], []
    for (down, right), weight in NEIGHBOURS.items():
        width = side - abs(right)
        one = number[: side - down, max(-right, 0) :][:, :width].ravel()
        other = number[down:, max(right, 0) :][:, :width].ravel()
        rows += [one, other]
        columns += [other, one]
        weights += [np.full(2 * len(one), weight)]
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    matrix = sparse.csr_array(entries, shape=(side**2, side**2))
    return sparse.csr_array(sparse.diags_array(1 / matrix.sum(axis=1)) @ matrix)


FILLS: dict[str, Fill] = {"mean colour": mean_colour, "blur": blurred, "imputation": imputed}
