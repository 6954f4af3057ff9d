"""What the study executes and in which order: a plan for each tier, rounds of steps that may run side by side."""

from __future__ import annotations

from pathlib import Path

from amc_lib.checkpoints import exists, of_seed, official_albef
from amc_lib.files import proposals_file
from amc_study.comparison import BASE, shipped_name
from amc_study.run_folder import RUNS
from amc_study.steps import Step

PUBLISHED_SEEDS = 3
WITHOUT_AMC = {"lambda1": 0.0, "lambda2": 0.0}
SHORTER = {"epochs": 5, "more": '{"fuse_from": 2, "hard_negatives_from": 4}'}  # the second base on photographs
HOMES = {tier: RUNS / name for tier, name in {"scenes": "study", "photos": "photos", "paper": "paper"}.items()}
"""Folders of runs and executed notebooks."""


def plan(seeds: int, full: bool = False) -> list[list[Step]]:
    """The study's steps in rounds, those of a round side by side; with `full` of all that figures/ and README show.

    Every seed has a base and a detector of its own; what the repository ships of them is opened. With one seed VMRM is
    not trained: 09 and 04 open its shipped run. What measures time has the machine to itself.
    """
    home, start = HOMES["scenes"], ("pretrain",)
    figures = {"figures": _figures(seeds, home)}
    compared = {"runs": str(home), "seeds": seeds} | figures
    bases, training = [Step("pretrain", "02_pretrain.ipynb", figures, ("data",))], []
    for seed in range(seeds):
        names = ("amc", "albef-finetuned", "vmrm", BASE)
        amc, control, vmrm, base = ({"seed": seed, "output": str(home / f"seed-{seed}" / name)} for name in names)
        begun, init = start, {}
        if seed:
            begun, name = (f"pretrain-{seed}",), of_seed(shipped_name("ALBEF", "scenes"), seed)
            if exists(name):
                del base["output"]
            init = {"init": base.get("output", name)}
            bases.append(Step(*begun, "02_pretrain.ipynb", base, ("data",)))
        if seeds == 1:
            del vmrm["output"]
        training += [
            Step(f"amc-{seed}", "03_train.ipynb", amc | init, begun),
            Step(f"vmrm-{seed}", "09_detector.ipynb", vmrm | figures, start),
            Step(f"finetune-{seed}", "03_train.ipynb", control | WITHOUT_AMC | init, begun),
        ]
    shown = {name: str(home / "seed-0" / name) for name in (("amc",) if seeds == 1 else ("amc", "vmrm"))}
    trained = tuple(step.name for step in training)
    rounds = [
        [Step("data", "01_data.ipynb", figures)],
        bases,
        training,
        [Step("evaluate", "04_evaluate.ipynb", compared, trained)],
        [Step("explore", "06_explore.ipynb", shown, trained)],
    ]
    if full:
        rounds += [
            [Step("explanations", "10_explanations.ipynb", compared, ("evaluate",))],
            [Step("method", "00_method.ipynb", after=start), Step("own-data", "07_your_data.ipynb", after=start)],
            [Step("planted", "08_planted.ipynb", figures | {"seeds": seeds}, start)],
            [Step("ablations", "05_ablations.ipynb", figures, start)],
        ]
    if full and seeds == PUBLISHED_SEEDS:
        rounds += [
            [Step("film", "amc_study.report.film", after=start)],
            [Step("benchmarks", "tests.bench", after=start)],
        ]
        rounds += [[Step("pages", "amc_study.report", after=tuple(step.name for steps in rounds for step in steps))]]
    return rounds


