"""The photos tier from photographs to tables: its notebooks on a mini copy of the data, with a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import paper_data
import pytest
from tiny_blip import save_blip
from tiny_scenes import TEXT, TRAINING, VISION, run_notebook

from amc_lib import checkpoints, presets
from amc_lib.checkpoints import load_checkpoint
from amc_lib.config import Settings
from amc_lib.grounder import Grounder
from amc_lib.presets import preset
from amc_study import comparison, run_folder, runs
from amc_study.answers import ask
from amc_study.calibrate import best_threshold, box_ious, calibrate
from amc_study.comparison import layer_accuracies
from amc_study.explain.claims import NOT_TESTABLE
from amc_study.explain.heatmap_quality import THRESHOLDS
from amc_study.photos.album import open_album
from amc_study.scenes import cache
from amc_study.statistics import paired_difference
from amc_study.table import read_table, write_table
from amc_study.tiers import tier_of

PHOTOS = preset("photos")
SYSTEMS = ["ALBEF", "ALBEF finetuned", "AMC"]


def settings() -> Settings:
    training = replace(TRAINING, batch_size=2, phrases_per_image=2)
    return replace(
        PHOTOS,
        model=replace(PHOTOS.model, vision=VISION, text=TEXT, embed_dim=16, queue_size=32),
        amc=replace(PHOTOS.amc, layer=2, map_size=16),
        pretraining=training,
        finetuning=training,
        photos=replace(PHOTOS.photos, least_seen=1, never_boxed=0.5),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The tiny tier in this process, its data, cache and runs below `root`; nothing is shipped."""
    root = tmp_path_factory.mktemp("photos")
    paper_data.write_paper_data(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_PHOTOS", str(root))
        patch.setattr(cache, "CACHE", root / "cache")
        patch.setattr(cache, "WORKERS", 1)
        patch.setattr(checkpoints, "SHIPPED", root / "shipped")
        patch.setattr(presets, "_PRESETS", presets._PRESETS | {"photos": settings})
        for module in (runs, run_folder, comparison):
            patch.setattr(module, "RUNS", root / "runs")
        open_album.cache_clear()
        yield root
    open_album.cache_clear()


@pytest.fixture(scope="module")
def base(root) -> Path:
    """02, which trains the base; its tables are below `root`/figures/photos."""
    return run_notebook("02_pretrain", tier="photos", figures=str(root / "figures"))["run"].folder


@pytest.fixture(scope="module")
def trained(root, base) -> Path:
    """03 for AMC and for its control, one seed."""
    for name, lambdas in {"amc": {}, "albef-finetuned": {"lambda1": 0.0, "lambda2": 0.0}}.items():
        run_notebook("03_train", tier="photos", output=str(root / "runs" / "photos" / "seed-0" / name), **lambdas)
    return root / "runs" / "photos"


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "figures" / "photos" / f"{name}.csv")


def test_01_counts_the_photographs_and_shows_them_where_git_does_not_look(root):
    run_notebook("01_data", tier="photos", figures=str(root / "figures"))
    sizes = table(root, "photos_splits").set_index("split")
    assert sizes["images"].to_dict() == {"train": 4, "val": 4, "test": 4}
    folder = root / "figures" / "photos"
    assert (folder / "local" / "photos.png").is_file() and not (folder / "photos.png").exists()
    assert not list(folder.rglob("example_scene.png"))


def test_02_says_how_well_the_base_matches(root, base):
    found = table(root, "base").set_index(["task", "score", "measure"])
    for kind in ("random", "similar"):
        measures = found.loc[(f"right or {kind} caption", "match")]
        assert set(measures.index) == {"matching", "matching, fitted threshold", "choice", "ITM loss"}
        loss = measures.loc["ITM loss"]
        assert loss["ci_low"] <= loss["value"] <= loss["ci_high"]
        assert loss["chance"] == pytest.approx(np.log(2), abs=1e-3)
    assert {f"recall@{k}" for k in (1, 5, 10)} < set(found.index.get_level_values("measure"))
    assert (root / "figures" / "photos" / "base_curves.png").is_file()


def test_03_goes_on_from_the_base_on_boxed_phrases(trained, base):
    amc, control = (run_folder.open_run(trained / "seed-0" / name) for name in ("amc", "albef-finetuned"))
    assert amc.metrics["init_sha256"] == control.metrics["init_sha256"] == load_checkpoint(base).sha256
    assert amc.metrics["final"]["amc"] > 0 == control.metrics["final"]["amc"]


def test_02_sets_a_base_beside_others_and_what_is_finetuned_above_them(root, base, trained):
    second = str(root / "runs" / "second")
    run_notebook("02_pretrain", tier="photos", seed=1, output=second, figures=str(root / "figures" / "second"))
    folders = {"beside": f"{second} {trained / 'seed-0' / 'amc'}", "figures": str(root / "figures" / "both")}
    bases = run_notebook("02_pretrain", tier="photos", **folders)["bases"].set_index("base")
    assert bases["seed"].to_dict() == {base.name: 0, "second": 1, "amc": 0}
    assert bases["stage"].to_dict() == {base.name: "pretraining", "second": "pretraining", "amc": "finetuning"}
    written = pd.read_csv(root / "figures" / "both" / "photos" / "bases.csv").set_index("base")
    alone = table(root, "base").set_index(["task", "score", "measure"])["value"].sort_index()
    expected = alone[("right or random caption", "match", "ITM loss")]
    assert written.loc[base.name, "ITM loss"] == expected != written.loc["second", "ITM loss"]
    assert written["weights"].nunique() == 1 and (written["pointing"] <= 100).all()


