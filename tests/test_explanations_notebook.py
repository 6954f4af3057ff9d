"""10_explanations.ipynb, executed by papermill on tiny models of either tier: it writes what the library gives."""

from __future__ import annotations

import json
from pathlib import Path

import mini_paper
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from test_runs import TINY

from amc_lib import checkpoints, presets
from amc_lib.checkpoints import load_checkpoint, paper_tokenizer, save_checkpoint
from amc_lib.model import ALBEF
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_study import tiers
from amc_study.comparison import answer
from amc_study.explain.claims import CLAIMS, NOT_TESTABLE
from amc_study.explain.faithfulness import CURVES, FILLS, ORDERS
from amc_study.explain.heatmap_quality import measure
from amc_study.explain.randomisation import of_first_pictures, randomise
from amc_study.explain.retrieval import Captioned, retrieve
from amc_study.scenes import cache
from amc_study.scenes.language import vocabulary
from amc_study.statistics import mcnemar, paired_difference

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "10_explanations.ipynb"
STARTUP = """
import pathlib as _pathlib, sys as _sys
_sys.path.insert(0, {tests!r})
import test_explanations_notebook as _here
_here.install(_pathlib.Path({root!r}))
"""
SYSTEMS = {"ALBEF": "albef-scenes", "ALBEF finetuned": "albef-finetuned-scenes", "AMC": "amc-scenes"}
PICTURES = 3
START_SECONDS = 600  # for a kernel on cores that others keep busy
FIGURES = ("explanation_quality", "difficulty", "faithfulness_curves", "randomisation", "retrieval", "misses", "claims")


def install(root: Path, put=setattr) -> None:
    """The scenes tier tiny, its checkpoints and figures under `root`; `put(target, name, value)` sets an attribute."""
    from amc_study.figures import style

    put(presets, "_PRESETS", presets._PRESETS | {"scenes": lambda: TINY})
    put(cache, "CACHE", root / "cache")
    put(checkpoints, "SHIPPED", root / "shipped")
    put(style, "FOLDER", root / "figures")