def photos_plan(seeds: int) -> list[list[Step]]:
    """The same on real photographs, on a laptop: AMC beside its control, VMRM, and two of the ablations.

    With the published number of seeds also a second, shorter base of another seed, and AMC and control above it.
    """
    home, photos = HOMES["photos"], {"tier": "photos"}
    figures = photos | {"figures": _figures(seeds, home)}
    compared = figures | {"runs": str(home), "seeds": seeds}
    rounds = [
        [Step("data", "01_data.ipynb", figures)],
        [Step("pretrain", "02_pretrain.ipynb", figures, ("data",))],
    ]
    trained: list[str] = []
    for seed in range(seeds):
        names = ("amc", "albef-finetuned", "vmrm")
        amc, control, vmrm = (photos | {"seed": seed, "output": str(home / f"seed-{seed}" / name)} for name in names)
        steps = {f"amc-{seed}": amc, f"finetune-{seed}": control | WITHOUT_AMC}
        rounds.append([Step(name, "03_train.ipynb", options, ("pretrain",)) for name, options in steps.items()])
        rounds.append([Step(f"vmrm-{seed}", "09_detector.ipynb", figures | vmrm, ("pretrain",))])
        trained += [*steps, f"vmrm-{seed}"]
    if seeds == PUBLISHED_SEEDS:
        names = (BASE, "amc", "albef-finetuned")
        base, amc, control = (photos | {"seed": 1, "output": str(home / "second" / name)} for name in names)
        above = {"init": base["output"]}
        rounds.append([Step("second-base", "02_pretrain.ipynb", base | SHORTER, ("data",))])
        steps = {"second-amc": amc | above, "second-finetune": control | WITHOUT_AMC | above}
        rounds.append([Step(name, "03_train.ipynb", options, ("second-base",)) for name, options in steps.items()])
        trained += steps
    shown = photos | {"amc": str(home / "seed-0" / "amc")}
    ablations = figures | {"only": "terms controls", "seeds": seeds}
    rounds += [
        [Step("evaluate", "04_evaluate.ipynb", compared, tuple(trained))],
        [Step("explore", "06_explore.ipynb", shown, tuple(trained))],
        [Step("explanations", "10_explanations.ipynb", compared, ("evaluate",))],
        [Step("method", "00_method.ipynb", photos, tuple(trained))],
        [Step("ablations", "05_ablations.ipynb", ablations, ("pretrain",))],
    ]
    return rounds


def paper_plan(seeds: int) -> list[list[Step]]:
    """The paper's own data, one step at a time; 03 shows what `accelerate launch` has trained."""
    home, paper = HOMES["paper"], {"tier": "paper"}
    figures = {"figures": _figures(seeds, home)}
    steps = [
        Step("data", "01_data.ipynb", paper | figures),
        Step("pretrain", "02_pretrain.ipynb", paper, ("data",)),
    ]
    outputs = []
    for seed in range(seeds):
        for name, lambdas in (("amc", {}), ("albef-finetuned", WITHOUT_AMC)):
            outputs.append(str(home / f"seed-{seed}" / name))
            options = paper | {"seed": seed} | lambdas | {"output": outputs[-1]}
            train = Step(f"train-{name}-{seed}", "amc_study.finetune", options, ("pretrain",), on_all_devices=True)
            steps += [train, Step(f"show-{name}-{seed}", "03_train.ipynb", options, (train.name,))]
    if proposals_file().is_file():
        for seed in range(seeds):
            options = paper | {"seed": seed, "output": str(home / f"seed-{seed}" / "vmrm")} | figures
            steps.append(Step(f"show-vmrm-{seed}", "09_detector.ipynb", options, ("pretrain",)))
    shown = tuple(step.name for step in steps if step.name.startswith("show-"))
    compared = paper | {"runs": str(home), "seeds": seeds} | figures
    sources = (str(official_albef()), *outputs)
    steps.append(Step("answers", "amc_study.answers", {}, shown, on_all_devices=True, sources=sources))
    steps.append(Step("evaluate", "04_evaluate.ipynb", compared, ("answers",)))
    return [[step] for step in steps]


def _figures(seeds: int, home: Path) -> str:
    return "figures" if seeds == PUBLISHED_SEEDS else str(home / "figures")
