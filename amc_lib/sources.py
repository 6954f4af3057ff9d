"""A checkpoint from wherever it comes: a run's folder, a shipped one by name, or one of the authors' own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amc_lib.checkpoints import Checkpoint, CheckpointError, description, load_checkpoint
from amc_lib.config import ModelSettings, Settings
from amc_lib.datasets.photos import data_root
from amc_lib.files import sha256_of
from amc_lib.model import ALBEF
from amc_lib.official import bert_vocabulary, load_official
from amc_lib.presets import preset
from amc_lib.tokens import Tokenizer

OFFICIAL = (".pth", ".pt")
WEIGHTS = "checkpoints/ALBEF.pth"  # below the data root: where finetuning of the paper tier starts
VOCABULARY = "bert-base-uncased/vocab.txt"


def open_checkpoint(source: str | Path, model_class: Callable[[ModelSettings], ALBEF] = ALBEF) -> Checkpoint:
    """Load a checkpoint; an official file becomes a model of the paper tier's settings.

    Raises CheckpointError with one sentence if it is missing, damaged, or does not fit; `about["imported"]` of an
    official file says what it held.
    """
    if not is_official(source):
        return load_checkpoint(source, model_class)
    settings = preset("paper")
    tokenizer = paper_tokenizer(settings)
    model = ALBEF(settings.model)
    report = load_official(source, model)
    return Checkpoint(model, tokenizer, settings, {"imported": report}, report.sha256)


def weights_hash(source: str | Path) -> str:
    """The sha256 that `open_checkpoint` would give, without loading."""
    if not is_official(source):
        return description(source)["sha256"]
    try:
        return sha256_of(source)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read: {error.strerror}") from error


def is_official(source: str | Path) -> bool:
    return Path(source).suffix in OFFICIAL


def official_albef() -> Path:
    return data_root() / WEIGHTS


def paper_tokenizer(settings: Settings) -> Tokenizer:
    """BERT's WordPiece tokens (uncased), of the downloaded vocabulary."""
    text = settings.model.text
    return Tokenizer(bert_vocabulary(data_root() / VOCABULARY, text.vocab_size), text.max_tokens)
