"""The paper tier at a tiny size: data in their own formats, an official checkpoint, and settings of a tiny ALBEF.

`write` makes a data root; `install` points the library at it, in a test's own process, a kernel or a launch alike.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from paper_data import write_paper_data

from amc_lib import presets
from amc_lib.config import ModelSettings, Settings, TextSettings, TrainingSettings, VisionSettings
from amc_lib.model import ALBEF
from amc_lib.official import export_official
from amc_lib.presets import preset
from amc_study import answers, run_folder, runs
from amc_study.figures import style
from amc_study.photos import pairs
from amc_study.rival import proposal_file

PAPER = preset("paper")
LAYER = 2  # of the tiny text encoder: the first fusion layer


def write(root: Path) -> None:
    write_paper_data(root)
    torch.manual_seed(0)
    export_official(root / "checkpoints" / "ALBEF.pth", ALBEF(settings(root).model))


def settings(root: Path) -> Settings:
    words = (root / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    training = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-3, warmup_steps=2)
    return replace(
        PAPER,
        model=ModelSettings(
            vision=VisionSettings(image_size=32, patch_size=8, width=24, depth=1, heads=2),
            text=TextSettings(
                vocab_size=len(words), width=24, layers=4, fusion_from=LAYER, heads=2, ffn_width=32, positions=64
            ),
            embed_dim=8,
            queue_size=16,
        ),
        amc=replace(PAPER.amc, layer=LAYER, map_size=32),
        pretraining=training,
        finetuning=training,
        photos=replace(PAPER.photos, refer_image_size=48),
    )


def install(root: Path, put=setattr) -> None:
    """`put(target, name, value)` sets an attribute; pytest's `monkeypatch.setattr` undoes it later."""
    os.environ["AMC_DATA"] = str(root)
    put(presets, "_PRESETS", presets._PRESETS | {"paper": lambda: settings(root)})
    put(pairs, "CACHE", root / "cache")
    put(proposal_file, "CACHE", root / "cache")
    put(answers, "ANSWERS", root / "runs" / "answers")
    put(runs, "RUNS", root / "runs")
    put(run_folder, "RUNS", root / "runs")  # before `-m amc_study.answers` or `.order` reads it
    put(style, "FOLDER", root / "figures")
