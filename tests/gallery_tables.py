"""Made-up tables of everything that the study may leave under figures/, for tests of the page that shows them."""

from itertools import product

import explanation_tables as made
import pandas as pd
from test_figures_results import accuracy_table

from amc_study.figures import FOLDER
from amc_study.report.gallery.ablations import GRID

SYSTEMS = {"chance": 3.7, "ALBEF": 60.7, "ALBEF finetuned": 65.2, "AMC": 69.84, "VMRM": 87.3}


def ablation(name: str) -> pd.DataFrame:
    """The settings of the grid, each a point below the one before; the first differs for sure, the others do not."""
    against, parts = GRID[name]["against"], []
    for n, label in enumerate(pd.read_csv(FOLDER / f"ablation_{name}.csv")["setting"].unique()):
        part = accuracy_table(half=1.0, systems={"AMC": 69.8 - n}).assign(setting=label)
        numbers = {} if label == against else {"difference": -n - 1.25, "p": 0.2 if n else 0.001}
        parts.append(part.assign(difference_low=-9.0, difference_high=1.0, **{"difference": None, "p": None} | numbers))
    columns = [*accuracy_table().columns, "difference", "difference_low", "difference_high", "p"]
    return pd.concat(parts)[["setting", *columns]]


def ranks() -> pd.DataFrame:
    row = {"split": "phrases", "concepts": "all", "settings": 4, "spearman": 0.8, "light": "a < b", "full": "b < a"}
    return pd.DataFrame([row])


def retrieval() -> pd.DataFrame:
    rows = [
        (system, task, "match", "recall@1", value, value - 2, value + 2, 0.1, 800, 3)
        for task, (system, value) in product(
            ("picture to caption", "caption to picture"), {"ALBEF": 40.0, "AMC": 41.25}.items()
        )
    ]
    columns = ["system", "task", "score", "measure", "value", "ci_low", "ci_high", "chance", "pictures", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def misses() -> pd.DataFrame:
    shares = {"right": 69.8, "another thing": 20.1, "close by": 4.1, "elsewhere": 6.0}
    rows = [("AMC", "phrases", name, share, share - 1, share + 1, 6745, 3) for name, share in shares.items()]
    return pd.DataFrame(rows, columns=["system", "split", "point_on", "share", "ci_low", "ci_high", "phrases", "seeds"])


def faithfulness() -> pd.DataFrame:
    rows = [
        (fill, system, curve, order, "all", 0.2, 0.1, 0.3, gain, gain - 0.01, gain + 0.01, 300, 3)
        for fill, (system, gain), curve, order in product(
            ("mean colour", "blur"),
            {"ALBEF": 0.05, "AMC": 0.0625}.items(),
            ("deletion", "insertion"),
            ("heatmap", "random"),
        )
    ]
    columns = ["fill", "system", "curve", "order", "where", "area", "area_low", "area_high", "gain", "gain_low"]
    return pd.DataFrame(rows, columns=[*columns, "gain_high", "answers", "seeds"])


def film() -> pd.DataFrame:
    rows = [
        ("ALBEF finetuned", 0, 63.1, 812),
        ("ALBEF finetuned", 180, 66.0, 812),
        ("AMC", 0, 63.1, 812),
        ("AMC", 180, 68.44, 812),
    ]
    return pd.DataFrame(rows, columns=["system", "step", "accuracy", "phrases"])


TABLES = {
    "table1": accuracy_table(1.0, SYSTEMS),
    "training": film(),
    "explanation_quality": made.measures().assign(split="phrases"),
    "difficulty": made.difficulty(),
    "faithfulness": faithfulness(),
    "faithfulness_curves": made.curves(),
    "randomisation": made.randomisation(),
    "retrieval": retrieval(),
    "misses": misses(),
    "claims": made.claims().assign(p_holm=0.00001),
    **{f"ablation_{name}": ablation(name) for name in GRID},
    "ablation_ranks": ranks(),
}
PICTURES = (*TABLES, "accuracy", "poster")
