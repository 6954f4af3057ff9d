"""The scenes tier made tiny, with its checkpoints and caches in a folder, and notebooks executed on it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import torch
from test_runs import TINY

from amc_lib import checkpoints, presets
from amc_lib.checkpoints import save_checkpoint
from amc_lib.model import ALBEF
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_study import runs
from amc_study.scenes import cache
from amc_study.scenes.language import vocabulary

ROOT = Path(__file__).resolve().parents[1]


def install(root: Path, put=setattr) -> None:
    """The tiny tier in this process; `put(target, name, value)` sets an attribute."""
    put(presets, "_PRESETS", presets._PRESETS | {"scenes": lambda: TINY})
    put(cache, "CACHE", root / "cache")
    put(cache, "WORKERS", 1)
    put(checkpoints, "SHIPPED", root / "shipped")
    put(runs, "RUNS", root / "runs")


def ship(root: Path, *names: str) -> None:
    """Untrained checkpoints, each of other weights, under the names of shipped ones."""
    tokenizer = Tokenizer(word_vocabulary(vocabulary()), TINY.model.text.max_tokens)
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        save_checkpoint(root / "shipped" / name, ALBEF(TINY.model), tokenizer, TINY, {})


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
