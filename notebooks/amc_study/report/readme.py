"""The README's tables, made of the csv files under figures/: `python -m amc_study.report.readme` renews them.

A table stands between the marks `<!-- name -->` and `<!-- end of name -->`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from amc_lib.files import ROOT, write_bytes
from amc_study.explain.claims import SIGNIFICANT
from amc_study.figures import FOLDER

README = ROOT / "README.md"
SYSTEMS = ("chance", "centre", "ALBEF", "ALBEF finetuned", "AMC", "VMRM", "oracle")
COLUMNS = {  # heading -> split and group of concepts
    "phrases": ("phrases", "all"),
    "referring A": ("referring A", "all"),
    "referring B": ("referring B", "all"),
    "phrases, never boxed": ("phrases", "unboxed"),
}
FULL_SIZE = {"batch": "d", "seconds": ".2g", "memory_gib": ".2g"}  # column of paper_step.csv -> its digits
BATCHES_SHOWN = 2  # of each device and form


def accuracy_block(table: pd.DataFrame, costs: pd.DataFrame) -> str:
    """Table 1 with intervals, and what each system that was measured costs; nothing is marked as best."""
    cells = {
        (row.system, row.split, row.concepts): f"{row.accuracy:.1f} [{row.ci_low:.1f}, {row.ci_high:.1f}]"
        for row in table.itertuples()
    }
    of_system = {
        row.system: (f"{row.weights_millions:.1f}", f"{round(row.ms_first_phrase)} + {round(row.ms_further_phrase)}")
        for row in costs.itertuples()
    }
    heads = ["pointing accuracy, %", *COLUMNS, "weights, M", "ms"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for system in SYSTEMS:
        accuracies = [cells.get((system, *column), "–") for column in COLUMNS.values()]
        if any(cell != "–" for cell in accuracies):
            lines.append(f"| {' | '.join([system, *accuracies, *of_system.get(system, ('', ''))])} |")
    return "\n".join(lines)


def ablation_block(tables: Mapping[str, pd.DataFrame]) -> str:
    """For each ablation by its name how far its settings are from the one that they are compared with.

    A difference whose corrected p lies below 0.05 is bold.
    """
    from amc_study.report.gallery.ablations import GRID

    lines = ["| | compared with | points on `phrases` | seeds |", "|---|---|---|---|"]
    for name, ablation in GRID.items():
        if name in tables:
            table = tables[name]
            part = table[(table["split"] == "phrases") & (table["concepts"] == "all")].set_index("setting")
            question, base = ablation["question"], ablation["against"]
            said = [_difference(setting, row) for setting, row in part.iterrows() if setting != base]
            against = f"{base} ({part['accuracy'][base]:.1f} %)"
            lines.append(f"| {question} | {against} | {', '.join(said)} | {_seeds(part['seeds'])} |")
    return "\n".join(lines)


def _difference(setting: str, row: pd.Series) -> str:
    points = f"{row['difference']:+.1f}".replace("-", "−")
    return f"{setting} **{points}**" if row["p"] < SIGNIFICANT else f"{setting} {points}"


def _seeds(seeds: pd.Series) -> str:
    least, most = seeds.min(), seeds.max()
    return f"{least}" if least == most else f"{least} to {most}"


def full_size_block(table: pd.DataFrame) -> str:
    """What an update of the full-size model needs: on each device, in each form, at its two largest batches."""
    lines = ["| device | precision | batch | seconds | GiB | |", "|---|---|---|---|---|---|"]
    forms = ["device", "how", "precision", "checkpointing"]
    for (device, how, precision, checkpointing), rows in table.groupby(forms, sort=False):
        largest = rows.nlargest(BATCHES_SHOWN, "batch").sort_values("batch")
        form = f"{precision}, checkpointing" if checkpointing else precision
        cells = [" / ".join(f"{value:{digits}}" for value in largest[name]) for name, digits in FULL_SIZE.items()]
        lines.append(f"| {' | '.join([device, form, *cells, how])} |")
    return "\n".join(lines)


def with_block(text: str, name: str, block: str) -> str:
    """The text with what stands between the marks of `name` replaced. Raises ValueError where it lacks them."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise ValueError(f"the text lacks the marks {begin} and {end}")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def blocks(folder: Path = FOLDER) -> Mapping[str, str]:
    """Every block by its name."""
    table, costs = (pd.read_csv(folder / name) for name in ("table1.csv", "costs.csv"))
    found = {path.stem.removeprefix("ablation_"): pd.read_csv(path) for path in folder.glob("ablation_*.csv")}
    full_size = full_size_block(pd.read_csv(folder / "paper_step.csv"))
    return {"table 1": accuracy_block(table, costs), "ablations": ablation_block(found), "full size": full_size}


def renewed(text: str) -> str:
    """The README's text with all of its tables as the csv files have them."""
    for name, block in blocks().items():
        text = with_block(text, name, block)
    return text


def main() -> None:
    write_bytes(README, renewed(README.read_text(encoding="utf-8")).encode())
