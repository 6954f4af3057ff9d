"""README.md and two pages in figures/ (README.md, REPORT.md), filled from the tables there by templates (*.j2)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from amc_lib.checkpoints import SHIPPED
from amc_lib.files import ROOT, write_bytes
from amc_study.explain.claims import AIMS
from amc_study.figures import FOLDER
from amc_study.report.tuning import tuning
from amc_study.report.wording import (
    HEADINGS,
    cells,
    change,
    first,
    headings,
    listed,
    markdown,
    number,
    signed,
    where,
    wide,
)
from amc_study.run_folder import open_run

PAGES = {
    "README.md.j2": ROOT / "README.md",
    "figures.md.j2": FOLDER / "README.md",
    "report.md.j2": FOLDER / "REPORT.md",
}
VERDICT_WORDS = {"holds": "ahead of", "does not hold": "behind", "undecided": "not told apart from"}


def trained(checkpoint: str) -> dict[str, Any]:
    """The account of a shipped checkpoint's training: seconds, threads, processor and the rest of its provenance."""
    return open_run(SHIPPED / checkpoint).metrics["provenance"]


@dataclass(frozen=True)
class Results:
    """The tables (csv) and provenance (json) of a folder."""

    folder: Path = FOLDER

    def table(self, name: str) -> pd.DataFrame | None:
        """None where the file is missing or empty."""
        path = self.folder / f"{name}.csv"
        return pd.read_csv(path) if path.is_file() and path.read_text(encoding="utf-8").strip() else None

    def account(self, name: str) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def files(self, name: str) -> list[str]:
        """NAME.png, NAME.csv ...: what there is besides the provenance."""
        return sorted(path.name for path in self.folder.glob(f"{name}.*") if path.suffix != ".json")

    def missing(self, *names: str) -> list[str]:
        return [f"{name}.csv" for name in names if self.table(name) is None]

    def accuracy(self, system: str, split: str = "phrases", concepts: str = "all") -> dict[str, Any]:
        """A row of table1.csv; empty where there is none."""
        return first(where(self.table("table1"), system=system, split=split, concepts=concepts))

    def lead(self, rival: str, split: str = "phrases", concepts: str = "all") -> dict[str, Any]:
        """By how many points AMC is ahead of `rival`: the row of the paired comparison in claims.csv.

        Without such a row the numbers are NaN and `claim` is None.
        """
        task = split if concepts == "all" else "concepts never boxed"
        row = first(where(self.table("claims"), claim=f"AMC is better than {rival}: {task}"))
        unknown = {"claim": None} | dict.fromkeys(("difference", "ci_low", "ci_high"), math.nan)
        return row if pd.notna(row.get("difference")) else unknown

    def independent(self) -> bool:
        """Whether each seed of these tables has a base and a detector of its own."""
        account = self.account("accuracy")
        made = account.get("checkpoints", {})
        parts = made.get("ALBEF", []), account.get("detectors", []), made.get("AMC", [])
        return len({len(set(hashes)) for hashes in parts}) == 1

    def ablation(self, name: str) -> dict[str, Any]:
        """base: the setting that others are compared with, on the first split; table: all, with their differences."""
        table = self.table(f"ablation_{name}")
        split = table["split"][0]
        rows = where(table, split=split, concepts="all")
        of_split = {"phrases": (split, "all"), "phrases, never boxed": (split, "unboxed")}
        wide = headings(table, "setting", HEADINGS if split == "phrases" else of_split)
        wide["difference on phrases"] = rows.set_index("setting").apply(change, axis=1)
        if "gain" in rows:
            wide["own − random"] = cells(rows.set_index("setting"), "gain")
        return {"base": first(rows[rows["difference"].isna()]), "table": wide.reset_index()}

    def questions(self) -> pd.DataFrame:
        """What was asked of each system on the first split, and in which way: accuracies with intervals, in columns."""
        if self.missing("table1", "wrong_phrases", "groups"):
            return pd.DataFrame()
        table1, asked, groups = (self.table(name) for name in ("table1", "wrong_phrases", "groups"))
        split = table1["split"][0]
        ways = where(asked, split=split, concepts="all")
        parts = {
            name: where(ways, asked=name) for name in ("own phrase", "random phrase", "other phrase", "own − random")
        }
        own = where(groups, asked="own phrase")
        parts |= {f"own, {letter}": where(table1, split=f"{split}, {letter}") for letter in ("which A", "which B")}
        parts["own, never boxed"] = where(table1, split=split, concepts="unboxed")
        parts["own, smallest quarter"] = where(own, by="quarter", group="1")
        columns = {name: part.set_index("system").pipe(cells, "accuracy") for name, part in parts.items()}
        order = table1["system"].unique()
        return pd.DataFrame(columns).reindex(order).fillna("").rename_axis("pointing accuracy, %").reset_index()

    def first_split(self) -> str:
        """The title of the split that table 1 begins with."""
        return self.table("table1")["split"][0]

    def gained(self, rival: str, asked: str, on: str = "wrong_phrases") -> dict[str, Any]:
        """AMC minus `rival` on the first split, asked in this way: a row of wrong_phrases_paired.csv.

        on: "second_base" for the systems above the second base.
        """
        return first(where(self.table(f"{on}_paired"), **{"AMC minus": rival, "asked": asked}))

    def table1(self) -> pd.DataFrame:
        """Table 1 with intervals, and what each system costs as far as it was measured."""
        if self.missing("table1"):
            return pd.DataFrame({"pointing accuracy, %": ["missing: table1.csv"]})
        wide = headings(self.table("table1"), "system")
        if not self.missing("costs"):
            costs = self.table("costs").set_index("system")
            wide["weights, M"] = costs["weights_millions"].map("{:.1f}".format)
            wide["ms a phrase"] = costs["ms_first_phrase"].map("{:.0f}".format)
        return wide.fillna("").rename_axis("pointing accuracy, %").reset_index()


