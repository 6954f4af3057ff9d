"""The paper tier from downloads to table: notebooks 01 to 04 on a mini copy of the data.

Every data set is in its own raw format, the model starts from a tiny file in the shape of the official ALBEF.pth, and
what `accelerate launch` starts on several devices is started here on two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mini_paper
import pandas as pd
import pytest
from tiny_scenes import run_notebook

from amc_lib.checkpoints import load_checkpoint
from amc_lib.files import ROOT
from amc_study import finetune
from amc_study import order as study
from amc_study.run_folder import open_run

STARTUP = """
import pathlib, mini_paper
mini_paper.install(pathlib.Path({root!r}))
"""  # read by every Python process that these tests start
LAUNCH = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root, beside the data the folders for runs, answers and figures, and the tiny tier in this process."""
    root = tmp_path_factory.mktemp("paper")
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(STARTUP.format(root=str(root)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_DATA", "")  # undone afterwards, as is what `install` sets
        mini_paper.write(root)
        mini_paper.install(root, patch.setattr)
        yield root


def start(root: Path, *arguments: str) -> str:
    """What `python -m` with these arguments prints, in the tiny tier."""
    paths = os.pathsep.join(map(str, (root / "site", ROOT, ROOT / "notebooks", ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(root) -> Path:
    """The runs of one seed, AMC's on two processes with half the batch each."""
    runs = root / "runs" / "launched"
    options = ("--tier", "paper", "--seed", "3", "--epochs", "1", "--output")
    launched = start(root, *LAUNCH, "amc_study.finetune", *options, f"{runs}/seed-0/amc", "--batch_size", "2")
    assert "finetuning: seed 3" in launched
    finetune.main([*options, f"{runs}/seed-0/albef-finetuned", "--lambda1", "0", "--lambda2", "0.0"])
    return runs


def answers(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "runs" / "answers").rglob("*.safetensors"))


def test_01_counts_and_shows_the_data(root, capsys):
    run_notebook("01_data", tier="paper", figures=str(root / "figures"))
    assert "'held_out_images': 2" in capsys.readouterr().out
    sizes = pd.read_csv(root / "figures" / "paper" / "paper_splits.csv").set_index("split")
    counts = {"validation": 20, "flickr30k": 20, "refcoco+ A": 9, "refcoco+ B": 9, "refclef": 6}
    assert sizes["phrases"].to_dict() == counts
    assert (root / "figures" / "paper" / "local" / "paper.png").stat().st_size > 10_000


def test_02_imports_the_official_checkpoint(root, capsys):
    run_notebook("02_pretrain", tier="paper", output=str(root / "runs" / "albef"))
    assert "ALBEF.pth: 243 tensors loaded" in capsys.readouterr().out
    run = open_run(root / "runs" / "albef")
    assert run.metrics["data"]["loaded"] == 243 and run.history.empty
    assert load_checkpoint(run.folder).settings == mini_paper.settings(root)


def test_two_processes_leave_one_run(trained):
    run = open_run(trained / "seed-0" / "amc")
    assert run.metrics["provenance"]["processes"] == 2 and run.metrics["data"]["held_out_images"] == 2
    assert run.history["step"].iloc[-1] == run.metrics["data"]["regions"] // 4
    assert open_run(trained / "seed-0" / "albef-finetuned").metrics["final"]["amc"] == 0


def test_03_opens_what_was_launched_and_says_how(trained, capsys):
    output = str(trained / "seed-0" / "amc")
    run_notebook("03_train", tier="paper", seed=3, epochs=1, batch_size=2, output=output)
    text = capsys.readouterr().out
    assert "accelerate launch -m amc_study.finetune --tier paper --lambda1 0.2" in text
    assert "finetuning: up to date" in text


def test_04_shows_what_two_processes_have_asked_and_writes_the_table(root, trained):
    sources = [str(root / "checkpoints" / "ALBEF.pth"), *(f"{trained}/seed-0/{n}" for n in ("albef-finetuned", "amc"))]
    printed = start(root, *LAUNCH, "amc_study.answers", *sources)
    stored = answers(root)
    # One part of each of 4 splits for each of 3 checkpoints, and of the first one with random phrases. The picture's
    # other ones are known by then, and of Flickr30k's mini data every thing is of a type that may be there unnamed.
    assert len(stored) == 3 * (4 + 1)
    run_notebook("04_evaluate", tier="paper", runs=str(trained), figures=str(root / "figures"))
    assert answers(root) == stored  # nothing is asked again
    figures = root / "figures" / "paper"
    table = pd.read_csv(figures / "table1.csv").set_index(["system", "split"])
    asked = ["Flickr30k test", "RefCOCO+ testA", "RefCOCO+ testB", "RefCLEF test"]
    assert {split.partition(", which")[0] for split in table.index.get_level_values("split")} == set(asked)
    for system, source in zip(("ALBEF", "ALBEF finetuned", "AMC"), sources, strict=True):
        line = next(line for line in printed.splitlines() if line.startswith(f"{source}, Flickr30k test"))
        accuracy = table.loc[(system, "Flickr30k test"), "accuracy"]
        assert f" {accuracy:.2f} % of 20 phrases" in line
    claims = pd.read_csv(figures / "claims.csv").set_index("claim")
    assert claims.loc["AMC is better than ALBEF: referring A", "items"] == 9
    ranking = pd.read_csv(figures / "box_ranking.csv")
    assert set(ranking["split"]) == {"RefCOCO+ testA", "RefCOCO+ testB"} and ranking["accuracy"].between(0, 100).all()
    provenance = json.loads((figures / "accuracy.json").read_text(encoding="utf-8"))
    assert provenance["settings"]["tier"] == "paper" and provenance["left_out"] == {}


@pytest.mark.slow
def test_make_paper_does_all_of_it(root):
    assert "The study is complete" in start(root, "amc_study.order", "--tier", "paper")
    home = root / "runs" / "paper"
    assert {path.stem for path in (home / "steps").iterdir()} == {step.name for (step,) in study.paper_plan(1)}
    assert open_run(home / "seed-0" / "amc").metrics["final"]["amc"] > 0
    again = start(root, "amc_study.order", "--tier", "paper")
    assert again.count("up to date") == len(study.paper_plan(1))
