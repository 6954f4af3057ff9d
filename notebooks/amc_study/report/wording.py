"""Tables, numbers and lists as the pages write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

HEADINGS = {  # a column of table 1 -> split, group of concepts
    "phrases": ("phrases", "all"),
    "referring A": ("referring A", "all"),
    "referring B": ("referring B", "all"),
    "phrases, never boxed": ("phrases", "unboxed"),
}
SIGNIFICANT = 0.05  # corrected p below which a difference counts


def where(table: pd.DataFrame | None, **values: Any) -> pd.DataFrame:
    """The rows whose columns have these values."""
    if table is None:
        return pd.DataFrame()
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def first(table: pd.DataFrame) -> dict[str, Any]:
    return table.iloc[0].to_dict() if len(table) else {}


def headings(table: pd.DataFrame, rows: str, columns: Mapping[str, tuple[str, str]] = HEADINGS) -> pd.DataFrame:
    """Accuracies with intervals, a column for each of `columns` and a row for each value of `rows`."""
    keyed = table.assign(cell=cells(table, "accuracy")).set_index(rows)
    parts = {name: where(keyed, split=split, concepts=concepts)["cell"] for name, (split, concepts) in columns.items()}
    return pd.DataFrame(parts).reindex(table[rows].unique()).dropna(axis=1, how="all")


def cells(table: pd.DataFrame, value: str, form: str = ".1f") -> pd.Series:
    """Values as text, with their interval where the table has one: 69.8 [68.7, 70.8]."""
    ends = [f"{value}_low", f"{value}_high"] if f"{value}_low" in table else ["ci_low", "ci_high"]
    columns = [table[name] for name in (value, *ends) if name in table]
    return pd.Series([number(*values, form=form) for values in zip(*columns, strict=True)], table.index, dtype=object)


def number(value: float, low: float | None = None, high: float | None = None, form: str = ".1f") -> str:
    if pd.isna(value):
        return "–"
    return f"{value:{form}}" if low is None or pd.isna(low) else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def signed(value: float, form: str = ".1f") -> str:
    return "–" if pd.isna(value) else f"{value:+{form}}".replace("-", "−")


def change(row: Any) -> str:
    """A row's difference with its interval, bold where its corrected p is below SIGNIFICANT."""
    if pd.isna(row["difference"]):
        return "–"
    text = f"{signed(row['difference'])} [{signed(row['difference_low'])}, {signed(row['difference_high'])}]"
    return f"**{text}**" if row["p"] < SIGNIFICANT else text


def wide(table: pd.DataFrame, rows: str | Sequence[str], columns: str, value: str, form: str = ".1f") -> pd.DataFrame:
    """A column for each entry of `columns`, in the order of the table, with the values as text; gaps are dashes."""
    rows = [rows] if isinstance(rows, str) else list(rows)
    table = table.assign(cell=cells(table, value, form))
    frame = table.pivot(index=rows, columns=columns, values="cell").fillna("–").reset_index()
    order = table[rows].drop_duplicates().merge(frame, on=rows, how="left")
    return order[[*rows, *table[columns].unique()]]


def markdown(table: pd.DataFrame) -> str:
    """The table for GitHub."""
    words = {True: "yes", False: "", "True": "yes", "False": ""}
    text = table.map(lambda x: words.get(x, x) if isinstance(x, bool | str) else f"{x:,.5g}")
    text.columns = [str(name).replace("_", " ") for name in table.columns]
    return text.to_markdown(index=False, disable_numparse=True)


def listed(words: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
