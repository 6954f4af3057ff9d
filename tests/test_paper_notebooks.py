"""The paper tier from downloads to table: notebooks 01 to 04 on a mini copy of the data, through papermill.

Every data set is in its own raw format, the model starts from a tiny file in the shape of the official ALBEF.pth, and
finetuning is also launched on two processes as `accelerate launch` would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mini_paper
import nbformat
import pandas as pd
import papermill
import pytest

from amc_lib.checkpoints import load_checkpoint
from amc_study import order as study
from amc_study.run_folder import open_run

ROOT = Path(__file__).resolve().parents[1]
STARTUP = """
import pathlib, mini_paper
mini_paper.install(pathlib.Path({root!r}))
"""  # read by every Python process that these tests start
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root; beside the data the folders that runs, answers and figures of these tests go to."""
    root = tmp_path_factory.mktemp("paper")
    mini_paper.write(root)
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(STARTUP.format(root=str(root)))
    return root


@pytest.fixture(scope="module")
def environment(root) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (root / "site", ROOT, ROOT / "notebooks", ROOT / "tests")))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def execute(notebook: str, root: Path, environment: dict[str, str], **parameters: object) -> str:
    """The text of all outputs of a notebook executed with tier=paper."""
    executed = root / f"executed-{notebook}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        parameters = {"tier": "paper", **parameters}
        papermill.execute_notebook(ROOT / "notebooks" / notebook, executed, parameters, cwd=ROOT, progress_bar=False)
    outputs = [o for cell in nbformat.read(executed, as_version=4).cells for o in cell.get("outputs", [])]
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def launch(module: str, environment: dict[str, str], *arguments: str) -> str:
    """What a module prints, run on two processes in the tiny tier."""
    done = subprocess.run(
        [*LAUNCH, "-m", module, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(root, environment) -> Path:
    """The runs of one seed, AMC's on two processes with half the batch each."""
    runs = root / "runs" / "launched"
    options = ("--tier", "paper", "--seed", "3", "--epochs", "1")
    printed = launch("amc_study.finetune", environment, *options, "--batch_size", "2", "--output", f"{runs}/seed-0/amc")
    assert "finetuning: seed 3" in printed
    control = ("--lambda1", "0", "--lambda2", "0.0", "--output", f"{runs}/seed-0/albef-finetuned")
    launch("amc_study.finetune", environment, *options, *control)
    return runs


def test_01_checks_and_shows_the_data(root, environment):
    text = execute("01_data.ipynb", root, environment, figures=str(root / "figures"))
    assert "Visual Genome" in text and "differs" in text  # a mini copy has other counts than the known ones
    assert "'held_out_images': 2" in text
    sizes = pd.read_csv(root / "figures" / "paper" / "paper_splits.csv").set_index("split")
    assert sizes["phrases"].to_dict() == {
        "validation": 20, "flickr30k": 20, "refcoco+ A": 9, "refcoco+ B": 9, "refclef": 6
    }  # fmt: skip
    assert (root / "figures" / "paper" / "paper.png").stat().st_size > 10_000


def test_02_imports_the_official_checkpoint(root, environment):
    text = execute("02_pretrain.ipynb", root, environment, output=str(root / "runs" / "albef"))
    assert "ALBEF.pth: 243 tensors loaded" in text
    run = open_run(root / "runs" / "albef")
    assert run.metrics["data"]["loaded"] == 243 and run.history.empty
    assert load_checkpoint(run.folder).settings == mini_paper.settings(root)


def test_two_processes_leave_one_run(trained):
    run = open_run(trained / "seed-0" / "amc")
    assert run.metrics["provenance"]["processes"] == 2 and run.metrics["data"]["held_out_images"] == 2
    assert run.history["step"].iloc[-1] == run.metrics["data"]["regions"] // 4
    assert open_run(trained / "seed-0" / "albef-finetuned").metrics["final"]["amc"] == 0


def test_03_opens_what_was_launched_and_says_how(root, environment, trained):
    output = str(trained / "seed-0" / "amc")
    text = execute("03_train.ipynb", root, environment, seed=3, epochs=1, batch_size=2, output=output)
    assert "accelerate launch -m amc_study.finetune --tier paper --lambda1 0.2" in text
    assert "finetuning: up to date" in text


def test_04_asks_all_splits_and_writes_the_table(root, environment, trained):
    sources = [str(root / "checkpoints" / "ALBEF.pth"), *(f"{trained}/seed-0/{n}" for n in ("albef-finetuned", "amc"))]
    printed = launch("amc_study.answers", environment, *sources)
    stored = sorted(path.name for path in (root / "runs" / "answers").rglob("*.safetensors"))
    assert len(stored) == 3 * 4 * 3  # one part of each split for each checkpoint, with own and two wrong phrases
    execute("04_evaluate.ipynb", root, environment, runs=str(trained), figures=str(root / "figures"))
    assert (
        sorted(path.name for path in (root / "runs" / "answers").rglob("*.safetensors")) == stored
    )  # nothing asked again
    figures = root / "figures" / "paper"
    table = pd.read_csv(figures / "table1.csv").set_index(["system", "split"])
    assert set(table.index.get_level_values("split")) == {
        "Flickr30k test", "RefCOCO+ testA", "RefCOCO+ testB", "RefCLEF test"
    }  # fmt: skip
    for system, source in zip(("ALBEF", "ALBEF finetuned", "AMC"), sources, strict=True):
        line = next(line for line in printed.splitlines() if line.startswith(f"{source}, Flickr30k test"))
        accuracy = table.loc[(system, "Flickr30k test"), "accuracy"]
        assert f" {accuracy:.2f} % of 20 phrases" in line
    ranking = pd.read_csv(figures / "box_ranking.csv")
    assert set(ranking["split"]) == {"RefCOCO+ testA", "RefCOCO+ testB"} and ranking["accuracy"].between(0, 100).all()
    provenance = json.loads((figures / "accuracy.json").read_text(encoding="utf-8"))
    assert provenance["settings"]["tier"] == "paper" and provenance["left_out"] == {}


@pytest.mark.slow
def test_make_paper_does_all_of_it(root, environment):
    command = [sys.executable, "-m", "amc_study.order", "--tier", "paper"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The study is complete" in done.stdout
    home = root / "runs" / "paper"
    assert {path.stem for path in (home / "steps").iterdir()} == {step.name for (step,) in study.paper_plan(1)}
    assert open_run(home / "seed-0" / "amc").metrics["final"]["amc"] > 0
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.stdout.count("up to date") == len(study.paper_plan(1))
