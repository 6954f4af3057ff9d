"""The authors' checkpoints: read without executing anything in them, and written so that their code can load them.

ALBEF.pth, AMC's checkpoints and ALBEF's finetuned ones differ in names, in the size of the image and in what they keep;
PROTOCOL (Model) lists how. What a file may lack is `MAY_BE_ABSENT` and nothing else, and each import gives a report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from amc_lib.checkpoints import TIED, CheckpointError, first_few
from amc_lib.config import TextSettings
from amc_lib.files import atomic_file, sha256_of
from amc_lib.inert_pickle import PickledFile, StoredTensor
from amc_lib.model import ALBEF
from amc_lib.model.albef import MOMENTUM_PAIRS
from amc_lib.model.vision import resize_positions
from amc_lib.tokens import SPECIAL
from amc_lib.weights_check import not_finite
from amc_lib.wording import named, reason, shown

TEXT_TOWERS = ("text_encoder", "text_encoder_m")
TWINS = dict(zip(TIED, ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"), strict=True))
POSITION_IDS = "bert.embeddings.position_ids"  # the numbers 0, 1, 2 ..., which older transformers saved
MOMENTUM = tuple(f"{name}_m." for name in MOMENTUM_PAIRS)
QUEUES, POINTERS = ("image_queue", "text_queue"), ("queue_ptr_img", "queue_ptr_txt")
RENAMED = {  # beginnings of names: of DataParallel, and of finetuned models, whose text encoder has no head
    "module.": "",
    **{f"{tower}.{part}.": f"{tower}.bert.{part}." for tower in TEXT_TOWERS for part in ("embeddings", "encoder")},
}
MOST_SHARED = 8  # size of all tensors of a file, as a multiple of the file's: tied ones stand there once
LEFT_OUT = (POSITION_IDS, "idx_queue")  # idx_queue: image numbers of the queue, in ALBEF's retrieval finetuning
MAY_BE_ABSENT = {  # beginnings of names that a file lacks together or not at all -> what stands there instead
    MOMENTUM: "momentum model, now a copy of the online model",
    tuple(f"{tower}.cls." for tower in TEXT_TOWERS): "MLM head, as the model had it; grounding does not use it",
    ("vision_proj", "text_proj", "temp"): "contrastive space, as the model had it; grounding does not use it",
    (*QUEUES, *POINTERS): "queues, as the model had them",
}


@dataclass(frozen=True)
class ImportReport:
    """What became of an official file; `provenance.plain` makes it fit for JSON."""

    source: Path
    sha256: str  # of the whole file
    loaded: int  # tensors of the file, under our names, that the model now holds
    renamed: tuple[str, ...]
    resized: tuple[str, ...]
    left_out: tuple[str, ...]  # in the file and not in the model
    started_fresh: tuple[str, ...]  # in the model and not in the file

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} tensors loaded (sha256 {self.sha256[:12]})"]
        for title in ("renamed", "resized", "left_out", "started_fresh"):
            lines += [f"  {title.replace('_', ' ')}: {entry}" for entry in getattr(self, title)]
        return "\n".join(lines)


def load_official(path: str | Path, model: ALBEF) -> ImportReport:
    """Copy an official checkpoint into the model. CheckpointError, and an unchanged model, if it does not fit.

    Position embeddings are resized to the model's image. Queues of another length stay out, and pointers are then 0.
    """
    path = Path(path)
    tensors, renamed = _our_names(read_official(path), path)
    left_out = [f"{name} {tuple(tensors.pop(name).shape)}" for name in list(tensors) if name.endswith(LEFT_OUT)]
    other_queues = _remove_other_queues(tensors, model)
    resized = _resize_positions(tensors, model)
    state = model.state_dict()
    absent, started_fresh = _absent(state, tensors)
    problems = [*_misfits(state, tensors, absent), *_untied(tensors)]
    if problems:
        raise CheckpointError(f"{path}: does not fit the model: {first_few(problems)}")
    online = [name for name in tensors if not name.startswith(MOMENTUM)]
    with torch.no_grad():
        for name in online:
            state[name].copy_(tensors[name])
        model.copy_to_momentum()
        for name in tensors.keys() - set(online):
            state[name].copy_(tensors[name])
        if other_queues:
            for name in POINTERS:
                state[name].zero_()
    return ImportReport(
        source=path,
        sha256=sha256_of(path),
        loaded=len(tensors),
        renamed=tuple(renamed),
        resized=tuple(resized),
        left_out=(*left_out, *other_queues),
        started_fresh=tuple(started_fresh),
    )


def read_official(path: str | Path) -> dict[str, Tensor]:
    """The weights of a .pth (zip or older format) or .safetensors under the names they have there, mapped from it.

    A .pth may hold them under `model`, next to anything, or be the bare state dict; nothing in it is executed. Raises
    CheckpointError with one sentence if the file is missing or damaged, or holds anything but finite tensors.
    """
    path = Path(path)
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _pickled_tensors(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {reason(error)}") from error
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    if broken := not_finite(tensors):
        raise CheckpointError(f"{path}: has values that are no finite numbers: {'; '.join(broken)}")
    return tensors


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

    Raises CheckpointError naming the file if it is missing, of another size, or no vocabulary.
    """
    try:
        tokens = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a vocabulary: {reason(error)}") from error
    if len(tokens) != size:
        raise CheckpointError(f"{path}: has {len(tokens)} tokens, the model's vocabulary {size}")
    if len(set(tokens)) != size:
        raise CheckpointError(f"{path}: has a token twice: {shown(Counter(tokens).most_common(1)[0][0])}")
    missing = [token for token in SPECIAL if token not in tokens]
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}")
    return tokens


