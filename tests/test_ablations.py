"""Ablations: the notebook's grid and its records, tables by hand, and runs that are not repeated."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny_scenes import TINY, code_cells, install, run_notebook, ship

from amc_lib.files import ROOT, plain
from amc_lib.presets import preset
from amc_study import runs
from amc_study.ablations.execute import finished_run, run_experiment, run_grid
from amc_study.ablations.experiments import Ablation, Experiment, experiment, experiments, run_key, select
from amc_study.ablations.records import RECORDS, append_record, content, read_records
from amc_study.ablations.tables import ablation_table, overview, rank_agreement, system
from amc_study.statistics import holm, paired_difference
from amc_study.tiers import tier_of

PAIR = Ablation("?", {"low": {"layer": 1}, "high": {}, "other": {"delta1": 0.3}}, "high")


def notebook_grid(tier: str) -> dict[str, Ablation]:
    """What the cells of 05_ablations define for a tier."""
    sources = code_cells("05_ablations")
    names: dict = {"tier": tier, "only": None}
    for source in sources[2 : next(n for n, s in enumerate(sources) if "read_records" in s)]:
        exec(source, names)
    return names["grid"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An untrained checkpoint to start from, drawn scenes, and the start-up file of other processes."""
    home = tmp_path_factory.mktemp("ablations")
    with pytest.MonkeyPatch.context() as patch:
        install(home, patch.setattr)
        ship(home, "albef-scenes")
    (home / "site").mkdir()
    paths = [str(ROOT / "tests"), str(ROOT)]
    startup = (
        f"import pathlib as p, sys; sys.path[:0] = {paths}; import tiny_scenes as t; t.install(p.Path({str(home)!r}))"
    )
    (home / "site" / "sitecustomize.py").write_text(startup)
    return home


@pytest.fixture
def tiny(home, monkeypatch) -> Path:
    """The tiny tier in this process and in those that it starts."""
    install(home, monkeypatch.setattr)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(home / "site"), str(ROOT), str(ROOT / "notebooks"))))
    return home


@pytest.fixture
def splits(tiny):
    return tier_of(TINY).evaluation_splits()


@pytest.mark.parametrize("tier", ["scenes", "paper"])
def test_setting_that_others_are_compared_with_is_the_default(tier):
    settings = preset(tier)
    grid = notebook_grid(tier)
    assert len(grid) == 15 and [ablation.seeds for ablation in grid.values()] == [5] * 3 + [3] * 12
    for name, ablation in grid.items():
        for key, value in ablation.settings[ablation.against].items():
            homes = (settings.amc, settings.objective, settings.boxes)
            today = next((getattr(part, key) for part in homes if hasattr(part, key)), None)
            assert key in ("read", "schedule") or today == value or (tier, key) == ("paper", "alpha"), (name, key)


NOT_RUN = {"controls", "other", "few_boxes", "all_layers"}  # on scenes: they wait for the next base


def test_each_run_is_made_once_and_all_are_on_record():
    grid = notebook_grid("scenes")
    published = {name for name in grid if (ROOT / "figures" / f"ablation_{name}.csv").is_file()}
    assert published == grid.keys() - NOT_RUN
    found = experiments({name: grid[name] for name in grid if name in published}, "scenes")
    seeds = [one.parameters["seed"] for one in found]
    assert seeds == sorted(seeds) and len({one.key for one in found}) == len(found)
    today = found[0].settings
    stored = json.loads(gzip.decompress((ROOT / "figures" / RECORDS).read_bytes()))["runs"]
    keys = {run_key(r["training"]["settings"], r["training"]["init_sha256"], r["read"], today) for r in stored}
    assert keys == {one.key for one in found} and len(stored) == len(found)
    assert all(len(run["training"]["commit"]) == 40 for run in stored)


def test_default_under_another_name_is_the_same_run():
    base = {"tier": "scenes", "seed": 0}
    default, named = Experiment(base), Experiment(base | {"layer": 3, "box_share": 1.0})
    attention, other = Experiment(base, "attention"), Experiment(base | {"layer": 4})
    assert default.key == named.key and len({default.key, attention.key, other.key}) == 3
    assert default.training_key == attention.training_key != other.training_key


