"""An example of own data: a table and pictures of drawn scenes that no split of the study holds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from amc_lib.config import SceneSettings
from amc_lib.datasets import scenes
from amc_lib.datasets.own_csv import COLUMNS
from amc_lib.files import write_bytes, write_csv
from amc_lib.runs import RUNS

FOLDER = RUNS / "own-example"
SEED, SPLIT = 1, "phrases"  # of the drawn scenes; the study's own seed is 0
IMAGES = 160
EDITABLE = "boxes.csv"


def example_table(settings: SceneSettings, folder: Path = FOLDER, images: int = IMAGES) -> Path:
    """The table in `folder`, drawn now if it is not there yet: edit it, or take it as a pattern for your own."""
    table = folder / EDITABLE
    if not table.is_file():
        own = replace(settings, seed=settings.seed + SEED)
        rows = []
        for index in tqdm(range(images), desc="drawing an example", unit="picture"):
            scene, name = scenes.draw(own, SPLIT, index), f"images/scene-{index:03}.png"
            scene.image.save(buffer := io.BytesIO(), format="png")
            write_bytes(folder / name, buffer.getvalue())
            rows += [(name, region.phrase, *box) for region in scene.regions for box in region.boxes]
        write_csv(table, pd.DataFrame(rows, columns=list(COLUMNS)))
    return table