def execute(root: Path, startup: str, **parameters: object) -> None:
    """Run the notebook in a kernel that reads `startup` first."""
    file = root / "ipython" / "profile_default" / "startup" / "00-tiny.py"
    file.parent.mkdir(parents=True)
    file.write_text(startup)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(root / "ipython"))
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        where = {"cwd": ROOT, "progress_bar": False, "start_timeout": START_SECONDS}
        papermill.execute_notebook(NOTEBOOK, root / "out.ipynb", parameters, **where)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The notebook executed on three untrained checkpoints, and what the library itself says of them at hand."""
    root = tmp_path_factory.mktemp("explanations")
    tokenizer = Tokenizer(word_vocabulary(vocabulary()), TINY.model.text.max_tokens)
    for seed, name in enumerate(SYSTEMS.values()):
        torch.manual_seed(seed)
        save_checkpoint(root / "shipped" / name, ALBEF(TINY.model), tokenizer, TINY, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORKERS", 1)
        install(root, patch.setattr)
        banks = tiers.evaluation_splits(TINY)
        tiers.validation_split(TINY)
        assert len(banks) == 3
        execute(root, STARTUP.format(tests=str(ROOT / "tests"), root=str(root)), pictures=PICTURES)
        yield root


@pytest.fixture(scope="module")
def answers(root) -> dict:
    banks, validation = tiers.evaluation_splits(TINY), tiers.validation_split(TINY)
    return {system: answer(name, banks, validation) for system, name in SYSTEMS.items()}


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "figures" / f"{name}.csv")


def test_every_table_and_picture_has_its_provenance(root):
    hashes = {system: [load_checkpoint(name).sha256[:12]] for system, name in SYSTEMS.items()}
    for name in (*FIGURES, "faithfulness"):
        record = json.loads((root / "figures" / f"{name}.json").read_text(encoding="utf-8"))
        assert record["checkpoints"] == hashes and record["pictures"] == PICTURES
        assert len(table(root, name)) > 0
    assert all((root / "figures" / f"{name}.png").stat().st_size > 5_000 for name in FIGURES)
    written = {path.stem for path in (root / "figures").iterdir()}
    assert written == {*FIGURES, "faithfulness"}


def test_quality_is_that_of_the_answers(root, answers):
    bank = tiers.evaluation_splits(TINY)["phrases"]
    quality = table(root, "explanation_quality").set_index(["system", "measure"])
    assert set(quality.index.get_level_values("system")) == {*SYSTEMS, "chance"}
    for system, one in answers.items():
        found = measure(one.pointing["phrases"], bank)
        assert quality.loc[(system, "energy"), "value"] == pytest.approx(100 * found.energy.mean(), abs=0.01)
        assert quality.loc[(system, "IoU, best"), "value"] == pytest.approx(100 * found.ious.max(1).mean(), abs=0.01)


def test_difficulty_and_misses_add_up(root, answers):
    difficulty, misses = table(root, "difficulty"), table(root, "misses")
    for system, one in answers.items():
        pointing = one.pointing["phrases"]
        single = [region.kind == "object" for region in pointing.regions]
        for _, part in difficulty[difficulty["system"] == system].groupby("by"):
            mean = np.average(part["accuracy"], weights=part["phrases"])
            assert mean == pytest.approx(100 * pointing.hits[single].mean(), abs=0.02)
        right = misses[(misses["system"] == system) & (misses["point_on"] == "right")]["share"].item()
        assert right == pytest.approx(100 * pointing.hits.mean(), abs=0.01)


def test_faithfulness_has_every_curve(root):
    areas, curves = table(root, "faithfulness"), table(root, "faithfulness_curves")
    whole = areas[areas["where"] == "all"]
    assert len(whole) == len(FILLS) * len(SYSTEMS) * len(CURVES) * len(ORDERS)
    assert set(whole["answers"]) == {PICTURES} and whole["area"].between(0, 1).all()
    assert (whole[whole["order"] == "random"]["gain"] == 0).all()
    ends = curves[curves["share"].isin([0, 1])].pivot_table(
        index=["fill", "system", "order"], columns=["curve", "share"], values="probability"
    )
    np.testing.assert_allclose(ends["deletion"][0.0], ends["insertion"][1.0])
    np.testing.assert_allclose(ends["deletion"][1.0], ends["insertion"][0.0])


def test_randomisation_is_that_of_the_model(root, answers):
    bank = tiers.evaluation_splits(TINY)["phrases"]
    asked = of_first_pictures(bank.all_regions(), PICTURES)
    checkpoint = load_checkpoint(SYSTEMS["AMC"])
    found = randomise(checkpoint, answers["AMC"].layer, asked, bank, draws=2)
    rows = table(root, "randomisation").query("system == 'AMC'").set_index("stage")
    assert rows.index.tolist()[1:] == list(found.correlations)
    for stage, values in found.correlations.items():
        assert rows.loc[stage, "correlation"] == pytest.approx(np.nanmean(values), abs=1e-3)
    assert set(rows["phrases"]) == {len(asked)}


def test_claims_are_those_of_the_hits(root, answers):
    claims = table(root, "claims").set_index("claim")
    assert len(claims) == len(CLAIMS)
    amc, albef = (answers[system].pointing["referring_b"] for system in ("AMC", "ALBEF"))
    row = claims.loc["AMC is better than ALBEF: referring B"]
    expected = paired_difference(amc.hits, albef.hits, [region.image_id for region in amc.regions])
    assert (row.difference, row.ci_low) == (round(expected.value, 2), round(expected.low, 2))
    assert row.only_first == mcnemar(amc.hits, albef.hits).only_first
    of_vmrm = claims.index.str.contains("VMRM")
    assert (claims[of_vmrm]["verdict"] == NOT_TESTABLE).all()
    assert (claims[~of_vmrm]["verdict"] != NOT_TESTABLE).all()


def test_retrieval_is_that_of_the_model(root):
    bank = tiers.evaluation_splits(TINY)["phrases"]
    pairs = Captioned.of(bank)
    found = retrieve(load_checkpoint(SYSTEMS["AMC"]), pairs)
    rows = table(root, "retrieval").query("system == 'AMC'").set_index(["task", "score", "measure"])["value"]
    for task, score in found.ranks:
        assert rows[task, score, "recall@5"] == pytest.approx(100 * found.recall(task, score, 5).mean(), abs=0.01)
    assert rows["right or similar caption", "match", "choice"] == pytest.approx(100 * found.choice("similar").mean())


@pytest.mark.slow
def test_paper_tier_measures_what_it_can(tmp_path):
    mini_paper.write(tmp_path)
    startup = "import pathlib, sys\nsys.path.insert(0, {tests!r})\nimport mini_paper\n"
    startup += "mini_paper.install(pathlib.Path({root!r}))\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_DATA", str(tmp_path))
        settings = mini_paper.settings(tmp_path)
        for seed, name in enumerate(("albef-finetuned", "amc")):
            torch.manual_seed(seed)
            home = tmp_path / "runs" / "paper" / "seed-0" / name
            save_checkpoint(home, ALBEF(settings.model), paper_tokenizer(settings), settings, {})
        home = str(tmp_path / "runs" / "paper")
        execute(
            tmp_path, startup.format(tests=str(ROOT / "tests"), root=str(tmp_path)), tier="paper", runs=home, pictures=3
        )
    folder = tmp_path / "figures" / "paper"
    written = {path.stem for path in folder.glob("*.csv")}
    assert written == {*FIGURES, "faithfulness"} - {"retrieval"}
    claims = pd.read_csv(folder / "claims.csv").set_index("claim")
    assert claims.loc["AMC is better than ALBEF: referring A", "items"] == 9
    kept = claims.index.str.contains("stays as good")
    assert (claims[kept]["verdict"] == NOT_TESTABLE).all()
    assert pd.read_csv(folder / "explanation_quality.csv")["value"].between(0, 100).all()
