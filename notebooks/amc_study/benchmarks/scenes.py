"""Speed on scenes: drawing them, training on them, and that against the first landed version on the same machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from amc_lib.config import SceneSettings
from amc_lib.files import ROOT, write_json
from amc_lib.model.trunk import Lite0Trunk
from amc_lib.presets import preset
from amc_study.benchmarks import training_rounds
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.processes import in_processes, together
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import ratio, side_by_side, spread, use_all_cores
from amc_study.scenes import scene as scenes
from amc_study.scenes.splits import SceneSplit

SPLITS = {"pretraining": "pretrain", "finetuning": "train"}


def drawing_rows(plan: Plan) -> list[Row]:
    """Scenes a second by one process, and by as many as there are cores, all drawing at once."""
    settings, cores = preset("scenes").scenes, os.cpu_count() or 1
    rows = []
    for name, processes in (("scenes_per_second", cores), ("scenes_per_second_one_process", 1)):
        parts = [(settings, plan.drawn, plan.drawn * part, plan.repetitions) for part in range(processes)]
        rates = in_processes(draw_rates, parts, plan.own_processes)
        rows.append(row(name, spread([sum(of_round) for of_round in zip(*rates, strict=True)]), "scenes/s"))
    return rows


def draw_rates(settings: SceneSettings, count: int, first: int, rounds: int) -> list[float]:
    """Scenes a second in each of `rounds` equal parts of `count` scenes from `first` on, after one for the caches."""
    torch.set_num_threads(1)
    scenes.draw(settings, "train", first)
    together()
    each, rates = max(1, count // rounds), []
    for part in range(rounds):
        begin = time.perf_counter()
        for index in range(each):
            scenes.draw(settings, "train", first + part * each + index)
        rates.append(each / (time.perf_counter() - begin))
    return rates


def training_rows(plan: Plan) -> list[Row]:
    """Samples (pairs of image and phrase) a second in both stages; ratios to the first version, and of trials."""
    threads = use_all_cores()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        inputs = Path(folder) / "inputs.json"
        write_json(inputs, _inputs(plan))
        now = stack.enter_context(trainer(ROOT, inputs, threads))
        rows = _stage_rows(plan, now) + _trial_rows(plan, now)
        several = threads > 1 and plan.own_processes
        seeds = [stack.enter_context(trainer(ROOT, inputs, 1)) for _ in range(threads if several else 0)]
        if seeds:
            rows.append(_seeds_row(plan, now, seeds))
        if plan.first_version and _extract(plan.first_version, Path(folder) / "first"):
            first = stack.enter_context(trainer(Path(folder) / "first", inputs, threads))
            rows += _first_version_rows(plan, now, seeds, first)
        elif plan.first_version:
            print(f"{plan.first_version} is not in this clone's history: no ratio to the first landed version")
    return rows


class Trainer:
    """A process that trains when told to, with the library of one tree."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def begin(self, **command: Any) -> None:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Seconds and samples of what was begun. Raises RuntimeError if the process ended instead."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"training ended with exit code {self.process.wait()}: {self.process.args}")
        return json.loads(line)

    def train(self, **command: Any) -> dict[str, float]:
        self.begin(**command)
        return self.answer()

    def seconds_a_sample(self, **command: Any) -> float:
        done = self.train(**command)
        return done["seconds"] / done["samples"]


@contextmanager
def trainer(tree: Path, inputs: Path, threads: int) -> Iterator[Trainer]:
    """A trainer with the library that stands in `tree`, closed on leaving."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-P", training_rounds.__file__, str(inputs)]
    with subprocess.Popen(
        command, cwd=tree, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield Trainer(process)
        finally:
            process.terminate()


def _inputs(plan: Plan) -> dict[str, Any]:
    """Phrases of drawn scenes for both stages, and the shape of an image's features."""
    settings = preset("scenes")
    phrases = {}
    for stage, split in SPLITS.items():
        drawn = [scenes.draw(settings.scenes, split, index) for index in range(plan.drawn)]
        captions, regions = [list(scene.captions) for scene in drawn], [list(scene.regions) for scene in drawn]
        bank = SceneSplit(settings.scenes, split, torch.empty(0), captions, regions)
        of_stage = bank.caption_phrases() if stage == "pretraining" else bank.region_phrases()
        phrases[stage] = [[(one.text, one.boxes, one.things) for one in row] for row in of_stage if row]
    side = settings.model.vision.grid
    return {"phrases": phrases, "features": [Lite0Trunk.channels, side, side]}


