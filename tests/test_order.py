"""The study's order: its plan holds together, what is up to date is left alone, and a step that fails is named."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from amc_lib.files import ROOT
from amc_lib.parameters import resolve
from amc_lib.presets import preset
from amc_study import order, plans
from amc_study.order import perform, run_study
from amc_study.plans import HOMES, PUBLISHED_SEEDS, paper_plan, photos_plan, plan
from amc_study.scenes import cache
from amc_study.steps import Step, imported_files
from tests.bench.using import study_rows

TRAINING = "03_train.ipynb"
HOME = HOMES["scenes"]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A copy of the notebooks beside two modules; the real ones are not touched."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("*.py", "*.csv"))
    (tmp_path / "amc_lib").mkdir()
    (tmp_path / "amc_lib" / "step.py").write_text("from amc_lib import losses\n")
    (tmp_path / "amc_lib" / "losses.py").write_text('"""Loss."""\nx = 1\n')
    (tmp_path / "notebooks" / TRAINING).write_text(notebook("from amc_lib.step import x"))
    monkeypatch.setattr("amc_study.steps.ROOT", tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    return tmp_path


def notebook(source: str, prose: str = "", outputs: tuple = ()) -> str:
    code = {"cell_type": "code", "source": [source], "outputs": list(outputs)}
    return json.dumps({"cells": [{"cell_type": "markdown", "source": [prose]}, code]})


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """Names of the steps that are executed; those in `started.failing` fail."""

    class Started(list):
        failing: tuple[str, ...] = ()

    names = Started()
    monkeypatch.setattr(
        order, "perform", lambda step, home, threads: names.append(step.name) or step.name in names.failing
    )
    return names


ALL_PLANS = pytest.mark.parametrize(
    "rounds",
    [plan(1), plan(2, full=True), plan(3, full=True), photos_plan(2), paper_plan(2)],
    ids=["one", "full", "published", "photos", "paper"],
)


@ALL_PLANS
def test_every_step_comes_after_what_it_needs(rounds):
    done: set[str] = set()
    for steps in rounds:
        assert all(set(step.after) <= done for step in steps)
        assert not done & {step.name for step in steps}
        done |= {step.name for step in steps}


@ALL_PLANS
def test_steps_are_there_and_know_their_parameters(rounds):
    for step in itertools.chain(*rounds):
        if not step.what.endswith(".ipynb"):
            assert imported_files(f"import {step.what}"), step.what
            continue
        cells = json.loads((ROOT / "notebooks" / step.what).read_text(encoding="utf-8"))["cells"]
        declared = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        names = re.findall(r"^(\w+) =", "".join(declared["source"]), flags=re.MULTILINE)
        assert set(step.parameters) <= set(names), step.name


def test_full_plan_shows_every_notebook_and_measures_alone():
    rounds = plan(PUBLISHED_SEEDS, full=True)
    shown = {step.what for step in itertools.chain(*rounds) if step.what.endswith(".ipynb")}
    assert shown == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert [step.name for step in next(steps for steps in rounds if steps[0].name == "benchmarks")] == ["benchmarks"]
    assert rounds[-1][0].name == "pages" and "ablations" in rounds[-1][0].after


def test_only_a_study_of_the_published_seeds_writes_what_is_published():
    for seeds in (1, 2, 3):
        folders = {step.parameters.get("figures") for step in itertools.chain(*plan(seeds, full=True))} - {None}
        assert folders == ({"figures"} if seeds == PUBLISHED_SEEDS else {str(HOME / "figures")})
        names = {step.name for step in itertools.chain(*plan(seeds, full=True))}
        assert ({"film", "benchmarks", "pages"} <= names) == (seeds == PUBLISHED_SEEDS)


def test_seeds_have_folders_of_their_own_and_control_differs_in_its_lambdas_alone():
    steps = {step.name: step for step in itertools.chain(*plan(3))}
    trained = [step.parameters for step in steps.values() if step.what == TRAINING]
    assert len({parameters["output"] for parameters in trained}) == len(trained) == 6
    assert all(f"seed-{parameters['seed']}/" in parameters["output"] for parameters in trained)
    control, amc = (dict(steps[name].parameters) for name in ("finetune-0", "amc-0"))
    assert (control.pop("lambda1"), control.pop("lambda2")) == (0, 0)
    assert control.pop("output") != amc.pop("output") and control == amc


@pytest.mark.parametrize("shipped", ["", "albef-scenes-1"])
def test_further_seeds_have_bases_of_their_own(monkeypatch, shipped):
    """Where one is shipped it is opened and finetuned; else it is trained into the study's folder."""
    monkeypatch.setattr(plans, "exists", lambda name: name == shipped)
    steps = {step.name: step for step in itertools.chain(*plan(3))}
    outputs = [steps[f"pretrain-{seed}"].parameters.get("output") for seed in (1, 2)]
    assert outputs == [None if shipped else str(HOME / "seed-1" / "albef"), str(HOME / "seed-2" / "albef")]
    for seed, base in enumerate(("pretrain", "pretrain-1", "pretrain-2")):
        pretrained = steps[base].parameters
        assert pretrained.get("seed", 0) == seed
        for trained in (steps[f"amc-{seed}"], steps[f"finetune-{seed}"]):
            start = pretrained.get("output", f"albef-scenes-{seed}") if seed else None
            assert trained.parameters.get("init") == start and trained.after == (base,)
    assert set(steps) >= {step.name for step in itertools.chain(*plan(1))} and "pretrain-3" not in steps