def _pickled_tensors(path: Path) -> dict[str, Tensor]:
    file = PickledFile(path)
    content = file.content
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no tensors")
    foreign = [named(f"{name!s:.50}") for name, value in content.items() if not isinstance(value, StoredTensor)]
    if foreign:
        raise CheckpointError(f"{path}: holds values that are no tensors: {first_few(foreign)}")
    if any(not isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: holds a tensor whose name is no text")
    tensors, left = {}, MOST_SHARED * path.stat().st_size
    for name, value in content.items():
        tensors[name] = file.tensor(value)
        left -= tensors[name].nbytes
        if left < 0:
            raise CheckpointError(f"{path}: holds far more tensors than numbers, which they share")
    return tensors


def _our_names(tensors: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the names of AMC's own checkpoints, and which names that changed."""
    ours: dict[str, Tensor] = {}
    changes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        for old, new in RENAMED.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                changes[f"{old}* -> {new}*"] += 1
        if name in ours:
            raise CheckpointError(f"{path}: holds {named(name)} twice")
        ours[name] = tensor
    if "queue_ptr" in ours and not ours.keys() & set(POINTERS):
        ours |= dict.fromkeys(POINTERS, ours.pop("queue_ptr"))
        changes[f"queue_ptr -> {', '.join(POINTERS)}"] += 1
    return ours, [f"{change} ({count})" for change, count in changes.items()]


def _remove_other_queues(tensors: dict[str, Tensor], model: ALBEF) -> list[str]:
    """Take queues out of `tensors`, with their pointers, if they are longer or shorter than the model's; which."""
    length = model.settings.queue_size
    present = [name for name in QUEUES if name in tensors and tensors[name].ndim == 2]
    if all(tensors[name].shape[1] == length for name in present):
        return []
    for name in POINTERS:
        tensors.pop(name, None)
    return [f"{name} {tuple(tensors.pop(name).shape)}, of which the model's has {length} columns" for name in present]


def _resize_positions(tensors: dict[str, Tensor], model: ALBEF) -> list[str]:
    """Bring the image towers' position embeddings [1, 1 + n*n, D] to the model's grid (bicubic); what was resized."""
    new, width = model.settings.vision.grid, model.settings.vision.width
    resized = []
    for name in ("visual_encoder.pos_embed", "visual_encoder_m.pos_embed"):
        shape = tuple(tensors[name].shape) if name in tensors else ()
        old = math.isqrt(shape[1] - 1) if len(shape) == 3 and shape[1] > 1 else new
        if old != new and shape == (1, 1 + old * old, width):
            tensors[name] = resize_positions(tensors[name], new)
            resized.append(f"{name} {old}x{old} -> {new}x{new}")
    return resized


def _absent(state: dict[str, Tensor], tensors: dict[str, Tensor]) -> tuple[set[str], list[str]]:
    """Names that the file may lack, with a line for each group of `MAY_BE_ABSENT` that it lacks."""
    allowed = {name for name in state if name.endswith(TIED)}
    lines = []
    for prefixes, instead in MAY_BE_ABSENT.items():
        group = {name for name in state if name.startswith(prefixes)}
        if not group & tensors.keys():
            lines.append(f"{instead} ({len(group)} tensors)")
            allowed |= group
    return allowed, lines


def _misfits(state: dict[str, Tensor], tensors: dict[str, Tensor], absent: set[str]) -> Iterator[str]:
    for name, tensor in state.items():
        if name not in tensors and name not in absent:
            yield f"missing {name} {tuple(tensor.shape)}"
    for name, tensor in tensors.items():
        if name not in state:
            yield f"unexpected {name} {tuple(tensor.shape)}"
        elif tensor.shape != state[name].shape:
            yield f"{name} is {tuple(tensor.shape)}, the model has {tuple(state[name].shape)}"
        elif tensor.is_floating_point() != state[name].is_floating_point():
            yield f"{name} is {tensor.dtype}, the model has {state[name].dtype}"


def _untied(tensors: dict[str, Tensor]) -> Iterator[str]:
    for tower in TEXT_TOWERS:
        for twin, name in ((f"{tower}.{twin}", f"{tower}.{name}") for twin, name in TWINS.items()):
            if twin in tensors and name in tensors and not tensors[twin].equal(tensors[name]):
                yield f"{twin} differs from {name}, to which the model ties it"
