"""Checkpoints: weights as safetensors beside a JSON of settings, vocabulary and origin; written whole or not at all.

What comes by other ways is left out of the file: the frozen trunk (a pip package), tensors tied to others, and, unless
asked for, the momentum model and queues (which start as copies of the online model and as noise).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load, save
from torch import Tensor

from amc_lib.config import ModelSettings, Settings
from amc_lib.files import ROOT, json_bytes, plain, write_together
from amc_lib.model import ALBEF
from amc_lib.model.albef import MOMENTUM_PAIRS
from amc_lib.parameters import from_mapping
from amc_lib.tokens import Tokenizer
from amc_lib.weights_check import check_weights
from amc_lib.wording import line, reason, shown

WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
SHIPPED = ROOT / "data" / "checkpoints"  # named checkpoints that come with the repository
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
MOMENTUM = (*(f"{name}_m." for name in MOMENTUM_PAIRS), "image_queue", "text_queue", "queue_ptr")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another shape than the model."""


@dataclass
class Checkpoint:
    model: ALBEF
    tokenizer: Tokenizer
    settings: Settings
    about: dict[str, Any]  # provenance and whatever the writer added
    sha256: str  # of the weights file


def save_checkpoint(
    folder: str | Path, model: ALBEF, tokenizer: Tokenizer, settings: Settings, about: Mapping[str, Any]
) -> Path:
    """Write the online model to `folder` and return the folder.

    Both files are on disk before either takes the place of an older one; weights that a power cut has left beside the
    description of others are refused by `load_checkpoint`, because their hash is not the one in the description.
    """
    folder = Path(folder)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in online_state(model).items()})
    content = {
        "settings": plain(settings),
        "vocabulary": list(tokenizer.vocabulary),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "about": plain(about),
    }
    write_together({folder / WEIGHTS: weights, folder / DESCRIPTION: json_bytes(content)})
    return folder


def load_checkpoint(source: str | Path, model_class: Callable[[ModelSettings], ALBEF] = ALBEF) -> Checkpoint:
    """Load a checkpoint folder, or one that the repository ships by its name, as a `model_class`.

    Raises CheckpointError with one sentence if it is missing, damaged, does not fit its own settings, or holds weights
    that are no finite numbers.
    """
    folder, about = find(source), description(source)
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder}: has no readable {WEIGHTS}: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != about.get("sha256"):
        raise CheckpointError(f"{folder / WEIGHTS}: damaged (its hash is not the one in {DESCRIPTION})")
    try:
        settings = stored_settings(about.get("settings"))
        tokenizer = _tokenizer(about.get("vocabulary"), settings)
        tensors = load(data)
        check_weights(tensors, settings.model)
        model = model_class(settings.model)
    except (ArithmeticError, RuntimeError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder}: {reason(error)}") from error
    load_weights(model, tensors, origin=str(folder))
    return Checkpoint(model, tokenizer, settings, about.get("about", {}), digest)


def stored_settings(values: Any) -> Settings:
    """Settings as JSON holds them beside weights and metrics. Raises ValueError naming the field.

    Fields of a box head, which a model could have until November 2026, are dropped where it had none.
    """
    if isinstance(values, Mapping):
        values = dict(values)
        for part, retired in (("model", "box_head"), ("objective", "box_weight")):
            if isinstance(values.get(part), Mapping) and not values[part].get(retired):
                values[part] = {name: value for name, value in values[part].items() if name != retired}
    return from_mapping(Settings, values)


def description(source: str | Path) -> dict[str, Any]:
    """The JSON beside a checkpoint's weights: settings, vocabulary, sha256 of the weights, and `about`."""
    path = find(source) / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint's description: {reason(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("about", {}), dict):
        raise CheckpointError(f"{path}: is no description of a checkpoint")
    return content


def load_weights(model: ALBEF, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy online weights into the model, after comparing every name and shape; the momentum model becomes a copy."""
    expected = online_state(model)
    problems = [f"missing {name} {tuple(expected[name].shape)}" for name in expected if name not in tensors]
    problems += [f"unexpected {name} {tuple(tensors[name].shape)}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    problems += [
        f"{name} is {tensors[name].dtype}, the model has {expected[name].dtype}"
        for name in expected
        if name in tensors and tensors[name].is_floating_point() != expected[name].is_floating_point()
    ]
    if problems:
        raise CheckpointError(f"{origin}: does not fit the model: {first_few(problems)}")
    model.load_state_dict(dict(tensors), strict=False)
    model.copy_to_momentum()


def online_state(model: ALBEF) -> dict[str, Tensor]:
    """The tensors that a checkpoint holds, by name."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("trunk.", *MOMENTUM)) and not name.endswith(TIED)
    }


def find(source: str | Path) -> Path:
    """The folder of a checkpoint given by path or by the name of a shipped one."""
    for folder in (Path(source), SHIPPED / str(source)):
        if os.path.isfile(folder / DESCRIPTION):  # also False for names that no file can have
            return folder
    raise CheckpointError(f"no checkpoint at {shown(str(source))}; shipped ones: {', '.join(shipped()) or 'none'}")


def exists(source: str | Path) -> bool:
    """Whether there is a checkpoint at a path or of a shipped name."""
    return any(os.path.isfile(folder / DESCRIPTION) for folder in (Path(source), SHIPPED / str(source)))


def shipped() -> list[str]:
    """Names of the checkpoints that the repository ships."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{DESCRIPTION}"))


def _tokenizer(vocabulary: Any, settings: Settings) -> Tokenizer:
    text = settings.model.text
    if not isinstance(vocabulary, list) or not all(isinstance(token, str) for token in vocabulary):
        raise ValueError("its vocabulary is no list of words")
    if len(set(vocabulary)) != len(vocabulary):
        raise ValueError("its vocabulary has a word twice")
    if len(vocabulary) > text.vocab_size:
        raise ValueError(f"its vocabulary has {len(vocabulary)} words, the model {text.vocab_size}")
    return Tokenizer(vocabulary, text.max_tokens)


def first_few(problems: Iterable[str], limit: int = 5) -> str:
    """The first problems as one line, with the number of the others."""
    problems = list(problems)
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(map(line, problems[:limit])) + more
