"""One row for each number: its name, value, spread, unit and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import pandas as pd

from amc_study.benchmarks.timing import Spread, machine


@dataclass(frozen=True)
class Row:
    """`low` and `high` are the smallest and the largest round; equal to `value` where it was counted or taken once."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    machine: str


COLUMNS = tuple(Row.__dataclass_fields__)
DIGITS = 5  # significant, of what is written


def row(name: str, measured: Spread | float, unit: str, where: str | None = None) -> Row:
    """A row of this machine, or of another one named by `where`."""
    numbers = (measured.value, measured.low, measured.high) if isinstance(measured, Spread) else (measured,) * 3
    return Row(name, *(float(f"{number:.{DIGITS}g}") for number in numbers), unit, where or machine())


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Raises ValueError for a name that stands there twice."""
    frame = pd.DataFrame([astuple(one) for one in rows], columns=list(COLUMNS))
    twice = frame["name"][frame["name"].duplicated()]
    if len(twice):
        raise ValueError(f"two rows are named {twice.iloc[0]}")
    return frame