@pytest.fixture(scope="module")
def blip(root) -> str:
    """A tiny BLIP, its two highest layers finetuned with AMC on the photographs' pixels."""
    plain = save_blip(root / "blip")
    options = {"init": plain, "output": str(root / "runs" / "blip"), "more": '{"trained_layers": 2}'}
    run = run_notebook("03_train", tier="photos", **options)["run"]
    assert run.metrics["init_sha256"] == load_checkpoint(plain).sha256 and run.metrics["final"]["amc"] > 0
    before, after = (load_checkpoint(source).model.state_dict() for source in (plain, run.folder))
    moved = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert moved and all(name.startswith(("blip.text_encoder.encoder.layer.", "blip.itm_head")) for name in moved)
    return str(run.folder)


def test_04_writes_every_question_of_every_system_and_no_picture_among_the_published(root, trained, blip):
    shown = run_notebook("04_evaluate", tier="photos", figures=str(root / "figures"), blip=blip)
    phrases = len(shown["split"].all_regions())
    table1 = table(root, "table1").set_index(["system", "split", "concepts"])
    title = "photographs test"
    assert set(table1.index.get_level_values("system")) == {"chance", "centre", *SYSTEMS, "BLIP"}
    assert (table1.xs((title, "all"), level=("split", "concepts"))["phrases"] == phrases).all()
    parts = table1.loc["AMC"].loc[title].loc[["boxed", "unboxed"], "phrases"]
    assert parts.sum() == phrases and parts.min() > 0
    several = shown["table"].query("system == 'AMC' and which == 'B'")
    assert table1.loc[("AMC", f"{title}, which B", "all"), "phrases"] == len(several) > 0
    asked = {"own phrase", "random phrase", "other phrase", "own − random"}
    for name in ("wrong_phrases", "groups"):
        assert set(table(root, name)["asked"]) == asked, name
    assert set(table(root, "groups")["by"]) >= {"entity", "quarter", "words", "which"}
    assert {"ALBEF", "ALBEF finetuned", "BLIP"} == set(table(root, "paired")["AMC minus"])
    assert table(root, "presence").empty  # the mini data's things are all of type "other": none is surely absent
    claims, answered = table(root, "claims").set_index("claim"), shown["table"]
    amc, control = (answered[answered["system"] == system] for system in ("AMC", "ALBEF finetuned"))
    row = claims.loc["AMC is better than ALBEF finetuned: phrases"]
    expected = paired_difference(amc["hit"].to_numpy(), control["hit"].to_numpy(), amc["image_id"])
    assert (row.difference, row.ci_low) == (round(expected.value, 2), round(expected.low, 2))
    tested = claims["verdict"] != NOT_TESTABLE
    assert (tested == ~claims.index.str.contains("VMRM|referring A")).all()
    published, local = root / "figures" / "photos", root / "figures" / "photos" / "local"
    assert (published / "accuracy.png").is_file() and (published / "asked.png").is_file()
    assert {"qualitative", "method"} <= {path.stem for path in local.glob("*.png")}
    assert not {"qualitative", "method"} & {path.stem for path in published.glob("*.png")}


def test_04_takes_seeds_that_are_not_here_from_earlier_answers(root, trained):
    earlier, figures = root / "earlier" / "photos", root / "figures" / "two"
    run_notebook("04_evaluate", tier="photos", runs=str(trained), figures=str(earlier.parent))
    answers = read_table(earlier / "answers.csv.gz")
    another = answers[answers["system"] == "AMC"].assign(seed=1, hit=1.0)
    write_table(earlier / "answers.csv.gz", pd.concat([answers, another]))
    options = {"runs": str(trained), "seeds": 2, "figures": str(figures), "beside": str(earlier)}
    shown = run_notebook("04_evaluate", tier="photos", **options)
    assert {system: len(sources) for system, sources in shown["folders"].items()} == dict.fromkeys(SYSTEMS, 1)
    table1 = shown["table1"].set_index(["system", "concepts"]).loc[("AMC", "all")].iloc[0]
    once = answers.loc[answers["system"] == "AMC", "hit"].mean()
    assert table1["seeds"] == 2 and table1["accuracy"] == pytest.approx(50 * (1 + once), abs=0.01)
    record = json.loads((figures / "photos" / "accuracy.json").read_text(encoding="utf-8"))
    assert record["earlier"]["checkpoints"]["AMC"] == record["checkpoints"]["AMC"]  # seed 0, the one that is here