def _stage_rows(plan: Plan, now: Trainer) -> list[Row]:
    rows = []
    for stage in SPLITS:
        seconds = _rounds(plan, {"": (now, stage, {})})[""]
        rows.append(row(f"{stage}_samples_per_second", spread([1 / s for s in seconds]), "pairs/s"))
    return rows


def _rounds(plan: Plan, forms: dict[str, tuple[Trainer, str, dict[str, Any]]]) -> dict[str, list[float]]:
    """Seconds a sample of trainers side by side, each at a stage and with changed settings."""
    calls = {
        name: lambda one=one, stage=stage, changed=changed: one.seconds_a_sample(
            stage=stage, **{"batch_size": plan.scene_batch} | changed
        )
        for name, (one, stage, changed) in forms.items()
    }
    return side_by_side(calls, plan.repetitions, plan.warm_up)


def _trial_rows(plan: Plan, now: Trainer) -> list[Row]:
    """What would change the numbers of a training: measured, not switched on."""
    trials = {"bf16": {"precision": "bf16"}, "batch_twice": {"batch_size": 2 * plan.scene_batch}}
    forms = {name: (now, "finetuning", changed) for name, changed in {"as_shipped": {}, **trials}.items()}
    seconds = _rounds(plan, forms)
    return [row(f"finetune_trial_{name}", ratio(seconds, "as_shipped", name), "times") for name in trials]


def _seeds_row(plan: Plan, now: Trainer, seeds: list[Trainer]) -> Row:
    """As many seeds as cores side by side, one thread each, against one after the other with all threads."""
    command = {"stage": "finetuning", "batch_size": plan.scene_batch}
    calls = {"in_turn": lambda: now.seconds_a_sample(**command), "abreast": lambda: _abreast(seeds, command)}
    seconds = side_by_side(calls, plan.repetitions, plan.warm_up)
    return row("finetune_seeds_abreast_speedup", ratio(seconds, "in_turn", "abreast"), "times")


def _abreast(seeds: list[Trainer], command: dict[str, Any]) -> float:
    """Seconds a sample of trainers that train at the same time."""
    for seed in seeds:
        seed.begin(**command)
    done = [seed.answer() for seed in seeds]
    return max(one["seconds"] for one in done) / sum(one["samples"] for one in done)


def _first_version_rows(plan: Plan, now: Trainer, seeds: list[Trainer], first: Trainer) -> list[Row]:
    """One training with all threads against the first version's, and one thread for each of several seeds likewise."""
    rows = []
    for stage, name in (("finetuning", "finetune"), ("pretraining", "pretrain")):
        command = {"stage": stage, "batch_size": plan.scene_batch}
        calls = {"first": partial(first.seconds_a_sample, **command), "now": partial(now.seconds_a_sample, **command)}
        if seeds:
            calls["abreast"] = partial(_abreast, seeds, command)
        seconds = side_by_side(calls, plan.repetitions, plan.warm_up)
        rows.append(row(f"{name}_step_speedup", ratio(seconds, "first", "now"), "times"))
        if seeds:
            rows.append(row(f"{name}_abreast_speedup", ratio(seconds, "first", "abreast"), "times"))
    return rows


def _extract(commit: str, folder: Path) -> bool:
    """The library as of `commit` into `folder`; False where git or the commit is missing."""
    try:
        archive = subprocess.run(
            ["git", "archive", commit, "amc_lib"], cwd=ROOT, capture_output=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return False
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return True
