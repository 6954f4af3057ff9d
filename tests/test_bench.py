"""`python -m tests.bench` measures the rows that are published, here on a model of toy size."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from amc_lib.files import ROOT
from amc_lib.presets import preset
from amc_study.figures import FOLDER
from tests.bench import measure, paper_step, using
from tests.bench.pointing import pointing_rows
from tests.bench.stepper import Stepper, count_flops, kept_bytes, random_batch
from tests.bench.steps import agreement_rows, step_rows


@pytest.fixture(scope="module")
def toy():
    paper = preset("paper")
    vision = replace(paper.model.vision, width=48, heads=4, depth=2, image_size=64)
    text = replace(paper.model.text, width=48, heads=4, layers=4, fusion_from=2, ffn_width=64, vocab_size=400)
    model = replace(paper.model, vision=vision, text=text, queue_size=64)
    return replace(paper, model=model, amc=replace(paper.amc, layer=3, map_size=16))


def test_rows_are_those_published_and_both_forms_agree(toy):
    rows = step_rows(toy, (2,), 1, (16,)) + agreement_rows(toy) + pointing_rows(toy, 1)
    values = {row.name: row.value for row in rows}
    assert len(values) == len(rows)
    kept = {"train_step_speedup", "train_step_speedup_bf16", "evaluation_speedup", "matmul_share", "amc_overhead"}
    assert kept <= set(values) and kept <= set(pd.read_csv(FOLDER / "benchmarks.csv")["name"])
    assert values["train_step_loss_difference_float32"] < 1e-5 and values["evaluation_points_equal"] == 100


def test_rounds_alternate_and_rows_hold_their_median_and_ends():
    calls = []
    seconds = measure.alternating({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    order = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert order == ["a", "b", "a"]  # a b, then b a
    row = measure.row("x", [3.0, 1.0, 2.0], "s")
    assert (row.value, row.low, row.high) == (2.0, 1.0, 3.0)
    assert measure.ratios({"slow": [4.0, 9.0], "fast": [2.0, 3.0]}, "slow", "fast") == [2.0, 3.0]


def test_operations_and_memory_grow_with_the_batch(toy):
    stepper = Stepper(toy)
    flops = [count_flops(stepper, random_batch(size, toy)) for size in (2, 4)]
    assert flops[1] == pytest.approx(2 * flops[0], rel=0.1)
    assert kept_bytes(stepper, random_batch(4, toy)) > 1.5 * kept_bytes(stepper, random_batch(2, toy))


def test_hours_on_visual_genome_follow_the_computed_step():
    table = pd.DataFrame([("A100 80 GB", "bf16", False, 64, 0.36, 15.0, "computed")], columns=list(paper_step.COLUMNS))
    images, regions = (row.value for row in paper_step.visual_genome_rows(table))
    assert images == pytest.approx(0.36 * 108_077 * 30 / (64 * 8 * 0.9 * 3600), rel=1e-3)
    assert regions / images == pytest.approx(5_408_689 / 108_077, rel=1e-3)


def peak_of_arrays(before: int, after: int) -> int:
    """Bytes at most, of a process that freed an array of `before` bytes and then holds one of `after`."""
    np.ones(before, np.uint8)
    measure.forget_peak()
    held = np.ones(after, np.uint8)
    return measure.peak_memory() + 0 * len(held)


def test_peak_memory_is_of_what_a_process_holds_not_of_what_started_it():
    here = np.ones(6 * 10**8, np.uint8)  # of the parent
    little, much = (measure.alone(peak_of_arrays, 4 * 10**8, after) for after in (10**6, 3 * 10**8))
    assert measure.peak_memory() > len(here)
    assert much - little == pytest.approx(3 * 10**8, rel=0.1)


def test_photographs_count_once_and_their_phrases_each(monkeypatch):
    def timed(calls, rounds):
        for call in calls.values():
            call()
        return {"read": [2.0] * rounds, "answer": [4.0] * rounds}

    monkeypatch.setattr(using, "alternating", timed)
    monkeypatch.setattr(using, "PHRASES", ["a cat", "a cup"])
    count = len(list((ROOT / "data" / "photographs").glob("*.jpg")))
    read, answered = using.photographs_rows(1)
    assert (read.value, answered.value) == (count / 2, 2 * count / 4)


def test_further_phrases_are_what_many_take_longer_than_one(monkeypatch):
    seconds = {"program": [6.0], "one": [5.0], "many": [9.0]}
    monkeypatch.setattr(using, "alternating", lambda calls, rounds: {name: seconds[name] * rounds for name in calls})
    start, further = using.command_rows(2)
    assert (start.value, further.value) == (6.0, 4.0 / using.FURTHER)


def test_seconds_of_the_study_are_those_of_its_stamps(tmp_path):
    (tmp_path / "steps").mkdir()
    for name, stamp in (("data", {"key": "a", "seconds": 12}), ("older", {"key": "b"})):
        (tmp_path / "steps" / f"{name}.json").write_text(json.dumps(stamp))
    assert [(row.name, row.value, row.unit) for row in using.study_rows(tmp_path)] == [
        ("study_seconds_data", 12.0, "s")
    ]
    assert using.study_rows(tmp_path / "elsewhere") == []