def test_04_asks_the_systems_on_a_second_base_apart(root, trained, base):
    home, figures, no_boxes = trained / "second", root / "figures" / "second-base", {"lambda1": 0.0, "lambda2": 0.0}
    more = '{"fuse_from": 1, "hard_negatives_from": 1}'
    run = run_notebook("02_pretrain", tier="photos", seed=1, more=more, output=str(home / "albef"))["run"]
    for name, lambdas in {"amc": {}, "albef-finetuned": no_boxes}.items():
        run_notebook("03_train", tier="photos", seed=1, init=str(run.folder), output=str(home / name), **lambdas)
    shown = run_notebook("04_evaluate", tier="photos", runs=str(trained), figures=str(figures))
    answers, second = shown["table"], shown["second"]
    assert set(second["seed"]) == {1} and set(answers["seed"]) == {0}
    found = pd.read_csv(figures / "photos" / "second_base.csv").set_index(["system", "asked"])["accuracy"]
    accuracy = second.groupby("system")["hit"].mean()
    assert found.xs("own phrase", level="asked").to_dict() == pytest.approx((100 * accuracy).to_dict(), abs=0.01)
    gained = pd.read_csv(figures / "photos" / "second_base_paired.csv").set_index(["AMC minus", "asked"])["difference"]
    for rival in ("ALBEF", "ALBEF finetuned"):
        expected = 100 * (accuracy["AMC"] - accuracy[rival])
        assert gained[(rival, "own phrase")] == pytest.approx(expected, abs=1e-3)


def test_calibration_is_written_beside_the_weights(trained, monkeypatch):
    folder = trained / "seed-0" / "amc"
    before, found = load_checkpoint(folder), calibrate(folder)
    after = load_checkpoint(folder)
    assert Grounder(after).calibration == found and after.sha256 == before.sha256
    new = {"calibration": None, "layer": None}
    assert after.about | new == before.about | new
    layers = layer_accuracies(before, tier_of(before.settings).validation_split())
    assert layers[Grounder(after).layer] == max(layers.values())
    assert 0 < found.box < 1 and found.present is found.missed is found.false_alarms is None  # nothing is surely absent
    monkeypatch.setattr("amc_study.wrong_phrases.TELLING", ("other",))
    monkeypatch.setattr("amc_study.wrong_phrases.kind_of", lambda region: region.phrase)
    found = calibrate(folder)
    assert Grounder.load(folder).calibration == found
    assert 0 < found.present < 1 and 0 <= found.missed <= 1 and 0 <= found.false_alarms < 1


def test_box_threshold_is_that_at_which_the_box_fits(trained):
    """One phrase by `Grounding.box` itself, its overlap counted pixel by pixel."""
    checkpoint = load_checkpoint(trained / "seed-0" / "amc")
    split = tier_of(checkpoint.settings).validation_split()
    answers = ask(checkpoint, split, regions=split.all_regions()[:3])
    region, height_width = answers.regions[2], split.size(answers.regions[2])
    ious, grounding = box_ious(answers, split)[2], Grounder(checkpoint).ground(region.image.open(), region.phrase)
    x1, y1, x2, y2 = map(int, region.boxes[0])
    inside = np.zeros(height_width, bool)
    inside[y1:y2, x1:x2] = True
    for threshold, iou in list(zip(THRESHOLDS, ious, strict=True))[::6]:
        x1, y1, x2, y2 = grounding.box(threshold)
        found = np.zeros_like(inside)
        found[y1:y2, x1:x2] = True
        assert iou == pytest.approx((found & inside).sum() / (found | inside).sum(), abs=0.02)


def test_threshold_of_presence_errs_least():
    rng = np.random.default_rng(0)
    there, absent = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    threshold, missed, false_alarms = best_threshold(there, absent)
    errors = {t: (there < t).mean() + (absent >= t).mean() for t in (*there, *absent)}
    assert missed == (there < threshold).mean() and false_alarms == pytest.approx((absent >= threshold).mean())
    assert missed + false_alarms == pytest.approx(min(errors.values())) and 0.3 < threshold < 0.7


def test_10_asks_captions_and_which_of_several(root, trained):
    run_notebook("10_explanations", tier="photos", pictures=2, figures=str(root / "figures"))
    assert set(table(root, "retrieval")["system"]) == set(SYSTEMS) and len(table(root, "faithfulness"))
    assert (table(root, "kept")["verdict"] != NOT_TESTABLE).all()
    assert (root / "figures" / "photos" / "local" / "misses.png").is_file()


def test_00_shows_the_method_on_a_photograph(trained):
    shown = run_notebook("00_method", tier="photos")
    assert shown["scene"].image.size == (shown["side"], shown["side"]) == (VISION.image_size, VISION.image_size)


def test_06_offers_the_photographs_of_test_with_their_phrases(trained):
    shown = run_notebook("06_explore", tier="photos")
    explorer = shown["explorer"]
    assert explorer.scene.max == 3 and [one.phrase for one in shown["groundings"]] == shown["phrases"]
    assert explorer.boxes and explorer.size == (paper_data.SIDE, paper_data.SIDE)
