"""The authors' checkpoints: read without executing anything in them, and written so that their code can load them.

ALBEF.pth, AMC's checkpoints and ALBEF's finetuned ones differ in names, in the size of the image and in what they keep
(PROTOCOL, Model). What a file may lack is `MAY_BE_ABSENT` and nothing else, and each import gives a report.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from amc_lib.config import TextSettings
from amc_lib.files import atomic_file, named_path, sha256_of, unexpected_content
from amc_lib.model import ALBEF
from amc_lib.model.albef import MOMENTUM_PAIRS
from amc_lib.model.vision import resize_positions

TEXT_TOWERS = ("text_encoder", "text_encoder_m")
TWINS = {  # tensors of each text tower that are one tensor under two names
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
MOMENTUM = tuple(f"{name}_m." for name in MOMENTUM_PAIRS)
FROZEN = (  # beginnings of the names of tensors that come with pip packages and never train
    *("trunk.", "text_trunk."),
    *(f"{tower}.bert.embeddings.decoder_weight" for tower in TEXT_TOWERS),
)
QUEUES, POINTERS = ("image_queue", "text_queue"), ("queue_ptr_img", "queue_ptr_txt")
POSITION_IDS = "bert.embeddings.position_ids"  # the numbers 0, 1, 2 ..., which older transformers saved
LEFT_OUT = (POSITION_IDS, "idx_queue")  # idx_queue: image numbers of the queue, in ALBEF's retrieval finetuning
MAY_BE_ABSENT = {  # beginnings of names that a file lacks together or not at all
    "momentum model, now a copy of the online model": MOMENTUM,
    "MLM head, which grounding does not use": tuple(f"{tower}.cls." for tower in TEXT_TOWERS),
    "contrastive space, which grounding does not use": ("vision_proj", "text_proj", "temp"),
    "queues, now as the model had them": (*QUEUES, *POINTERS),
}
ZIP = b"PK\3\4"  # how a file begins that torch.save wrote
PICKLE = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)[2:9]  # bytes 2 to 8 of one that torch before 1.6 saved
SAFETENSORS = b"\0\0\0\0{"  # bytes 4 to 8: zeros of the header's length, which is below 4 GiB, and its JSON


class CheckpointError(ValueError):
    """A weights file that is missing, damaged, or of another shape than the model."""


@dataclass(frozen=True)
class ImportReport:
    """What became of an official file; `files.plain` makes it fit for JSON."""

    source: Path
    sha256: str  # of the whole file
    loaded: int  # tensors of the file, under our names, that the model now holds
    notes: tuple[str, ...]  # names changed, tensors resized, left out or absent

    def __str__(self) -> str:
        return "\n  ".join((f"{self.source}: {self.loaded} tensors loaded (sha256 {self.sha256[:12]})", *self.notes))


def load_official(path: str | Path, model: ALBEF) -> ImportReport:
    """Copy an official checkpoint into the model; raises CheckpointError naming what does not fit.

    Position embeddings are resized to the model's image; queues of another length than the model's are left out.
    """
    theirs = read_official(path)
    tensors = {_our_name(name): tensor for name, tensor in theirs.items()}
    renamed = len(theirs.keys() - tensors.keys())
    notes = [f"{renamed} tensors renamed"] if renamed else []
    if "queue_ptr" in tensors:
        tensors |= dict.fromkeys(POINTERS, tensors.pop("queue_ptr"))
    other = {name for name in QUEUES if name in tensors and tensors[name].shape[-1:] != (model.settings.queue_size,)}
    for name in list(tensors):
        if name.endswith(LEFT_OUT) or name in other or (other and name in POINTERS):
            notes.append(f"left out: {name} {tuple(tensors.pop(name).shape)}")
    notes += _resize_positions(tensors, model.settings.vision.grid)
    required = set(untied_state(model))
    for what, prefixes in MAY_BE_ABSENT.items():
        group = {name for name in required if name.startswith(prefixes)}
        if not group & tensors.keys():
            notes.append(f"absent: {what} ({len(group)} tensors)")
            required -= group
    load_tensors(model, tensors, required, origin=path)
    for twin, name in ((f"{tower}.{twin}", f"{tower}.{TWINS[twin]}") for tower in TEXT_TOWERS for twin in TWINS):
        if twin in tensors and name in tensors and not tensors[twin].equal(tensors[name]):
            raise CheckpointError(f"{path}: {twin} differs from {name}, to which the model ties it")
    if not any(name.startswith(MOMENTUM) for name in tensors):
        model.copy_to_momentum()
    return ImportReport(Path(path), sha256_of(path), len(tensors), tuple(notes))


def untied_state(model: ALBEF, *without: str) -> dict[str, Tensor]:
    """The model's tensors by name, those tied to another once; `without` those whose names begin so."""
    state = model.state_dict().items()
    return {name: tensor for name, tensor in state if not name.endswith(tuple(TWINS)) and not name.startswith(without)}


