"""Checkpoints: weights as safetensors beside a JSON of settings, vocabulary and origin; written whole or not at all.

A source is the folder of a run, the name of a checkpoint that the repository ships, one of the authors' own files, or a
BLIP as transformers saves it: its folder, or its name on the hub ("Salesforce/blip-itm-base-coco").
What comes by other ways is not in the weights file: the frozen trunks (pip packages), tensors tied to
others, the momentum model and the queues (which start as copies of the online model and as noise).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from amc_lib.config import ModelSettings, Settings
from amc_lib.files import (
    ROOT,
    SHIPPED_DATA,
    atomic_file,
    content_or,
    data_root,
    json_bytes,
    named_path,
    plain,
    sha256_of,
    unexpected_content,
)
from amc_lib.model import ALBEF, Backbone, build_model, minilm
from amc_lib.official import (
    FROZEN,
    MOMENTUM,
    CheckpointError,
    bert_vocabulary,
    first_sentence,
    load_official,
    load_tensors,
    unexpected_weights,
    untied_state,
)
from amc_lib.parameters import from_mapping
from amc_lib.presets import preset
from amc_lib.tokens import Tokenizer

WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
SHIPPED = SHIPPED_DATA / "checkpoints"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # of a model that transformers can fetch
BLIP_LAYER = 6  # of a BLIP that was not finetuned here: `block_num` of LAVIS's GradCAM (blip_image_text_matching.py)
NOT_STORED = (*FROZEN, *MOMENTUM, "image_queue", "text_queue", "queue_ptr")  # beginnings of names


@dataclass
class Checkpoint:
    model: ALBEF | Backbone
    tokenizer: Tokenizer
    settings: Settings
    about: dict[str, Any]  # provenance and whatever the writer added; of an official file `imported`, its report
    sha256: str  # of the weights file

    @property
    def seed(self) -> int:
        """That of the training which left it; 0 where nothing says."""
        return self.about.get("seed", 0)


def save_checkpoint(
    folder: str | Path, model: ALBEF, tokenizer: Tokenizer, settings: Settings, about: Mapping[str, Any]
) -> Path:
    """Write the online model to `folder` and return the folder.

    Both files are on disk before either takes the place of an older one; weights that a power cut has left beside the
    description of others are refused by `load_checkpoint`, because their hash is not the one in the description.
    """
    folder, weights = Path(folder), _weights(model)
    content = {
        "settings": plain(settings),
        "vocabulary": [] if model.settings.text.trunk == "minilm" else list(tokenizer.vocabulary),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "about": plain(about),
    }
    with atomic_file(folder / DESCRIPTION) as description, atomic_file(folder / WEIGHTS) as file:
        description.write(json_bytes(content))
        file.write(weights)
        description.flush()  # a full disk is met here, before anything is renamed
    return folder


def _weights(model: ALBEF | Backbone) -> bytes:
    """The online model as safetensors."""
    dtype, state = getattr(torch, model.settings.stored), untied_state(model, *NOT_STORED)
    return save({name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in state.items()})


def load_checkpoint(source: str | Path, build: Callable[[ModelSettings], ALBEF] = build_model) -> Checkpoint:
    """The checkpoint at a source, with its weights in the model that `build` gives; its momentum is a copy.

    An official file becomes a model of the paper tier's settings, and so does a BLIP, but for its sizes. Raises
    CheckpointError with one sentence if the source is missing, damaged, or does not fit its own settings.
    """
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(f"a checkpoint is a path or a name, got {source!r:.80}")
    if is_official(source):
        settings = preset("paper")
        model = ALBEF(settings.model)
        report = load_official(_locate(source), model)
        return Checkpoint(model, paper_tokenizer(settings), settings, {"imported": report}, report.sha256)
    if is_blip(source):
        return _load_blip(source)
    folder, about = find(source), description(source)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        content = unexpected_weights(path) or f"damaged (its hash is not the one in {DESCRIPTION})"
        raise CheckpointError(f"{path}: is {content}")
    try:
        settings = stored_settings(about.get("settings"))
        with_minilm = settings.model.text.trunk == "minilm"
        vocabulary = minilm.vocabulary() if with_minilm else about.get("vocabulary", ())
        tokenizer = Tokenizer(vocabulary, settings.model.text.max_tokens)
        tensors, model = load(data), build(settings.model)
    except Exception as error:  # what a description and a safetensors header can be is not bounded
        raise CheckpointError(f"{folder}: {first_sentence(error)}") from error
    load_tensors(model, tensors, untied_state(model, *NOT_STORED), origin=folder)
    if isinstance(model, ALBEF):
        model.copy_to_momentum()
    return Checkpoint(model, tokenizer, settings, about.get("about", {}), about["sha256"])


def is_blip(source: str | Path) -> bool:
    """Whether a source is a model as transformers saves it: a folder with its config.json, or OWNER/NAME on the hub."""
    folder = Path(source).expanduser()
    on_hub = HUB_NAME.fullmatch(str(source)) and not any((place / folder).parent.exists() for place in (Path(), ROOT))
    return _locate(source) is None and bool(on_hub or os.path.isfile(folder / "config.json"))


def blip_settings(source: str | Path) -> Settings:
    """The settings of a BLIP as transformers saves it, by its config.json alone: the paper tier's but for its sizes."""
    from amc_lib.model.blip import described  # here: transformers takes long to import

    paper = preset("paper")
    try:
        model = described(str(Path(source).expanduser()))
    except (OSError, ValueError) as error:
        raise _unread(source, error) from error
    return replace(paper, model=model, amc=replace(paper.amc, layer=min(BLIP_LAYER, model.text.layers - 1)))