def side_by_side(photos: Results, scenes: Results) -> pd.DataFrame:
    """Table 1 of photographs beside that of drawn scenes, without intervals; what was not asked is a dash."""
    own = photos.first_split()
    asked = {
        "photographs": (photos, own, "all"),
        "which A": (photos, f"{own}, which A", "all"),
        "which B": (photos, f"{own}, which B", "all"),
        "never boxed": (photos, own, "unboxed"),
        "drawn scenes": (scenes, "phrases", "all"),
        "A": (scenes, "referring A", "all"),
        "B": (scenes, "referring B", "all"),
        "never boxed ": (scenes, "phrases", "unboxed"),
    }
    found = {
        name: where(results.table("table1"), split=split, concepts=concepts).set_index("system")["accuracy"].map(number)
        for name, (results, split, concepts) in asked.items()
    }
    systems = scenes.table("table1")["system"].unique()
    return pd.DataFrame(found).reindex(systems).fillna("–").rename_axis("pointing accuracy, %").reset_index()


def agreements(photos: Results, scenes: Results) -> dict[str, list[str]]:
    """What is found where both tiers test a claim, in words: `agree`, and `differ` with AMC's lead in each."""
    both = photos.table("claims").merge(scenes.table("claims"), on="claim", suffixes=("", "_drawn"))
    names = both["claim"].str.extract("than (?P<other>.*): (?P<test>.*)")
    found: dict[str, list[str]] = {"agree": [], "differ": []}
    for (other, *verdicts), rows in both.join(names).groupby(["other", "verdict", "verdict_drawn"], sort=False):
        real, drawn = (VERDICT_WORDS[verdict] for verdict in verdicts)
        tests = listed([*rows["test"]])
        if real == drawn:
            found["agree"].append(f"it is {real} {other} on {tests}")
        else:
            leads = [", ".join(map(signed, rows[column])) for column in ("difference", "difference_drawn")]
            sides = f"{real} {other} on photographs ({leads[0]}) and {drawn} it on scenes ({leads[1]})"
            found["differ"].append(f"on {tests} it is {sides}")
    return found


def render(template: str, folder: Path = FOLDER) -> str:
    """The page that a template gives with the tables of `folder`."""
    layout = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **layout)
    results = Results(folder)
    names = "table account files missing accuracy lead ablation table1 independent"
    environment.globals |= {name: getattr(results, name) for name in names.split()}
    photos = Results(folder / "photos")
    environment.globals |= {"results": results, "photos": photos, "aims": AIMS}
    environment.globals |= {"agreements": partial(agreements, photos, results)}
    environment.globals |= {"side_by_side": partial(side_by_side, photos, results)}
    environment.globals |= {"trained": trained, "tuning": partial(tuning, folder)}
    for function in (where, first, cells, number, signed, wide, markdown, listed):
        environment.filters[function.__name__] = function
    return environment.get_template(template).render()


def write_pages() -> None:
    for template, path in PAGES.items():
        write_bytes(path, render(template).encode())
