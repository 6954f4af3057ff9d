"""What the rows mean, what is asked of them, and the README's table out of figures/benchmarks.csv.

`python -m amc_study.benchmarks` puts the table between the README's marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from amc_lib.files import write_bytes
from amc_study.figures import FOLDER

CSV = FOLDER / "benchmarks.csv"
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


@dataclass(frozen=True)
class Claim:
    """A row that the README shows: what it says, and the bound that it must keep, if any.

    `wanted` is a larger bound that was aimed at and is not reached.
    """

    name: str
    says: str
    least: float | None = None
    most: float | None = None
    wanted: float | None = None

    def holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def bound(self) -> str:
        if self.wanted is not None:
            return f"{self.wanted:g}: **not reached**"
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most is not None else ""


CLAIMS = (
    Claim(
        "train_step_speedup",
        "Base-size step with AMC against its plain form, float32 (the lesser of batch 2 and 4)",
        1.5,
    ),
    Claim("train_step_speedup_bf16", "The same with bf16 autocast", 3.0),
    Claim("train_step_loss_difference_float32", "Largest relative difference of a loss, float32", most=1e-5),
    Claim("train_step_loss_difference_bf16", "The same, bf16", most=0.01),
    Claim("amc_overhead", "What AMC adds to the step", most=10.0),
    Claim("matmul_share", "Counted operations of the step over the measured matmul peak, float32", 55.0, wanted=75.0),
    Claim("memory_share", "Peak memory per sample against the plain form, float32", most=80.0),
    Claim("memory_share_bf16", "The same, bf16", most=55.0),
    Claim("evaluation_speedup", "14 phrases of an image at once, against phrase by phrase", 20.0),
    Claim("evaluation_points_equal", "Points that are equal both ways", 100.0),
    Claim("scenes_per_second", "Scenes drawn, all cores"),
    Claim("pretraining_samples_per_second", "Pretraining on scenes"),
    Claim("finetuning_samples_per_second", "Finetuning on scenes with AMC"),
    Claim("finetune_step_speedup", "Finetuning on scenes, against the first landed version", 1.2, wanted=2.0),
    Claim("finetune_abreast_speedup", "The same, two seeds side by side as in `make study`", 1.5, wanted=2.0),
    Claim("pretrain_abreast_speedup", "Pretraining on scenes, likewise", 1.4, wanted=2.0),
    Claim("clone_to_first_figure_seconds", "Fresh clone to first figure"),
    Claim("vg_hours_regions", "Visual Genome, every region description, 30 epochs on 8 A100"),
)


def readme_table(rows: pd.DataFrame) -> str:
    """The claims as Markdown: value, spread and bound; a row that was not measured is named as missing."""
    by_name = rows.set_index("name")
    lines = ["| | measured | smallest to largest | wanted |", "|---|---|---|---|"]
    for claim in CLAIMS:
        if claim.name not in by_name.index:
            lines.append(f"| {claim.says} | not measured | | {claim.bound} |")
            continue
        one = by_name.loc[claim.name]
        spread = "" if one["low"] == one["high"] else f"{_short(one['low'])} to {_short(one['high'])}"
        lines.append(f"| {claim.says} | {_short(one['value'])} {one['unit']} | {spread} | {claim.bound} |")
    machines = "; ".join(dict.fromkeys(name for name in rows["machine"] if " x " not in name))
    return "\n".join([*lines, "", f"On {machines}. All rows: `figures/benchmarks.csv` (`08_benchmarks`)."])


def with_table(text: str, table: str) -> str:
    """The text with what stands between its marks replaced. Raises ValueError where it lacks them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _short(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def renew_readme(readme: Path) -> None:
    """Put the table of the committed rows into the README."""
    text = with_table(readme.read_text(encoding="utf-8"), readme_table(pd.read_csv(CSV)))
    write_bytes(readme, text.encode())
