"""What lies in a folder of figures, and its numbers as words and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from amc_study.explain.claims import CONFIRMED, NEVER_BOXED, NOT_TESTABLE, Claim

ENDS = ("ci_low", "ci_high")


@dataclass(frozen=True)
class Number:
    """A value with its 95 % interval, in percent or percentage points."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} % [{self.low:.1f}, {self.high:.1f}]"

    def is_apart_from(self, other: Number) -> bool:
        """Whether the two intervals have no point in common."""
        return self.low > other.high or other.low > self.high


class Results:
    """The tables (csv) and accounts (json) of a folder; None for what is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = lru_cache(maxsize=None)(self._table)
        self.account = lru_cache(maxsize=None)(self._account)

    def has(self, name: str) -> bool:
        """Is there a file of that name?"""
        return (self.folder / name).is_file()

    def _table(self, stem: str) -> pd.DataFrame | None:
        """None too for a file without a heading, which a table without rows leaves."""
        path = self.folder / f"{stem}.csv"
        return pd.read_csv(path) if path.is_file() and path.read_text(encoding="utf-8").strip() else None

    def _account(self, stem: str) -> dict[str, Any] | None:
        path = self.folder / f"{stem}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def settings(self, *stems: str) -> dict[str, Any]:
        """The settings of the first of those figures that has an account; empty if none has."""
        accounts = (self.account(stem) for stem in stems)
        return next((account["settings"] for account in accounts if account), {})

    def accuracy(self, system: str, split: str = "phrases", concepts: str = "all") -> Number | None:
        """A cell of table 1."""
        table = self.table("table1")
        if table is None:
            return None
        chosen = (table["system"] == system) & (table["split"] == split) & (table["concepts"] == concepts)
        rows = table[chosen]
        return Number(*rows[["accuracy", *ENDS]].iloc[0]) if len(rows) else None

    def paired(self, first: str, second: str, split: str = "phrases", concepts: str = "all") -> pd.Series | None:
        """The row of claims.csv that holds the paired difference of two systems; None where it was not tested."""
        table, task = self.table("claims"), split if concepts == "all" else NEVER_BOXED
        if table is None or (concepts != "all" and split != "phrases"):
            return None
        rows = table[(table["claim"] == Claim(first, second, task).text) & (table["verdict"] != NOT_TESTABLE)]
        return rows.iloc[0] if len(rows) else None

    def lead(self, first: str, second: str, split: str = "phrases", concepts: str = "all") -> str:
        """By how much one system is ahead of another or behind, as words; empty if one of them is not there.

        How sure that is: the interval of the paired difference or, where that was not taken, whether the intervals of
        the two accuracies overlap, which may hide a difference.
        """
        one, other = (self.accuracy(system, split, concepts) for system in (first, second))
        if one is None or other is None:
            return ""
        difference, paired = one.value - other.value, self.paired(first, second, split, concepts)
        side = "ahead of" if difference >= 0 else "behind"
        sure = "intervals apart" if one.is_apart_from(other) else "intervals overlap"
        if paired is not None:
            sure = f"paired {signed(paired['ci_low'])} to {signed(paired['ci_high'])}"
        return f"{abs(difference):.1f} points {side} {second} ({other.value:.1f} %; {sure})"

    def better(self, first: str, second: str, split: str = "phrases", concepts: str = "all") -> str:
        """Yes, no, or not for sure, by the paired test where there is one; empty if one of them is not there."""
        one, other = (self.accuracy(system, split, concepts) for system in (first, second))
        if one is None or other is None:
            return ""
        paired = self.paired(first, second, split, concepts)
        if paired is not None:
            return "Yes" if paired["verdict"] in CONFIRMED else "No" if paired["ci_high"] < 0 else "Not for sure"
        return ("Yes" if one.value > other.value else "No") if one.is_apart_from(other) else "Not for sure"


def signed(points: float) -> str:
    """Percentage points with their sign."""
    return f"{points:+.1f}".replace("-", "−")


def with_interval(table: pd.DataFrame, value: str, ends: Sequence[str] = ENDS, digits: int = 1) -> pd.Series:
    """Each row as "value [low, high]"; a dash where there is none."""
    numbers = zip(*(table[name] for name in (value, *ends)), strict=True)
    return pd.Series(
        ["–" if pd.isna(v) else f"{v:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for v, low, high in numbers],
        index=table.index,
        dtype=object,
    )


def across(table: pd.DataFrame, rows: Sequence[str], columns: str, cells: pd.Series) -> pd.DataFrame:
    """A column for each entry of `columns`, in the order in which entries and rows first appear; gaps are dashes."""
    wide = table.assign(cell=cells).pivot(index=list(rows), columns=columns, values="cell")
    order = pd.MultiIndex.from_frame(table[list(rows)].drop_duplicates()) if len(rows) > 1 else table[rows[0]].unique()
    return wide.reindex(index=order, columns=table[columns].unique()).fillna("–").reset_index()


def markdown(table: pd.DataFrame) -> str:
    """The table for GitHub; true as yes, false and what is missing as an empty cell."""
    heads = [str(name).replace("_", " ") for name in table.columns]
    lines = [_row(heads), f"|{'---|' * len(heads)}"]
    lines += [_row(map(_cell, record)) for record in table.itertuples(index=False, name=None)]
    return "\n".join(lines)


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value).replace("|", "\\|")


def listed(words: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def sentences(*parts: str) -> str:
    """Those that are not empty, one after the other."""
    return " ".join(part for part in parts if part)