def test_one_seed_opens_the_shipped_vmrm_and_several_train_it():
    outputs = [
        [s.parameters.get("output") for s in itertools.chain(*plan(n)) if s.name.startswith("vmrm")] for n in (1, 2)
    ]
    assert outputs == [[None], [str(HOME / f"seed-{seed}" / "vmrm") for seed in (0, 1)]]


def test_photos_plan_runs_amc_beside_its_control_in_the_photos_tier():
    rounds = photos_plan(PUBLISHED_SEEDS)
    assert all(step.parameters["tier"] == "photos" for step in itertools.chain(*rounds))
    pairs = [steps for steps in rounds if steps[0].what == TRAINING]
    assert [steps[0].name for steps in pairs] == ["amc-0", "amc-1", "amc-2", "second-amc"]
    for place, (amc, control) in zip(("seed-0", "seed-1", "seed-2", "second"), pairs, strict=True):
        assert amc.parameters["output"] == str(HOMES["photos"] / place / "amc")
        assert "lambda1" not in amc.parameters and control.parameters["lambda1"] == control.parameters["lambda2"] == 0
    base = next(step for step in itertools.chain(*rounds) if step.name == "second-base").parameters
    assert {step.parameters["init"] for step in pairs[-1]} == {base["output"]}
    settings = resolve("photos", "pretraining", {name: base[name] for name in ("seed", "epochs", "more")})
    assert settings.pretraining.hard_negatives_from < settings.pretraining.epochs < preset("photos").pretraining.epochs
    vmrm = [step.parameters["output"] for step in itertools.chain(*rounds) if step.what == "09_detector.ipynb"]
    assert vmrm == [str(HOMES["photos"] / f"seed-{seed}" / "vmrm") for seed in range(PUBLISHED_SEEDS)]
    for seeds, folder in {1: str(HOMES["photos"] / "figures"), PUBLISHED_SEEDS: "figures"}.items():
        written = {step.parameters.get("figures") for step in itertools.chain(*photos_plan(seeds))}
        assert written == {None, folder}