def load_tensors(model: ALBEF, tensors: Mapping[str, Tensor], required: Collection[str], origin: object) -> None:
    """Copy tensors into the model; raises CheckpointError for any without a place of its shape or any missing."""
    try:
        missing, unexpected = model.load_state_dict(dict(tensors), strict=False)
        problems = [f"missing {name}" for name in missing if name in required]
        problems += [f"unexpected {name} {tuple(tensors[name].shape)}" for name in unexpected]
        problems += [f"{name} is not finite" for name, tensor in tensors.items() if not tensor.isfinite().all()]
    except RuntimeError as error:  # a line of its own for each tensor of another shape, below a title
        problems = [line.strip() for line in str(error).splitlines()[1:]]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{origin}: does not fit the model: {'; '.join(problems[:5])}{more}")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """The weights in a safetensors file or in what torch.save wrote, under the names they have there.

    The latter may hold them under `model`, next to anything, or be the bare state dict; torch's restricted unpickler
    executes nothing in it. Raises CheckpointError with one sentence if the file is missing, damaged or something else.
    """
    path = named_path(path)
    try:
        tensors = _content(path)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it would call {called[1]}; save its tensors alone" if called else "it was not written by torch.save"
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {reason}") from error
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {first_sentence(error)}") from error
    if isinstance(tensors, dict) and isinstance(tensors.get("model"), dict):
        tensors = tensors["model"]
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: holds something else than named tensors")
    return tensors


def _content(path: Path) -> Any:
    """What torch or safetensors makes of a weights file. Raises nearly anything for a damaged one."""
    if content := unexpected_weights(path):
        raise ValueError(f"it is {content}")
    with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):  # settings beside weights
        head = file.read(9)
        file.seek(0)
        if head.endswith(SAFETENSORS):
            return load_file(path)
        mapped = head.startswith(ZIP) and path.suffix != ".safetensors"  # an ending that torch takes at its word
        try:
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            if file.read(1):
                raise
            raise ValueError("it is cut off") from error


def unexpected_weights(path: Path) -> str | None:
    """What a weights file is where it does not hold weights, or not whole ("a web page, ..."), else None."""
    if content := unexpected_content(path):
        return content
    with path.open("rb") as file:
        head = file.read(9)
    if head.endswith(SAFETENSORS):
        try:
            with safe_open(path, "pt"):
                return None
        except SafetensorError:
            return "a safetensors file that is cut off or damaged"
    if head.startswith(ZIP):
        with zipfile.ZipFile(path) as archive:
            written = any(name.endswith("/data.pkl") for name in archive.namelist())
        return None if written else "a zip archive that torch.save did not write"
    return None if head.endswith(PICKLE) else "neither safetensors nor what torch.save writes"


def first_sentence(error: Exception) -> str:
    """What an error of another library says, without its further advice."""
    return re.split(r"\n|\. ", str(error))[0][:300] or "it is damaged or cut off"


def export_official(path: str | Path, model: ALBEF) -> Path:
    """Write the model, momentum and queues included, as the authors' code saves and loads it. Returns the path."""
    if model.trunk is not None:
        raise CheckpointError(f"{path}: the authors' code has no frozen trunk, so this model cannot be written for it")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for tower in TEXT_TOWERS:  # tied tensors once, also where .cpu() made a copy of each
        state |= {f"{tower}.{twin}": state[f"{tower}.{name}"] for twin, name in TWINS.items()}
        state[f"{tower}.{POSITION_IDS}"] = torch.arange(model.settings.text.positions)[None]
    with atomic_file(path) as file:
        torch.save({"model": state}, file)
    return Path(path)


def bert_vocabulary(path: str | Path, size: int = TextSettings.vocab_size) -> list[str]:
    """The tokens of BERT's vocab.txt (UTF-8, one a line) in the order of their ids; `size` is the model's vocab_size.

    Raises CheckpointError naming the file if it is missing, of another size, or has a token twice.
    """
    try:
        tokens = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a vocabulary: {error}") from error
    if content := unexpected_content(path):
        raise CheckpointError(f"{path}: is {content}")
    if len(tokens) != size or len(set(tokens)) != size:
        raise CheckpointError(f"{path}: has {len(set(tokens))} different tokens, the model's vocabulary {size}")
    return tokens


def _our_name(name: str) -> str:
    """The name in AMC's checkpoints: without DataParallel's prefix, the text encoder below `bert.`"""
    return re.sub(r"^(text_encoder(?:_m)?)\.(embeddings|encoder)\.", r"\1.bert.\2.", name.removeprefix("module."))


def _resize_positions(tensors: dict[str, Tensor], grid: int) -> list[str]:
    """Bring the image towers' position embeddings [1, 1 + n*n, D] to the model's grid (bicubic); a note for each."""
    notes = []
    for name in sorted(tensors.keys() & {"visual_encoder.pos_embed", "visual_encoder_m.pos_embed"}):
        old = math.isqrt(tensors[name].shape[1] - 1) if tensors[name].ndim == 3 else grid
        if old != grid and tensors[name].shape[1] == 1 + old * old:
            tensors[name] = resize_positions(tensors[name], grid)
            notes.append(f"resized: {name} {old}x{old} -> {grid}x{grid}")
    return notes
