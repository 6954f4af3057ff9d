"""10_explanations on tiny models of either tier: it writes what the library gives."""

from __future__ import annotations

import json
from pathlib import Path

import mini_paper
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_scenes import TINY, install, run_notebook, ship

from amc_lib.checkpoints import load_checkpoint, paper_tokenizer, save_checkpoint
from amc_lib.model import ALBEF
from amc_study.comparison import answer
from amc_study.explain.claims import KEPT, NOT_TESTABLE
from amc_study.explain.heatmap_quality import measure
from amc_study.tiers import tier_of

SYSTEMS = {"ALBEF": "albef-scenes", "ALBEF finetuned": "albef-finetuned-scenes", "AMC": "amc-scenes"}
PICTURES = 2
FIGURES = ("explanation_quality", "difficulty", "faithfulness_curves", "randomisation", "retrieval", "misses", "kept")
TABLES = ("faithfulness", "word_deletion", "randomisation_independent")  # without a picture


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The notebook run on three untrained checkpoints, and the tiny tier in this process."""
    root = tmp_path_factory.mktemp("explanations")
    with pytest.MonkeyPatch.context() as patch:
        install(root, patch.setattr)
        ship(root, *SYSTEMS.values())
        run_notebook("10_explanations", pictures=PICTURES, figures=str(root / "figures"))
        yield root


@pytest.fixture(scope="module")
def answers(root) -> dict:
    splits, validation = tier_of(TINY).evaluation_splits(), tier_of(TINY).validation_split()
    return {system: answer(load_checkpoint(name), splits, validation) for system, name in SYSTEMS.items()}


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "figures" / f"{name}.csv")


def test_every_table_and_picture_has_its_provenance(root):
    hashes = {system: [load_checkpoint(name).sha256[:12]] for system, name in SYSTEMS.items()}
    for name in (*FIGURES, *TABLES):
        record = json.loads((root / "figures" / f"{name}.json").read_text(encoding="utf-8"))
        assert record["checkpoints"] == hashes and record["pictures"] == PICTURES
        assert len(table(root, name)) > 0
    assert all((root / "figures" / f"{name}.png").stat().st_size > 5_000 for name in FIGURES)


def test_measures_are_those_of_the_answers(root, answers):
    split = tier_of(TINY).evaluation_splits()["phrases"]
    quality = table(root, "explanation_quality").set_index(["system", "measure"])["value"]
    difficulty, misses = table(root, "difficulty"), table(root, "misses")
    for system, one in answers.items():
        pointing = one.pointing["phrases"]
        found = measure(pointing, split)
        assert quality[system, "energy"] == pytest.approx(100 * found.energy.mean(), abs=0.01)
        assert quality[system, "IoU, best"] == pytest.approx(100 * found.ious.max(1).mean(), abs=0.01)
        single = [region.kind == "object" for region in pointing.regions]
        for _, part in difficulty[difficulty["system"] == system].groupby("by"):
            mean = np.average(part["accuracy"], weights=part["phrases"])
            assert mean == pytest.approx(100 * pointing.hits[single].mean(), abs=0.02)
        right = misses[(misses["system"] == system) & (misses["point_on"] == "right")]["share"].item()
        assert right == pytest.approx(100 * pointing.hits.mean(), abs=0.01)


def test_what_is_kept_is_that_of_the_retrieval(root):
    kept, values = table(root, "kept").set_index("claim"), table(root, "retrieval")
    values = values[values["score"] == "match"].set_index(["system", "task", "measure"])["value"]
    found = [values[system, "picture to caption", "recall@10"] for system in ("AMC", "ALBEF finetuned")]
    row = kept.loc["AMC stays as good as ALBEF finetuned: recall@10 of captions"]
    assert row.difference == pytest.approx(found[0] - found[1], abs=0.02)
    assert len(kept) == len(KEPT) and (kept["verdict"] != NOT_TESTABLE).all()


@pytest.mark.slow
def test_paper_tier_measures_what_it_can(tmp_path, monkeypatch):
    mini_paper.write(tmp_path)
    mini_paper.install(tmp_path, monkeypatch.setattr)
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    settings = mini_paper.settings(tmp_path)
    for seed, name in enumerate(("albef-finetuned", "amc")):
        torch.manual_seed(seed)
        home = tmp_path / "runs" / "paper" / "seed-0" / name
        save_checkpoint(home, ALBEF(settings.model), paper_tokenizer(settings), settings, {})
    folders = {"runs": str(tmp_path / "runs" / "paper"), "figures": str(tmp_path / "figures")}
    run_notebook("10_explanations", tier="paper", pictures=3, **folders)
    folder = tmp_path / "figures" / "paper"
    assert {path.stem for path in folder.glob("*.csv")} == {*FIGURES, *TABLES} - {"retrieval"}
    assert (pd.read_csv(folder / "kept.csv")["verdict"] == NOT_TESTABLE).all() and not (folder / "kept.png").exists()
