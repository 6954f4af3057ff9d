"""The study: its plan holds together, what is up to date is left alone, and a notebook that fails is named."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from amc_study import order as study
from amc_study.order import Step, full_plan, paper_plan, plan, run_study

TRAINING = "03_train.ipynb"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """A copy of the notebooks beside a library of one line; the real ones are not touched."""
    shutil.copytree(study.NOTEBOOKS, tmp_path / "notebooks")
    (tmp_path / "amc_lib").mkdir()
    (tmp_path / "amc_lib" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.setattr(study, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(study, "STUDY", tmp_path / "runs" / "study")
    return tmp_path


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """Names of the steps that are executed; those in `started.failing` fail."""

    class Started(list):
        failing: tuple[str, ...] = ()

    class Process:
        def __init__(self, code: int) -> None:
            self.code = code

        def wait(self) -> int:
            return self.code

    names = Started()

    def start(step: Step, threads: str) -> Process:
        names.append(step.name)
        return Process(int(step.name in names.failing))

    monkeypatch.setattr(study, "_start", start)
    return names


def steps_of(seeds: int) -> list[Step]:
    return list(itertools.chain(*plan(seeds)))


def edit(path: Path, change) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    change(notebook["cells"])
    path.write_text(json.dumps(notebook), encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_step_comes_after_what_it_needs(seeds):
    done: set[str] = set()
    for steps in plan(seeds):
        for step in steps:
            assert set(step.after) <= done, step.name
        done |= {step.name for step in steps}
    assert len(done) == len(steps_of(seeds)) == 4 + 3 * seeds  # data, pretrain, evaluate, explore; three a seed


@pytest.mark.parametrize("seeds", [1, 3])
def test_notebooks_and_their_parameters_exist(seeds, root):
    for step in steps_of(seeds):
        cells = json.loads((root / "notebooks" / step.notebook).read_text(encoding="utf-8"))["cells"]
        declared = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        names = re.findall(r"^(\w+) =", "".join(declared["source"]), flags=re.MULTILINE)
        assert set(step.parameters) <= set(names), step.name


def test_full_plan_is_the_plan_and_then_everything_else(root):
    rounds = full_plan(3)
    assert rounds[: len(plan(3))] == plan(3)
    done: set[str] = set()
    for steps in rounds:
        assert all(set(step.after) <= done for step in steps)
        done |= {step.name for step in steps}
    shown = {step.notebook for steps in rounds for step in steps if step.notebook}
    assert shown == {path.name for path in (root / "notebooks").glob("*.ipynb")}
    (beside,) = (steps for steps in rounds if "benchmarks" in [step.name for step in steps])
    assert len(beside) == 1  # nothing runs beside a measurement
    assert [step.name for step in rounds[-1]] == ["pages"] and "ablations" in rounds[-1][0].after


def test_modules_of_the_full_plan_exist():
    for step in itertools.chain(*full_plan(1)):
        if step.module:
            assert importlib.util.find_spec(step.module), step.module
            assert step.command()[1:] == ["-m", step.module]


def test_seeds_do_not_share_folders_and_start_from_the_same_pretraining():
    trained = [step for step in steps_of(3) if step.notebook == TRAINING]
    assert len({step.parameters["output"] for step in trained}) == len(trained) == 6
    for step in trained:
        assert f"seed-{step.parameters['seed']}" in step.parameters["output"]
        assert "init" not in step.parameters and step.after == ("pretrain",)


def test_control_differs_from_amc_in_its_lambdas_alone():
    steps = {step.name: step for step in steps_of(1)}
    control, amc = (dict(steps[name].parameters) for name in ("finetune-0", "amc-0"))
    assert (control.pop("lambda1"), control.pop("lambda2")) == (0, 0)
    assert control.pop("output") != amc.pop("output")
    assert control == amc


def test_one_seed_opens_the_shipped_detector_based_run_and_several_train_it():
    def outputs(seeds: int) -> list[str | None]:
        return [s.parameters.get("output") for s in steps_of(seeds) if s.notebook == "09_detector.ipynb"]

    assert outputs(1) == [None]
    assert outputs(2) == [str(study.STUDY / f"seed-{seed}" / "vmrm") for seed in (0, 1)]


@pytest.mark.parametrize("seeds", [1, 2])
def test_paper_plan_launches_what_its_notebooks_show(seeds, root):
    steps = [step for steps in paper_plan(seeds) for step in steps]
    for number, step in enumerate(steps):
        assert set(step.after) <= {before.name for before in steps[:number]}, step.name
    launched = {step.name: step.launch for step in steps if step.launch}
    shown = [step for step in steps if step.notebook == TRAINING]
    assert len(launched) == len(shown) + 1 == 2 * seeds + 1  # two trainings a seed, and the answers
    for step in shown:
        (trained,) = step.after
        module, *options = launched[trained]
        given = dict(zip([option.removeprefix("--") for option in options[::2]], options[1::2], strict=True))
        assert module == "amc_study.finetune" and given == {name: str(value) for name, value in step.parameters.items()}
    asked, table = steps[-2:]
    assert asked.launch[0] == "amc_study.answers"
    assert set(asked.launch[2:]) == {step.parameters["output"] for step in shown}
    assert table.parameters == {"tier": "paper", "runs": str(study.PAPER), "seeds": seeds}
    assert all(step.home == study.PAPER and step.parameters.get("tier", "paper") == "paper" for step in steps)


def test_commands_are_those_of_papermill_and_accelerate(root):
    notebook, launch = Step("a", TRAINING, {"seed": 1}), Step("b", None, launch=("amc_study.answers", "x.pth"))
    assert notebook.command()[1:3] == ["-m", "papermill"] and notebook.command()[-3:] == ["-p", "seed", "1"]
    assert launch.command()[1:] == ["-m", "accelerate.commands.launch", "-m", "amc_study.answers", "x.pth"]


# --------------------------------------------------------------------------------------------------------------- keys


def test_key_depends_on_parameters_notebook_library_and_what_came_before(root):
    def key(keys: str = "k", **parameters: object) -> str:
        return Step("s", TRAINING, parameters, ("before",)).key({"before": keys, "other": "o"})

    first = key(seed=0)
    assert key(seed=0) == first
    assert len({first, key(seed=1), key(lambda1=0), key(), key("other", seed=0)}) == 5
    (root / "amc_lib" / "code.py").write_text("x = 2\n")
    with_library = key(seed=0)
    edit(root / "notebooks" / TRAINING, lambda cells: cells[-1].update(source=["print(2)"]))
    assert len({first, with_library, key(seed=0)}) == 3


def test_key_does_not_depend_on_outputs_or_steps_that_it_does_not_need(root):
    step = Step("s", TRAINING, {"seed": 0}, ("before",))
    first = step.key({"before": "k"})

    def execute(cells: list[dict]) -> None:
        for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
            text = {"output_type": "stream", "name": "stdout", "text": ["done"]}
            cell.update(outputs=[text], execution_count=number, metadata=cell["metadata"] | {"papermill": {}})

    edit(root / "notebooks" / TRAINING, execute)
    edit(root / "notebooks" / "04_evaluate.ipynb", lambda cells: cells.pop())
    assert step.key({"before": "k", "other": "o"}) == first


# --------------------------------------------------------------------------------------------------------------- runs


def test_steps_are_executed_in_order_and_not_twice(started, capsys):
    run_study(2)
    assert started == [step.name for step in steps_of(2)]
    started.clear()
    run_study(2)
    assert started == []
    assert "amc-1: up to date" in capsys.readouterr().out


def test_another_seed_adds_its_own_steps(started):
    run_study(1)
    started.clear()
    run_study(2)
    assert sorted(started[:4]) == ["amc-1", "finetune-1", "vmrm-0", "vmrm-1"]  # with one seed vmrm-0 is the shipped one
    assert started[4:] == ["evaluate", "explore"]


def test_changed_notebook_repeats_itself_and_what_follows(started, root):
    run_study(1)
    started.clear()
    edit(root / "notebooks" / TRAINING, lambda cells: cells[-1].update(source=["print(2)"]))
    run_study(1)
    assert sorted(started[:2]) == ["amc-0", "finetune-0"] and started[2:] == ["evaluate", "explore"]


def test_changed_library_repeats_everything(started, root):
    run_study(1)
    started.clear()
    (root / "amc_lib" / "more.py").write_text("y = 1\n")
    run_study(1)
    assert len(started) == len(steps_of(1))


def test_force_repeats_everything(started, root):
    run_study(1)
    left_over = root / "runs" / "study" / "seed-0" / "amc" / "metrics.json"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    started.clear()
    run_study(1, force=True)
    assert len(started) == len(steps_of(1))
    assert not left_over.exists()


def test_damaged_stamp_counts_as_none(started, root):
    run_study(1)
    started.clear()
    (root / "runs" / "study" / "steps" / "explore.json").write_text("{")
    run_study(1)
    assert started == ["explore"]


def test_notebook_that_fails_is_named_and_stops_the_study(started, root):
    started.failing = ("amc-0",)
    where = root / "runs" / "study" / "notebooks" / "amc-0.ipynb"
    with pytest.raises(RuntimeError, match=re.escape(f"failed: {TRAINING} (see {where})")) as caught:
        run_study(1)
    assert "finetune-0" not in str(caught.value)
    assert "evaluate" not in started
    started.failing = ()
    started.clear()
    run_study(1)
    assert "amc-0" in started and "pretrain" not in started and started[-2:] == ["evaluate", "explore"]


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (8, "2")])
def test_steps_side_by_side_share_the_cores(monkeypatch, started, cores, threads):
    given, start = [], study._start
    monkeypatch.setattr(study.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(study, "_start", lambda step, threads: given.append(threads) or start(step, threads))
    steps = plan(1)[2]
    study._execute(steps, {step.name: "" for step in steps})
    assert given == [threads] * len(steps) == [threads] * 3


def test_command_hands_every_parameter_to_papermill(monkeypatch, root):
    commands = []
    monkeypatch.setattr(study.subprocess, "Popen", lambda command, **options: commands.append((command, options)))
    study._start(Step("amc-0", TRAINING, {"seed": 3, "lambda1": 0.0}), threads="2")
    (command, options), executed = commands[0], root / "runs" / "study" / "notebooks" / "amc-0.ipynb"
    assert command[1:3] == ["-m", "papermill"]
    assert [str(root / "notebooks" / TRAINING), str(executed)] == [part for part in command if part.endswith(".ipynb")]
    assert " ".join(command).endswith("-p seed 3 -p lambda1 0.0")
    assert options["cwd"] == root and options["env"]["OMP_NUM_THREADS"] == "2"
    assert executed.parent.is_dir()


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--seeds", "x"], ["--sedes", "1"]])
def test_wrong_argument_is_refused(monkeypatch, started, capsys, arguments):
    monkeypatch.setattr("sys.argv", ["study", *arguments])
    with pytest.raises(SystemExit) as stopped:
        study.main()
    assert stopped.value.code == 2 and started == []
    assert arguments[0] in capsys.readouterr().err
