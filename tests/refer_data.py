"""RefCOCO+ of one picture in its own files: two refs, of testA and of train."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pandas as pd
from PIL import Image

from amc_lib.datasets import refer
from amc_lib.files import ROOT

NAME = "COCO_train2014_000000000042"
SENTENCES = [{"sent_id": 1, "sent": "man in red", "raw": "Man in red!"}, {"sent_id": 2, "sent": "tall man"}]
FIRST = {"ref_id": 5, "ann_id": 11, "image_id": 42, "split": "testA", "file_name": f"{NAME}_0.jpg"}
SECOND = {"ref_id": 6, "ann_id": 12, "image_id": 42, "split": "train", "file_name": f"{NAME}_1.jpg"}
REFS = [FIRST | {"sentences": SENTENCES}, SECOND | {"sentences": [{"sent_id": 3, "sent": "dog"}]}]
INSTANCES = {"annotations": [{"id": 11, "bbox": [1.5, 2, 10, 20]}, {"id": 12, "bbox": [0, 0, 5, 5]}]}
UNITS = [(0.01, "shares of the sides (0 to 1)"), (1, "percent of the sides (0 to 100)")]


def written(root: Path) -> Path:
    """The data set below `root`, which is given back."""
    (folder := root / "refcoco+").mkdir()
    (folder / "refs(unc).p").write_bytes(pickle.dumps(REFS, protocol=2))
    (folder / "instances.json").write_text(json.dumps(INSTANCES), encoding="utf-8")
    (images := root / refer.IMAGE_FOLDERS["refcoco+"]).mkdir(parents=True)
    Image.new("L", (60, 50)).save(images / f"{NAME}.jpg")
    return root


def write_refs(root: Path, refs: object) -> None:
    (root / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(refs))


def write_parquet(root: Path, rows: list[dict], name: str = "testA-00000-of-00001.parquet") -> Path:
    """A parquet file in place of the refs."""
    (root / "refcoco+" / "refs(unc).p").unlink(missing_ok=True)
    (path := root / "refcoco+" / name).parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


def parquet_row(**changes: object) -> dict:
    picture = (ROOT / "data" / "photographs" / "cat.jpg").read_bytes()  # 451 x 300
    row = {"question_id": "7", "image": {"bytes": picture, "path": None}, "file_name": f"{NAME}_0.jpg"}
    return row | {"answer": ["man in red", "tall man"], "bbox": [1.5, 2.0, 10.0, 20.0]} | changes