def _load_blip(source: str | Path) -> Checkpoint:
    from amc_lib.model.blip import pretrained  # here: transformers takes long to import

    settings = blip_settings(source)
    try:
        model, words = pretrained(str(Path(source).expanduser()))
        tokenizer = Tokenizer(words, settings.model.text.max_tokens)
    except Exception as error:  # a damaged file can raise nearly anything
        raise _unread(source, error) from error
    about = {"imported": f"a BLIP as transformers saves it: {source}"}
    return Checkpoint(model, tokenizer, settings, about, hashlib.sha256(_weights(model)).hexdigest())


def _unread(source: str | Path, error: Exception) -> CheckpointError:
    """The sentence on a BLIP that transformers could not open: the file that is something else, or what it said."""
    folder = named_path(source)
    if not folder.is_dir():
        return CheckpointError(f"{source} (on the hub, as {Path.cwd()} has no such folder): {first_sentence(error)}")
    weights = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]  # the former are read where both are there
    contents = {path: unexpected_weights(path) for path in weights}
    contents |= {path: unexpected_content(path) for path in (*folder.glob("*.json"), *folder.glob("*.txt"))}
    for path, content in contents.items():
        if content:
            return CheckpointError(f"{path}: is {content}")
    return CheckpointError(f"{folder}: {first_sentence(error)}")


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
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        reason = content_or(path, f"cannot be read as a checkpoint's description: {error}")
        raise CheckpointError(f"{path}: {reason}") from error


def weights_hash(source: str | Path) -> str:
    """The sha256 that `load_checkpoint` would give, without loading (but for a BLIP of transformers)."""
    if is_blip(source):
        return load_checkpoint(source).sha256
    return sha256_of(_locate(source)) if is_official(source) else description(source)["sha256"]


def find(source: str | Path) -> Path:
    """The folder of a checkpoint given by path or by the name of a shipped one. Raises CheckpointError."""
    if exists(source):
        return _locate(source)
    names = ", ".join(shipped()) or "none"
    path = Path(source).expanduser()
    place = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise CheckpointError(f"no checkpoint at {str(path)!r:.200}{place}; shipped ones: {names}")


def exists(source: str | Path) -> bool:
    """Whether there is a checkpoint folder at a path or of a shipped name."""
    return _locate(source) is not None and not is_official(source)


def _locate(source: str | Path) -> Path | None:
    """The folder or official file at a path (also relative to the repository), or the folder of a shipped name."""
    path = Path(source).expanduser()
    for place in (named_path(path), ROOT / path, SHIPPED / path):
        if os.path.isfile(place) or os.path.isfile(place / DESCRIPTION):
            return place
    return None


def shipped() -> list[str]:
    """Names of the checkpoints that the repository ships."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{DESCRIPTION}"))


def of_seed(name: str, seed: int) -> str:
    """What the shipped run `name` is called for a seed of training: of the first alone `name`."""
    return f"{name}-{seed}" if seed else name


def is_official(source: str | Path) -> bool:
    """Whether a source is a single file, as the authors' are, of whatever ending."""
    return os.path.isfile(_locate(source) or "")


def official_albef() -> Path:
    """The file from which finetuning of the paper tier starts."""
    return data_root() / "checkpoints" / "ALBEF.pth"


def paper_tokenizer(settings: Settings) -> Tokenizer:
    """BERT's WordPiece tokens (uncased), of the downloaded vocabulary."""
    text = settings.model.text
    vocabulary = bert_vocabulary(data_root() / "bert-base-uncased" / "vocab.txt", text.vocab_size)
    return Tokenizer(vocabulary, text.max_tokens)