def test_unknown_names_are_refused():
    grid = {"terms": PAIR, "margins": PAIR}
    assert list(select(grid, "margins terms")) == ["terms", "margins"]
    with pytest.raises(ValueError, match="unknown ablation 'term'; did you mean 'terms'"):
        select(grid, "term")
    with pytest.raises(ValueError, match="no setting is named 'both'"):
        Ablation("Which?", {"no boxes": {}}, "both")


def append(path: Path, splits, changes: dict, seed: int, hits: np.ndarray, random: np.ndarray | None = None):
    """Put made-up hits on record, with a random phrase too if there are any; those of a split are the first of all."""
    one = experiment(changes, seed, "scenes")
    first = {name: SimpleNamespace(hits=hits[: len(split.all_regions())]) for name, split in splits.items()}
    metrics = {"provenance": {"settings": plain(one.settings), "commit": "c", "seconds": 2.0}, "final": {}}
    metrics["init_sha256"] = runs.weights_hash(runs.pretrained(TINY))
    wrong = {} if random is None else {n: {"hit_random": random[: len(s.all_regions())]} for n, s in splits.items()}
    answers = SimpleNamespace(layer=1, layers={1: 50.0, 2: float("nan")}, pointing=first, wrong=wrong)
    append_record(path, one, answers, splits, SimpleNamespace(metrics=metrics))
    return one


def test_records_come_back_if_they_answer_the_same_phrases_and_knew_all_settings(splits, tmp_path):
    path = tmp_path / "new" / RECORDS
    hits = [np.random.default_rng(seed).random(1000) < 0.5 for seed in range(2)]
    keys = [append(path, splits, {"layer": 1}, seed, hits[seed]).key for seed in range(2)]
    found = read_records([tmp_path / "absent", path], splits, TINY)
    assert list(found) == keys
    for key, expected in zip(keys, hits, strict=True):
        for name, split in splits.items():
            assert (found[key]["hits"][name] == expected[: len(split.all_regions())]).all()
    assert found[keys[0]]["layers"] == {"1": 50.0}  # JSON has no NaN
    assert read_records([path], dict(list(splits.items())[:2]), TINY) == {}
    content = json.loads(gzip.decompress(path.read_bytes()))
    del content["runs"][0]["training"]["settings"]["amc"]["map_size"]
    content["runs"][1]["training"]["settings"]["amc"]["retired"] = 1
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert list(read_records([path], splits, TINY)) == keys[1:]


def test_run_that_is_asked_again_replaces_its_record(splits, tmp_path):
    path, hits = tmp_path / RECORDS, [np.random.default_rng(seed).random(1000) < 0.5 for seed in range(3)]
    first, other = (append(path, splits, {"layer": 1}, seed, hits[seed]).key for seed in range(2))
    assert append(path, splits, {"layer": 1}, 0, hits[2], random=hits[1]).key == first
    found = read_records([path], splits, TINY)
    assert list(found) == [other, first] and len(content(path)["runs"]) == 2
    n = len(splits["phrases"].all_regions())
    assert (found[first]["hits"]["phrases"] == hits[2][:n]).all() and found[first]["random"]


@pytest.mark.parametrize(("moved", "come_back"), [(1, True), (2, False)])
def test_records_survive_a_release_that_draws_one_box_in_a_thousand_a_pixel_off(tiny, tmp_path, moved, come_back):
    def split(shift: int) -> SimpleNamespace:
        boxes = [((10.0, 20.0, 30.0 + (shift if n < moved else 0), 40.0),) for n in range(1000)]
        regions = [SimpleNamespace(id=str(n), phrase="a dog", boxes=boxes[n]) for n in range(1000)]
        return SimpleNamespace(all_regions=lambda: regions)

    path, hits = tmp_path / RECORDS, np.random.default_rng(0).random(1000) < 0.5
    key = append(path, {"phrases": split(0)}, {"layer": 1}, 0, hits).key
    found = read_records([path], {"phrases": split(1)}, TINY)
    assert list(found) == [key] * come_back


