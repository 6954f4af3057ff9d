"""Before and after on photographs that anyone may show: `python -m amc_study.report.photographs`, in a few seconds.

The phrases and boxes of data/photographs/boxes.csv were written down before any model was asked.
"""

from __future__ import annotations

from amc_lib.datasets import own_table
from amc_lib.files import ROOT
from amc_lib.grounder import Grounder
from amc_lib.presets import preset
from amc_study.comparison import shipped_name
from amc_study.figures import FOLDER, qualitative_figure, save
from amc_study.figures.inputs import example_of
from amc_study.provenance import provenance
from amc_study.runs import pretrained

BOXES = ROOT / "data" / "photographs" / "boxes.csv"


def main() -> None:
    settings = preset("photos")
    sources = {"ALBEF": pretrained(settings), "AMC": shipped_name("AMC", "photos")}
    grounders = {system: Grounder.load(source) for system, source in sources.items()}
    examples = [example_of(region, grounders) for region in own_table.read(BOXES)]
    save(qualitative_figure(examples, abreast=2), FOLDER / "photos", "photographs", provenance(settings, seed=0))


if __name__ == "__main__":
    main()
