"""Ablations: a grid that holds together, records of what was hit, tables by hand, and runs that are not repeated."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_explanations_notebook import install
from test_runs import TINY

from amc_lib.checkpoints import save_checkpoint
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_study import runs, tiers
from amc_study.ablations import (
    Ablation,
    Experiment,
    Variant,
    ablation_table,
    ablations,
    chosen,
    experiments,
    overview,
    rank_agreement,
    read_records,
    run_grid,
)
from amc_study.ablations.experiments import experiment
from amc_study.ablations.records import Record, _pack, _unpack, phrases_hash
from amc_study.ablations.worker import finished_run, notebook_parameters
from amc_study.runs import finetune
from amc_study.scenes import cache
from amc_study.scenes.language import vocabulary
from amc_study.statistics import paired_difference

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "05_ablations.ipynb"
TIERS = pytest.mark.parametrize("tier", ["scenes", "paper"])
STARTUP = """
import pathlib as _pathlib, sys as _sys
_sys.path[:0] = [{tests!r}, {root!r}]
import amc_study.runs as _runs
_runs.RUNS = _pathlib.Path({home!r}) / "runs"
import test_explanations_notebook as _tiny
_tiny.install(_pathlib.Path({home!r}))
"""
SHIPPED_RUN = "albef-scenes"


def refused(message: str, kind: type[Exception] = ValueError):
    return pytest.raises(kind, match=re.escape(message))


def install_here(home: Path, put) -> None:
    """The tiny scenes tier with folders under `home`, for this process."""
    install(home, put)
    put(runs, "RUNS", home / "runs")
    put(cache, "WORKERS", 1)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An untrained checkpoint to start from, drawn scenes, and the start-up file of other processes."""
    home = tmp_path_factory.mktemp("ablations")
    with pytest.MonkeyPatch.context() as patch:
        install_here(home, patch.setattr)
        torch.manual_seed(0)
        tokenizer = Tokenizer(word_vocabulary(vocabulary()), TINY.model.text.max_tokens)
        save_checkpoint(home / "shipped" / SHIPPED_RUN, ALBEF(TINY.model), tokenizer, TINY, {})
        tiers.validation_split(TINY)
        tiers.training_pairs(TINY, "finetuning")
        tiers.evaluation_splits(TINY)
    (home / "site").mkdir()
    startup = STARTUP.format(tests=str(ROOT / "tests"), root=str(ROOT), home=str(home))
    (home / "site" / "sitecustomize.py").write_text(startup)
    return home