@pytest.mark.parametrize("content", ["plain text", "{", "[]", '{"runs": [{}]}'])
def test_file_without_records_is_named(tmp_path, content):
    path = tmp_path / RECORDS
    path.write_bytes(content.encode() if content == "plain text" else gzip.compress(content.encode()))
    with pytest.raises(ValueError, match=re.escape(f"{path}: holds no records")):
        read_records([path], {}, TINY)


def test_table_has_paired_differences_over_common_seeds_and_corrected_p(splits, tmp_path):
    rng, records = np.random.default_rng(0), tmp_path / RECORDS
    shares = {"low": 0.45, "high": 0.6, "other": 0.55}
    drawn = {(label, seed): rng.random(1000) < shares[label] for seed in range(3) for label in shares}
    del drawn["low", 2]  # not run yet
    for (label, seed), hits in drawn.items():
        append(records, splits, PAIR.settings[label], seed, hits)
    found = read_records([records], splits, TINY)
    table = ablation_table(PAIR, found, splits, "scenes")
    regions = splits["phrases"].all_regions()
    n, ids = len(regions), [region.image_id for region in regions]
    part = table[(table["split"] == "phrases") & (table["concepts"] == "all")].set_index("setting")
    seeds = {label: [seed for seed in range(3) if (label, seed) in drawn] for label in part.index}
    hits = {label: np.stack([drawn[label, seed][:n] for seed in seeds[label]]) for label in part.index}
    expected = {"low": paired_difference(hits["low"], hits["high"][:2], ids)}
    expected["other"] = paired_difference(hits["other"], hits["high"], ids)
    assert part.loc[list(expected), "p"].tolist() == pytest.approx(holm([one.p for one in expected.values()]))
    for label, difference in expected.items():
        assert part.loc[label, "difference"] == pytest.approx(difference.value)
        assert part.loc[label, "accuracy"] == pytest.approx(100 * hits[label].mean())
    assert part["seeds"].to_dict() == {"low": 2, "high": 3, "other": 3} and set(part["phrases"]) == {n}
    assert np.isnan(part.loc["high", "difference"]) and set(part["system"]) == {"AMC"}
    assert ablation_table(PAIR, {}, splits, "scenes").empty
    counts = overview({"pair": PAIR}, "scenes", found).iloc[0]
    assert (counts["runs"], counts["on record"], counts["by other code"]) == (9, 8, 8)


def test_what_the_own_phrase_adds_is_compared_among_runs_that_were_asked_both(splits, tmp_path):
    rng, records, n = np.random.default_rng(0), tmp_path / RECORDS, len(splits["phrases"].all_regions())
    own = {label: rng.random(1000) < share for label, share in {"low": 0.6, "high": 0.8, "other": 0.7}.items()}
    random = {label: (rng.random(1000) < 0.5).astype(float) for label in ("low", "high")}
    random["low"][0] = np.nan  # a phrase without one: then none is kept
    for label, changes in PAIR.settings.items():
        append(records, splits, changes, 0, own[label], random.get(label))
    append(records, splits, PAIR.settings["other"], 1, own["other"], random["high"])
    append(records, splits, PAIR.settings["high"], 1, own["high"], random["high"])
    table = ablation_table(PAIR, read_records([records], splits, TINY), splits, "scenes")
    part = table[(table["split"] == "phrases") & (table["concepts"] == "all")].set_index("setting")
    gains = {label: 100 * (own[label][:n] - random["high"][:n]).mean() for label in ("high", "other")}
    assert part["gain"].dropna().to_dict() == pytest.approx(gains)
    assert part.loc["other", "gain_difference"] == pytest.approx(gains["other"] - gains["high"])
    assert part["gain_difference"].isna()[["low", "high"]].all()


def test_without_loss_or_boxes_it_is_the_control():
    changes = ({"lambda1": 0.0, "lambda2": 0.0}, {"box_share": 0.0}, {"lambda1": 0.0, "box_share": 0.5})
    assert [system(one) for one in changes] == ["ALBEF finetuned", "ALBEF finetuned", "AMC"]


