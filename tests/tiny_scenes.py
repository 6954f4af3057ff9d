"""The scenes tier made tiny, with its checkpoints and caches in a folder, and notebooks executed on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbformat
import torch

from amc_lib import checkpoints, presets
from amc_lib.checkpoints import save_checkpoint
from amc_lib.config import SceneSettings, Settings, TrainingSettings
from amc_lib.files import ROOT
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_study import runs
from amc_study.rival import detector_runs
from amc_study.scenes import cache
from amc_study.scenes.language import vocabulary

SCENES = preset("scenes")
TRAINING = TrainingSettings(
    epochs=1, batch_size=16, learning_rate=2e-3, warmup_learning_rate=1e-4, warmup_steps=2, cosine_by="step"
)
VISION = replace(SCENES.model.vision, image_size=64, width=32, depth=1, heads=2)
TEXT = replace(SCENES.model.text, width=32, layers=3, fusion_from=1, heads=2, ffn_width=64)
TINY = replace(
    SCENES,
    model=replace(SCENES.model, vision=VISION, text=TEXT, embed_dim=16, queue_size=32),
    amc=replace(SCENES.amc, layer=2, map_size=16),
    pretraining=TRAINING,
    finetuning=TRAINING,
    scenes=SceneSettings(
        size=96, train_objects=(6, 9), pretrain=64, train=64, val=8, phrases=8, referring_a=8, referring_b=8
    ),
)
LOSSES = ["mlm", "itc", "itm", "amc", "total"]


def with_training(**values: object) -> Settings:
    changed = replace(TRAINING, **values)
    return replace(TINY, pretraining=changed, finetuning=changed)


def keep_in(root: Path, put=setattr) -> None:
    """Scenes are drawn and runs are kept below `root`, without processes; `put(target, name, value)` sets that."""
    put(cache, "CACHE", root / "cache")
    put(cache, "WORKERS", 1)
    put(runs, "RUNS", root / "runs")
    put(detector_runs, "RUNS", root / "runs")


def install(root: Path, put=setattr) -> None:
    """The tiny tier in this process, with what it ships below `root` too."""
    keep_in(root, put)
    put(presets, "_PRESETS", presets._PRESETS | {"scenes": lambda: TINY})
    put(checkpoints, "SHIPPED", root / "shipped")


def untrained(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of the tiny tier with random weights."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(word_vocabulary(vocabulary()), TINY.model.text.max_tokens)
    return save_checkpoint(folder, ALBEF(TINY.model), tokenizer, TINY, {})


def ship(root: Path, *names: str) -> None:
    """Untrained checkpoints, each of other weights, under the names of shipped ones."""
    for seed, name in enumerate(names):
        untrained(root / "shipped" / name, seed)


def code_cells(notebook: str) -> list[str]:
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def run_notebook(notebook: str, times: int = 1, **parameters: object) -> dict[str, object]:
    """What a notebook's cells leave in its namespace, run in this process; `parameters` replace the first cell."""
    names: dict[str, object] = {"display": lambda *_: None}
    first, *cells = code_cells(notebook)
    for source in [first, *cells] * times:
        exec(source, names)
        names |= parameters if source == first else {}
    return names
