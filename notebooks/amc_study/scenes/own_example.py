"""An example of own data: a table and pictures of drawn scenes that no split of the study holds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from amc_lib.config import SceneSettings
from amc_lib.datasets.own_table import COLUMNS
from amc_lib.files import write_bytes, write_csv
from amc_study import runs
from amc_study.scenes import scene as scenes

SEED, SPLIT = 1, "phrases"  # of the drawn scenes; the study's own seed is 0
IMAGES = 160
TABLE = "boxes.csv"


def example_table(settings: SceneSettings, folder: Path | None = None, images: int = IMAGES) -> Path:
    """The table in `folder` (by default under runs/), drawn now if it is not there yet.

    What is there stays: it may be edited, as a pattern for a table of one's own.
    """
    folder = runs.RUNS / "own-example" if folder is None else folder
    table = folder / TABLE
    if not table.is_file():
        own = replace(settings, seed=settings.seed + SEED, phrases=images)
        rows = []
        for index in tqdm(range(images), desc="drawing an example", unit="picture"):
            scene, name = scenes.draw(own, SPLIT, index), f"images/scene-{index:03}.png"
            scene.image.save(buffer := io.BytesIO(), format="png")
            write_bytes(folder / name, buffer.getvalue())
            rows += [(name, region.phrase, *box) for region in scene.regions for box in region.boxes]
        write_csv(table, pd.DataFrame(rows, columns=list(COLUMNS)))
    return table
