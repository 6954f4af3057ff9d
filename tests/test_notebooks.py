"""Notebooks: thin, with what they need and take stated on top; 03 keeps the papermill contract.

03 is really executed, by papermill in a kernel of its own. The kernel reads a start-up file of this test, which makes
the scenes tier tiny; the notebook and the library are those of the repository.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from tiny_scenes import untrained

from amc_lib.checkpoints import load_checkpoint
from amc_lib.files import ROOT
from amc_study import notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
TRAIN = ROOT / "notebooks" / "03_train.ipynb"
CONTRACT = ["tier", "lambda1", "lambda2", "delta1", "delta2", "seed", "epochs", "batch_size", "learning_rate"]
CONTRACT += ["init", "output", "precision", "accumulation", "checkpointing", "workers", "more"]
STARTUP = """
import pathlib as _pathlib, sys as _sys
_sys.path.insert(0, {tests!r})
import tiny_scenes as _tiny
_tiny.install(_pathlib.Path({folder!r}))
"""


def read(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def code(path: Path) -> list[str]:
    return [cell.source for cell in read(path) if cell.cell_type == "code"]


@EACH
def test_first_cell_states_inputs_outputs_and_time(path):
    first = read(path)[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    for word in ("inputs", "outputs", "time"):
        assert re.search(rf"^\| \*\*{word}\*\* \| \S.* \|$", first.source, flags=re.MULTILINE), word


@EACH
def test_first_code_cell_holds_the_parameters_and_the_second_checks_them(path):
    cells = [cell for cell in read(path) if cell.cell_type == "code"]
    tagged = [number for number, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [0]
    statements = ast.parse(cells[0].source).body
    assert all(isinstance(statement, ast.Assign) for statement in statements)
    names = [target.id for statement in statements for target in statement.targets]
    assert " ".join(re.findall(r'"([\w ]+)"', cells[1].source)).split() == names
    assert cells[0].source.startswith('tier = "scenes"')  # whose outputs may be passed on


@EACH
def test_notebook_is_valid_and_small_without_long_cells_or_errors(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert not [source for source in code(path) if len(source.splitlines()) > 16]
    outputs = [output for cell in read(path) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size < 3_000_000


def test_no_placeholder_is_left():
    text = " ".join(cell.source for path in NOTEBOOKS for cell in read(path))
    assert not re.findall(r"\b(?:TIME_[A-Z]+|PHRASE\d?|TODO|FIXME)\b", text)


def test_03_has_the_parameters_of_the_contract_with_the_authors_defaults():
    values: dict[str, object] = {}
    exec(code(TRAIN)[0], values)
    del values["__builtins__"]
    assert list(values) == CONTRACT
    assert [values[name] for name in CONTRACT[:6]] == ["scenes", 0.2, 0.8, 0.1, 0.5, 0]


@pytest.fixture
def shell(monkeypatch):
    """An IPython shell of its own, which `start` takes for the notebook's."""
    shell = InteractiveShell()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    return shell


@EACH
def test_first_cells_run_twice_in_one_kernel_below_a_cell_of_ones_own(path, shell):
    parameters, check = code(path)[:2]
    for source in ("x = 1", parameters, check, "tier_of_mine = 2", parameters, check):
        shell.run_cell(source, store_history=True).raise_error()
    assert set(shell.user_ns["parameters"]) < set(shell.user_ns)


