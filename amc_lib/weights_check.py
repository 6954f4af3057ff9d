"""What is asked of a checkpoint's weights before a model is built for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from amc_lib.config import ModelSettings
from amc_lib.wording import named

SHOWN = 5  # names in a sentence


def check_weights(tensors: Mapping[str, Tensor], settings: ModelSettings) -> None:
    """Raise ValueError for weights that are no finite numbers, or too few for the settings' sizes.

    The second bounds memory and time: what is built is no larger than a few times the file that asks for it.
    """
    if names := not_finite(tensors):
        raise ValueError(f"has weights that are no finite numbers: {', '.join(names)}")
    found = sum(tensor.numel() for tensor in tensors.values())
    if (needed := least_numbers(settings)) > found:
        raise ValueError(f"its settings ask for at least {needed:,} weights, the file holds {found:,}")


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that hold anything but numbers which are finite in float32, the first few."""
    names = (name for name, tensor in tensors.items() if not _finite(tensor))
    return [named(name) for _, name in zip(range(SHOWN), names, strict=False)]


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_complex() and (not tensor.is_floating_point() or bool(tensor.float().isfinite().all()))


def least_numbers(settings: ModelSettings) -> int:
    """A lower bound for the weights of a model: its linear layers, without biases and norms."""
    vision, text, width = settings.vision, settings.text, settings.text.width
    patches = vision.grid**2 if vision.trunk != "regions" else vision.region_width
    in_vision = patches + vision.depth * int(4 + 2 * vision.mlp_ratio) * width
    in_text = text.vocab_size + text.positions + text.layers * (4 * width + 2 * text.ffn_width)
    return width * (in_vision + in_text + 2 * settings.embed_dim)