@pytest.fixture
def tiny(home, monkeypatch) -> Path:
    """The tiny tier in this process and in those that it starts."""
    install_here(home, monkeypatch.setattr)
    monkeypatch.setenv("PYTHONPATH", str(home / "site"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    return home


# --------------------------------------------------------------------------------------------------------------- grid


@TIERS
def test_grid_compares_with_a_setting_of_its_own_and_names_no_setting_twice(tier):
    names = [ablation.name for ablation in ablations(tier)]
    assert len(set(names)) == len(names)
    for ablation in ablations(tier):
        labels = [variant.label for variant in ablation.variants]
        assert len(set(labels)) == len(labels) and ablation.against in labels, ablation.name


@TIERS
def test_setting_that_others_are_compared_with_changes_nothing(tier):
    for ablation in ablations(tier):
        (against,) = (variant for variant in ablation.variants if variant.label == ablation.against)
        settings = preset(tier)
        for name, value in against.changes.items():
            homes = (settings.amc, settings.objective, settings.boxes)
            kept = next(getattr(part, name) for part in homes if hasattr(part, name))
            assert kept == value or (tier, name) == ("paper", "alpha"), (ablation.name, name)


def test_first_three_have_five_seeds_and_the_others_three():
    seeds = [ablation.seeds for ablation in ablations("scenes")]
    assert seeds[:3] == [5, 5, 5] and set(seeds[3:]) == {3}


def test_each_run_is_made_once_and_seeds_come_one_after_the_other():
    found = experiments(ablations("scenes"), "scenes")
    assert len({one.key for one in found}) == len(found)
    of_seed = [one.parameters["seed"] for one in found]
    assert of_seed == sorted(of_seed) and set(of_seed) == {0, 1, 2, 3, 4}
    by_hand = {(*sorted(v.changes.items()), v.read, v.light) for a in ablations("scenes") for v in a.variants}
    assert of_seed.count(0) < len(by_hand)  # the default has many names


def test_default_under_another_name_is_the_same_run(monkeypatch):
    plain, said = ({"tier": "scenes", "seed": 0} | more for more in ({}, {"layer": 3, "box_share": 1.0}))
    assert Experiment(plain).key == Experiment(said).key
    assert Experiment(plain).key != Experiment(plain, "attention").key
    assert Experiment(plain).training_key == Experiment(plain, "attention").training_key
    assert Experiment(plain).key != Experiment(plain | {"layer": 4}).key


def test_light_schedule_is_a_third(monkeypatch):
    light, full = experiments(chosen("schedule", "scenes"), "scenes", 1)[0::4]
    assert light.settings.finetuning.epochs * 3 == full.settings.finetuning.epochs == 3


def test_names_choose_and_unknown_ones_are_refused():
    assert [a.name for a in chosen("margins terms", "scenes")] == ["terms", "margins"]
    with refused("unknown ablation 'term'; did you mean 'terms'?"):
        chosen("term", "scenes")


def test_parameters_that_03_does_not_have_go_into_more():
    given = {"tier": "scenes", "seed": 2, "lambda1": 0.5, "box_share": 0.1, "layer": 4}
    parameters = notebook_parameters(Experiment(given), Path("out"))
    more = json.loads(parameters.pop("more"))
    assert more == {"box_share": 0.1, "layer": 4}
    assert parameters == {"tier": "scenes", "seed": 2, "lambda1": 0.5, "output": "out"}


# ------------------------------------------------------------------------------------------------------------ records


@given(st.lists(st.booleans(), max_size=70))
def test_hits_survive_packing(hits):
    assert _unpack(_pack(np.array(hits, dtype=bool)), len(hits)).tolist() == hits


@pytest.mark.parametrize("count", [0, 17, 8])
def test_bits_must_fit_their_count(count):
    with refused("16 bits for"):
        _unpack(_pack(np.ones(9, dtype=bool)), count)


@pytest.mark.parametrize("content", ["{", "[]", '{"key": "a"}', '{"key": "b", "layer": 1, "splits": {}}'])
def test_file_that_is_no_record_is_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with refused(str(tmp_path / "a.json")):
        read_records(tmp_path, {})


# ------------------------------------------------------------------------------------------------------------- tables


def a_record(key: str, hits: np.ndarray, splits) -> Record:
    return Record(key, 1, {split: hits[: len(bank.all_regions())] for split, bank in splits.items()}, {})


@pytest.fixture
def banks(tiny):
    return tiers.evaluation_splits(TINY)


PAIR = Ablation("pair", "?", (Variant("low", {"layer": 1}), Variant("high")), "high", seeds=3)


def test_table_has_accuracies_and_paired_differences_over_common_seeds(banks):
    rng = np.random.default_rng(0)
    most = max(len(bank.all_regions()) for bank in banks.values())
    drawn = {(label, seed): rng.random(most) < (0.3 if label == "low" else 0.7)
             for label in ("low", "high") for seed in range(3)}  # fmt: skip
    records = {}
    for variant in PAIR.variants:
        for seed in range(3 if variant.label == "high" else 2):  # the last seed of one setting is missing
            key = Experiment({"tier": "scenes", "seed": seed, "epochs": 1, **variant.changes}).key
            records[key] = a_record(key, drawn[variant.label, seed], banks)
    table = ablation_table(PAIR, records, banks, "scenes")
    bank = banks["phrases"]
    row = table[(table["setting"] == "low") & (table["split"] == bank.title) & (table["concepts"] == "all")].iloc[0]
    n = len(bank.all_regions())
    low, high = (np.stack([drawn[label, seed][:n] for seed in range(2)]) for label in ("low", "high"))
    assert row["accuracy"] == pytest.approx(100 * low.mean(), abs=0.01)
    assert row["difference"] == pytest.approx(100 * (low.mean() - high.mean()), abs=0.01)
    found = paired_difference(low, high, [region.image_id for region in bank.all_regions()])
    assert row["p"] == pytest.approx(found.p, abs=1e-4)  # one comparison in the group: nothing to correct
    assert (row["seeds"], row["phrases"], row["system"]) == (2, n, "AMC")
    assert table[table["setting"] == "high"]["difference"].isna().all()
    assert set(table[table["setting"] == "high"]["seeds"]) == {3}
    assert ablation_table(PAIR, {}, banks, "scenes").empty


def test_p_is_corrected_over_the_settings_of_a_panel(banks):
    ablation = dataclasses.replace(PAIR, variants=(*PAIR.variants, Variant("other", {"delta1": 0.3})), seeds=1)
    rng = np.random.default_rng(1)
    most = max(len(bank.all_regions()) for bank in banks.values())
    records = {}
    for variant, share in zip(ablation.variants, (0.55, 0.6, 0.5), strict=True):
        key = Experiment({"tier": "scenes", "seed": 0, "epochs": 1, **variant.changes}).key
        records[key] = a_record(key, rng.random(most) < share, banks)
    table = ablation_table(ablation, records, banks, "scenes")
    bank = banks["phrases"]
    ids = [region.image_id for region in bank.all_regions()]
    hits = {v.label: records[Experiment({"tier": "scenes", "seed": 0, "epochs": 1, **v.changes}).key].hits["phrases"]
            for v in ablation.variants}  # fmt: skip
    raw = {label: paired_difference(hits[label], hits["high"], ids).p for label in ("low", "other")}
    smaller, larger = sorted(raw.values())
    part = table[(table["split"] == bank.title) & (table["concepts"] == "all")].set_index("setting")
    corrected = sorted(part.loc[["low", "other"], "p"])
    assert corrected == pytest.approx([min(1, 2 * smaller), min(1, max(2 * smaller, larger))], abs=1e-4)


def test_rank_agreement_by_hand():
    accuracy = {"a, light": 1, "b, light": 2, "c, light": 3, "a, full": 10, "b, full": 30, "c, full": 20}
    rows = [{"setting": s, "split": "x", "concepts": "all", "accuracy": v} for s, v in accuracy.items()]
    (found,) = rank_agreement(pd.DataFrame(rows)).to_dict("records")
    assert found["spearman"] == 0.5 and found["settings"] == 3
    assert (found["light"], found["full"]) == ("a < b < c", "a < c < b")


# ---------------------------------------------------------------------------------------------------------- execution


def test_notebook_runs_what_has_no_record_and_nothing_twice(tiny, capfd):
    """05 as papermill runs it, on the ablation `explanation`: four trainings (two of them known), six readings."""
    records = tiny / "figures" / "ablations"
    trained = finetune(dataclasses.replace(TINY), SHIPPED_RUN, tiny / "runs" / "study" / "seed-0" / "amc")
    papermill.execute_notebook(
        NOTEBOOK, tiny / "05.ipynb", {"only": "explanation", "seeds": 1}, cwd=ROOT, progress_bar=False
    )
    wanted = experiments(chosen("explanation", "scenes"), "scenes", 1)
    assert {path.stem for path in records.glob("*.json")} == {one.key for one in wanted} and len(wanted) == 6
    assert {path.stem for path in (tiny / "runs" / "ablations" / "notebooks").glob("*.ipynb")} == {
        one.training_key for one in wanted if finished_run(one, tiny / "runs") is None
    }  # the run that the study had made was not made again
    default = next(one for one in wanted if finished_run(one, tiny / "runs"))
    assert finished_run(default, tiny / "runs").folder == trained.folder

    table = pd.read_csv(tiny / "figures" / "ablation_explanation.csv")
    assert set(table["setting"]) == {v.label for v in chosen("explanation", "scenes")[0].variants}
    banks = tiers.evaluation_splits(TINY)
    found = read_records(records, banks)
    asked = phrases_hash(banks["phrases"].all_regions())
    record = found[default.key]
    assert record.content["splits"]["phrases"]["phrases"] == asked
    row = table[(table["setting"] == "GradCAM trained, GradCAM read") & (table["split"] == banks["phrases"].title)]
    assert row[row["concepts"] == "all"]["accuracy"].item() == pytest.approx(
        100 * record.hits["phrases"].mean(), abs=0.01
    )
    assert record.content["training"]["settings"]["amc"]["explanation"] == "gradcam"
    provenance = json.loads((tiny / "figures" / "ablation_explanation.json").read_text(encoding="utf-8"))
    assert provenance["records"]["GradCAM trained, GradCAM read"] == {"0": default.key}

    before = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
    run_grid(wanted)
    assert "6 experiments, 6 of them on record" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in records.glob("*.json")} == before
    assert overview(chosen("explanation", "scenes"), "scenes", set(found))["on record"].tolist() == [6]


def test_run_that_ships_is_not_made_again(tmp_path):
    full, light = Variant("AMC", light=False), Variant("AMC")
    assert finished_run(experiment(full, 0, "scenes"), tmp_path).folder.name == "amc-scenes"
    assert finished_run(experiment(full, 1, "scenes"), tmp_path) is None
    assert finished_run(experiment(light, 0, "scenes"), tmp_path) is None


def test_failing_run_is_named_and_the_others_are_made(tiny, tmp_path):
    base = {"tier": "scenes", "seed": 1, "epochs": 1}
    good = Experiment(base | {"lambda1": 0.0, "lambda2": 0.0}, "attention")
    bad = Experiment(base | {"accumulation": 100})
    with refused("1 of 2 experiments failed; the first: seed 1, epochs 1, accumulation 100: failed", RuntimeError):
        run_grid([bad, good], tmp_path / "runs", tmp_path / "records")
    content = json.loads((tmp_path / "records" / f"{good.key}.json").read_text(encoding="utf-8"))
    assert content["final"]["itm"] > 0
    log = (tmp_path / "runs" / "logs" / f"{bad.key}.log").read_text(encoding="utf-8")
    assert log.strip().splitlines()[-1].startswith("ValueError: ")


@pytest.mark.slow  # two minutes: processes are started, killed and started again
def test_grid_killed_by_sigkill_repeats_no_finished_run(tiny, tmp_path):
    wanted = experiments(chosen("terms", "scenes"), "scenes", 1)
    script = (
        "from pathlib import Path; from amc_study.ablations import *; "
        f"run_grid(experiments(chosen('terms', 'scenes'), 'scenes', 1), Path({str(tmp_path / 'runs')!r}), "
        f"Path({str(tmp_path / 'records')!r}), 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=os.environ, start_new_session=True)
    while len(list((tmp_path / "records").glob("*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.read_bytes() for path in (tmp_path / "records").glob("*.json")}
    assert 2 <= len(before) < len(wanted)
    run_grid(wanted, tmp_path / "runs", tmp_path / "records")
    assert {path.stem for path in (tmp_path / "records").glob("*.json")} == {one.key for one in wanted}
    assert {path: path.read_bytes() for path in before} == before