def test_missing_photographs_are_said_before_anything_is_done(monkeypatch, started, tmp_path):
    monkeypatch.setenv("AMC_PHOTOS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["order", "--tier", "photos", "--force"])
    with pytest.raises(SystemExit) as stopped:
        order.main()
    sentence = str(stopped.value)
    assert started == [] and str(tmp_path) in sentence and "data/README.md" in sentence
    assert "photographs of test" in sentence or "test.txt" in sentence


def test_paper_plan_launches_what_its_notebooks_show():
    steps = {step.name: step for step in itertools.chain(*paper_plan(2))}
    shown = [step for step in steps.values() if step.what == TRAINING]
    assert len(shown) == 4
    for step in shown:
        trained = steps[step.after[0]]
        assert trained.on_all_devices and trained.what == "amc_study.finetune"
        assert trained.parameters == step.parameters
    assert set(steps["answers"].sources[1:]) == {step.parameters["output"] for step in shown}


def test_key_depends_on_parameters_code_cells_imported_modules_and_what_came_before(root):
    def key(before: str = "k", **parameters: object) -> str:
        return Step("s", TRAINING, parameters, ("before",)).key({"before": before, "other": "o"})

    first = key(seed=0)
    assert len({first, key(seed=1), key(lambda1=0), key(), key("other", seed=0)}) == 5
    (root / "amc_lib" / "losses.py").write_text("x = 2\n")  # imported by what the notebook imports
    changed = key(seed=0)
    (root / "notebooks" / TRAINING).write_text(notebook("from amc_lib.step import x as y"))
    assert len({first, changed, key(seed=0)}) == 3


def test_key_depends_on_no_other_module_and_neither_on_comments_nor_prose_nor_outputs(root):
    step = Step("s", TRAINING)
    first = step.key({})
    (root / "amc_lib" / "captions.py").write_text("y = 1\n")
    (root / "amc_lib" / "losses.py").write_text('"""Losses."""\nx = 1  # one\n')
    (root / "notebooks" / TRAINING).write_text(notebook("from amc_lib.step import x", "Another sentence.", ({},)))
    assert step.key({}) == first


def test_steps_are_executed_in_order_and_only_when_something_changed(root, started, capsys, tmp_path):
    rounds = [[Step("a", TRAINING), Step("b", "amc_lib.losses")], [Step("c", "amc_lib.step", after=("a",))]]
    run_study(rounds, tmp_path / "home")
    assert sorted(started[:2]) == ["a", "b"] and started[2:] == ["c"]
    assert [row.name for row in study_rows(tmp_path / "home")] == [f"study_seconds_{name}" for name in "abc"]
    started.clear()
    run_study(rounds, tmp_path / "home")
    assert started == [] and "c: up to date" in capsys.readouterr().out
    (root / "notebooks" / TRAINING).write_text(notebook("from amc_lib.step import x as y"))
    (tmp_path / "home" / "steps" / "b.json").write_text("{")  # damaged: counts as none
    run_study(rounds, tmp_path / "home")
    assert sorted(started[:2]) == ["a", "b"] and started[2:] == ["c"]


def test_step_that_fails_is_named_and_stops_the_study(root, started, tmp_path):
    rounds = [[Step("a", TRAINING), Step("b", "amc_lib.losses")], [Step("c", "amc_lib.step", after=("a",))]]
    started.failing = ("a",)
    with pytest.raises(RuntimeError, match=re.escape(f"failed: a (see {tmp_path / 'home' / 'steps' / 'a.log'})")):
        run_study(rounds, tmp_path / "home")
    assert "c" not in started
    started.failing = ()
    started.clear()
    run_study(rounds, tmp_path / "home")
    assert "a" in started and started[-1] == "c"


def test_lines_of_a_step_are_shown_with_its_name_and_warnings_go_to_its_log(monkeypatch, tmp_path, capsys):
    source = "import os, sys; print('loss 2.5', os.environ['OMP_NUM_THREADS']); print('Warning', file=sys.stderr)"
    monkeypatch.setattr(Step, "command", lambda self, home: [sys.executable, "-c", source])
    assert perform(Step("amc-0", TRAINING), tmp_path, threads=2) == 0
    shown = capsys.readouterr().out
    assert "amc-0: loss 2.5 2\n" in shown and "Warning" not in shown
    assert "Warning" in (tmp_path / "steps" / "amc-0.log").read_text()


def test_commands_are_those_of_papermill_and_accelerate(tmp_path):
    command = Step("amc-0", TRAINING, {"seed": 3, "lambda1": 0.0}).command(tmp_path)
    assert command[1:3] == ["-m", "papermill"] and " ".join(command).endswith("-p seed 3 -p lambda1 0.0")
    train = Step("a", "amc_study.finetune", {"seed": 3}, on_all_devices=True).command(tmp_path)
    assert train[1:] == ["-m", "accelerate.commands.launch", "-m", "amc_study.finetune", "--seed", "3"]
    pages = Step("b", "amc_study.answers", sources=("x.pth",)).command(tmp_path)
    assert pages[1:] == ["-m", "amc_study.answers", "x.pth"]


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--seeds", "x"], ["--sedes", "1"]])
def test_wrong_argument_is_refused(monkeypatch, started, capsys, arguments):
    monkeypatch.setattr("sys.argv", ["order", *arguments])
    with pytest.raises(SystemExit) as stopped:
        order.main()
    assert stopped.value.code == 2 and started == []
    assert arguments[0] in capsys.readouterr().err
