"""The README says what the csv files say, and names notebooks, modules and files that are there."""

from __future__ import annotations

import importlib.util
import re

import pandas as pd
import pytest

from amc_lib.files import ROOT
from amc_study.report.readme import README, ablation_block, accuracy_block, full_size_block, renewed, with_block

TEXT = README.read_text(encoding="utf-8")


def test_tables_are_made_of_the_committed_csv():
    assert renewed(TEXT) == TEXT, "python -m amc_study.report.readme renews them"


def test_block_holds_each_number_where_it_belongs():
    row = {"accuracy": 69.84, "ci_low": 68.7, "ci_high": 70.85, "phrases": 5, "seeds": 3}
    table = pd.DataFrame(
        [
            {"system": "AMC", "split": "phrases", "concepts": "all"} | row,
            {"system": "chance", "split": "phrases", "concepts": "unboxed"} | row | {"accuracy": 3.7},
        ]
    )
    costs = pd.DataFrame([{"system": "AMC", "weights_millions": 5.43, "ms_first_phrase": 61.4, "ms_further_phrase": 8}])
    head, _, chance, amc = accuracy_block(table, costs).splitlines()
    assert [cell.strip() for cell in amc.split("|")[1:3]] == ["AMC", "69.8 [68.7, 70.8]"]
    assert amc.endswith("| – | – | – | 5.4 | 61 + 8 |")
    assert chance.split("|")[5].strip() == "3.7 [68.7, 70.8]" and head.count("|") == chance.count("|")


def test_ablations_hold_differences_and_mark_the_sure_ones():
    row = {"split": "phrases", "concepts": "all", "accuracy": 70.0}
    other = {"split": "referring A"} | {"setting": "both", "concepts": "all", "accuracy": 1.0, "seeds": 9}
    settings = [
        {"setting": "no boxes", "difference": -4.26, "p": 0.001, "seeds": 5} | row,
        {"setting": "L_mean", "difference": 0.34, "p": 0.2, "seeds": 4} | row,
        {"setting": "both", "seeds": 5} | row,
        other,
    ]
    _, _, line = ablation_block({"terms": pd.DataFrame(settings), "unknown": pd.DataFrame()}).splitlines()
    assert line == "| Which of the two terms does it? | both (70.0 %) | no boxes **−4.3**, L_mean +0.3 | 4 to 5 |"


def test_full_size_steps_are_shown_at_the_two_largest_batches_of_each_form():
    columns = ["device", "precision", "checkpointing", "batch", "seconds", "memory_gib", "how"]
    rows = [("A100", "bf16", False, batch, batch / 1000, batch / 3, "computed") for batch in (64, 16, 32)]
    rows += [("2 threads", "bf16", True, 2, 1.924, 7.7, "measured")]
    _, _, card, here = full_size_block(pd.DataFrame(rows, columns=columns)).splitlines()
    assert card == "| A100 | bf16 | 32 / 64 | 0.032 / 0.064 | 11 / 21 | computed |"
    assert here == "| 2 threads | bf16, checkpointing | 2 | 1.9 | 7.7 | measured |"


def test_text_without_marks_is_refused():
    assert with_block("a <!-- x -->old<!-- end of x --> b", "x", "new") == "a <!-- x -->\n\nnew\n\n<!-- end of x --> b"
    with pytest.raises(ValueError, match="lacks the marks"):
        with_block("a <!-- x --> b", "x", "new")


def test_notebooks_modules_and_files_that_it_names_are_there():
    for number in re.findall(r"`(\d\d_\w+)`", TEXT):
        assert (ROOT / "notebooks" / f"{number}.ipynb").is_file(), number
    for module in re.findall(r"python -m (amc_lib[\w.]*)", TEXT):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"[(`]((?:figures|tests|data|notebooks)/[\w./-]+\.(?:csv|png|py|md|ipynb))", TEXT):
        assert (ROOT / path).is_file(), path
