"""How much is measured: in full for the committed numbers, or on a tiny model to see that all of it works."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from amc_lib.config import ModelSettings, Settings, TextSettings, VisionSettings
from amc_lib.presets import preset
from amc_study.figures import FOLDER
from amc_study.runs import RUNS


@dataclass(frozen=True)
class Plan:
    """What the benchmarks run; sizes of batches are images."""

    model: Settings  # whose training step and pointing are measured
    repetitions: int = 5  # rounds that count
    warm_up: int = 1  # rounds before them
    batches: tuple[int, ...] = (2, 4)  # of the training step
    memory_batches: tuple[int, ...] = (2, 6, 10)  # over which memory per sample is fitted
    matmul_sizes: tuple[int, ...] = (1024, 2048, 3072, 4096)  # sides of square matrices
    drawn: int = 128  # scenes that are drawn, and then trained on
    scene_batch: int = 32  # images of a training step on scenes
    growth_batches: tuple[int, ...] = (1, 2, 4, 8)
    growth_sides: tuple[int, ...] = (128, 192, 256, 384)  # of the image, pixels, at a batch of 2
    growth_phrases: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # of one image
    growth_processes: tuple[int, ...] = (1, 2, 4)  # that share pictures to point at, one thread each
    growth_images: int = 8  # which they share
    growth_rounds: int = 3  # of every point of the growth, after one that does not count
    first_version: str | None = "74a6814"  # commit of the first landed study, for the training's speed then
    own_processes: bool = True  # False: memory and growth are taken in this process, which is no measure of memory
    folder: Path = FOLDER  # where results are written


def benchmark_plan(quick: bool, output: str | None = None) -> Plan:
    """The full plan or the quick one; `output` is a folder in place of its own. ValueError for another `quick`."""
    if not isinstance(quick, bool):
        raise ValueError(f"quick must be True or False, got {quick!r}")
    plan = _quick_plan() if quick else Plan(preset("paper"))
    return replace(plan, folder=Path(output)) if output else plan


def _quick_plan() -> Plan:
    paper = preset("paper")
    vision = VisionSettings(image_size=64, width=32, depth=2, heads=2)
    text = TextSettings(vocab_size=1200, width=32, layers=4, fusion_from=2, heads=2, ffn_width=64)
    tiny = replace(
        paper,
        model=ModelSettings(vision, text, embed_dim=16, queue_size=64),
        amc=replace(paper.amc, layer=2, map_size=256),
    )
    return Plan(
        tiny,
        repetitions=2,
        memory_batches=(2, 4),
        matmul_sizes=(64, 128),
        drawn=4,
        scene_batch=2,
        growth_batches=(1, 2, 3),
        growth_sides=(32, 48, 64),
        growth_phrases=(1, 2, 4),
        growth_processes=(1, 2, 4),
        growth_images=4,
        growth_rounds=1,
        first_version=None,
        own_processes=False,
        folder=RUNS / "benchmarks-quick",
    )