def test_names_of_folders_are_text_as_papermill_sets_them(shell):
    parameters, check = code(TRAIN)[:2]
    for source in (parameters, "# Parameters\noutput = 2024\n", check):
        shell.run_cell(source, store_history=True).raise_error()
    assert shell.user_ns["output"] == shell.user_ns["parameters"]["output"] == "2024"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("lamda1 = 1.0", "unknown parameter 'lamda1'; did you mean 'lambda1'?"),
        ("lambda1 = -1", "lambda1 must not be negative, got -1"),
    ],
)
def test_03_stops_at_once_at_what_is_wrong_with_one_sentence(shell, capsys, wrong, message):
    """As papermill does: what is given stands in a cell of its own below the parameters."""
    cells = code(TRAIN)
    ran = (shell.run_cell(source, store_history=True) for source in (cells[0], f"# Parameters\n{wrong}\n", *cells[1:3]))
    failed = next(result for result in ran if not result.success)
    assert message in str(failed.error_in_exec) and "settings" not in shell.user_ns
    shown = capsys.readouterr().out
    assert message in shown and "amc_lib/" not in shown and len(shown.splitlines()) < 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seeds = None", "seeds must have a value (the notebook's own is 1)"),
        ('trials = "false"', "trials must be True or False, got 'false'"),
        ("scenes = 1.5", "scenes must be a whole number of at least 1, got 1.5"),
    ],
)
def test_what_papermill_gives_is_of_the_kind_of_the_notebooks_own_value(given, message):
    own = 'tier = "scenes"  # the tier\nseeds = 1\nscenes = 1500\ntrials = False\nonly = None\n'
    namespace = {"In": ["", own, f"# Parameters\n{given}\n"]}
    exec(own + given, namespace)
    with pytest.raises(ValueError, match=re.escape(message)):
        notebook.start(namespace, "tier seeds scenes trials only")
    namespace |= {"In": ["", own, "# Parameters\nonly = 5\n"]}
    exec(f"{own}\nonly = 5", namespace)
    assert notebook.start(namespace, "tier seeds scenes trials only")["only"] == "5"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tier", "photo", "unknown tier 'photo'"),
        ("seeds", 0, "seeds must be a whole number of at least 1, got 0"),
        ("runs", [1], "runs must be a name or a path, got [1]"),
    ],
)
def test_wrong_parameter_is_one_sentence(name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        notebook.start({"tier": "scenes", "runs": None, "seeds": 1} | {name: value}, "tier runs seeds")


def test_own_results_never_stand_among_the_published():
    assert notebook.figures_folder(None, "scenes") == ROOT / "runs" / "figures"
    assert notebook.figures_folder("figures", "paper") == ROOT / "figures" / "paper"


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """An untrained checkpoint of the tiny tier, for `init`; beside it the folders that kernels use."""
    folder = tmp_path_factory.mktemp("notebooks")
    startup = folder / "ipython" / "profile_default" / "startup" / "00-tiny.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP.format(tests=str(ROOT / "tests"), folder=str(folder)))
    return untrained(folder / "start")


def test_03_leaves_a_checkpoint_and_metrics_in_the_folder_it_names(start, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(start.parent / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    parameters = {"lambda1": 1.0, "epochs": 2, "seed": 5, "batch_size": 32}
    parameters |= {"init": str(start), "output": str(tmp_path / "run")}
    papermill.execute_notebook(TRAIN, tmp_path / "out.ipynb", parameters, cwd=ROOT, progress_bar=False)
    outputs = [output for cell in read(tmp_path / "out.ipynb") for output in cell.get("outputs", [])]
    assert "".join(output.get("text", "") for output in outputs).rstrip().endswith("The run is in run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    settings, final = metrics["provenance"]["settings"], metrics["final"]
    assert settings["amc"]["lambda1"] == 1.0 and settings["amc"]["lambda2"] == 0.8
    assert (settings["finetuning"]["epochs"], settings["finetuning"]["batch_size"]) == (2, 32)
    assert (final["step"], final["epoch"]) == (4, 2)  # 64 scenes in batches of 32, twice
    assert final["amc"] > 0 and final["total"] > final["amc"] and 0 <= final["pointing"] <= 100
    assert (metrics["provenance"]["seed"], metrics["stage"]) == (5, "finetuning")
    assert metrics["init_sha256"] == load_checkpoint(start).sha256
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history["total"].iloc[-1] == pytest.approx(final["total"])
    assert load_checkpoint(tmp_path / "run").settings.finetuning.seed == 5