def test_rank_agreement_takes_accuracies_as_they_are():
    light, full = (1.001, 1.004, 3), (10, 30, 20)  # the first two are equal once rounded
    names = [f"{name}, {schedule}" for schedule in ("light", "full") for name in "abc"]
    table = pd.DataFrame({"setting": names, "split": "x", "concepts": "all", "accuracy": [*light, *full]})
    (found,) = rank_agreement(table).to_dict("records")
    assert found["spearman"] == pytest.approx(0.5)
    assert (found["light"], found["full"]) == ("a < b < c", "a < c < b")


def test_finished_run_is_asked_and_not_trained_again(tiny, splits, tmp_path, monkeypatch):
    records, folder = tmp_path / RECORDS, tiny / "runs" / "study" / "seed-0" / "amc"
    trained, attention = (Experiment({"tier": "scenes", "seed": 0}, read) for read in ("gradcam", "attention"))
    runs.finetune(trained.settings, output=folder)
    assert finished_run(trained, tiny / "runs").folder == folder
    assert finished_run(Experiment({"tier": "scenes", "seed": 1}), tiny / "runs") is None
    monkeypatch.setattr(runs, "train", None)  # whoever trains now fails
    for one in (trained, attention):
        run_experiment(one, tmp_path / "runs", records, tiny / "runs")
    found = read_records([records], splits, TINY)
    assert list(found) == [trained.key, attention.key]
    assert found[trained.key]["training"]["settings"]["amc"]["explanation"] == "gradcam"
    run_grid([trained, attention], found, records)  # starts nothing


def test_failing_run_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    bad = Experiment({"tier": "scenes", "seed": 1, "epochs": 1})
    with pytest.raises(RuntimeError, match=r"1 of 1 .* the first: seed 1, epochs 1, gradcam read: failed \(exit 1; "):
        run_grid([bad], (), tmp_path / RECORDS, tmp_path / "runs")


@pytest.mark.slow  # a minute: processes are started, killed and started again
def test_grid_killed_by_sigkill_repeats_no_finished_run_and_names_a_failing_one(tiny, splits, tmp_path):
    records, wanted = tmp_path / RECORDS, [Experiment({"tier": "scenes", "seed": seed}) for seed in range(3)]
    script = (
        "from pathlib import Path; from amc_study.ablations.execute import *; "
        "wanted = [Experiment({'tier': 'scenes', 'seed': seed}) for seed in range(3)]; "
        f"run_grid(wanted, (), Path({str(records)!r}), Path({str(tmp_path / 'runs')!r}), 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=os.environ, start_new_session=True)
    while not records.is_file():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = read_records([records], splits, TINY)
    assert 1 <= len(before) < 3
    bad = Experiment({"tier": "scenes", "seed": 1, "epochs": 1, "accumulation": 100})
    with pytest.raises(RuntimeError, match=r"1 of 4 .*: seed 1, .* s: 64 images do not fill one batch"):
        run_grid([*wanted, bad], before, records, tmp_path / "runs")
    after = read_records([records], splits, TINY)
    assert set(after) == {one.key for one in wanted}
    assert all(after[key]["training"] == before[key]["training"] for key in before)


def test_notebook_shows_what_is_on_record(tiny, splits, tmp_path):
    """The cells of 05 below the parameters, with records of the ablation `terms`."""
    terms, rng = notebook_grid("scenes")["terms"], np.random.default_rng(0)
    drawn = {label: rng.random(1000) < 0.5 for label in terms.settings}
    for label, hits in drawn.items():
        append(tmp_path / RECORDS, splits, terms.settings[label], 0, hits)
    run_notebook("05_ablations", times=2, only="terms", seeds=1, figures=str(tmp_path))
    table = pd.read_csv(tmp_path / "ablation_terms.csv")
    n = len(splits["phrases"].all_regions())
    accuracies = table[(table["split"] == "phrases") & (table["concepts"] == "all")].set_index("setting")["accuracy"]
    assert accuracies.to_dict() == pytest.approx({k: 100 * hits[:n].mean() for k, hits in drawn.items()}, abs=0.01)
    account = json.loads((tmp_path / "ablation_terms.json").read_text(encoding="utf-8"))
    assert (account["question"], account["against"], account["runs"]) == (terms.question, "both", 4)
    assert account["training_commits"] == ["c"] and (tmp_path / "ablation_terms.png").is_file()
