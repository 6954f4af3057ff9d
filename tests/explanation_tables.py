"""Made-up tables of explanations, as large as those of the study with every system, for tests of their figures."""

from itertools import product

import pandas as pd

from amc_study.explain.claims import CLAIMS, FAILS, HOLDS, NOT_TESTABLE, UNDECIDED
from amc_study.explain.faithfulness import CURVES, ORDERS, SHARES
from amc_study.explain.randomisation import OTHER_PHRASE, OTHER_PICTURE, TRAINED

LEVELS = {"chance": 4.0, "ALBEF": 30.5, "ALBEF finetuned": 34.2, "AMC": 37.9, "VMRM": 61.0}
HEATMAPS = ("ALBEF", "ALBEF finetuned", "AMC")
MEASURES = ("energy", "IoU, fixed", "IoU, tuned", "IoU, best")
GROUPS = {
    "size": ["0.5–2.2 %", "2.2–3.3 %", "3.3–4.8 %", "4.8–12.2 %"],
    "things": ["6–7", "8", "9–10"],
    "overlap": ["none", "up to 20 %", "more"],
}


def measures(names=MEASURES) -> pd.DataFrame:
    rows = [(s, m, v + n, v + n - 1.5, v + n + 1.5) for (s, v), (n, m) in product(LEVELS.items(), enumerate(names))]
    return pd.DataFrame(rows, columns=["system", "measure", "value", "ci_low", "ci_high"])


def difficulty() -> pd.DataFrame:
    rows = [
        (by, group, system, value + 8 * n, value + 8 * n - 3, value + 8 * n + 3, 1234)
        for by, groups in GROUPS.items()
        for n, group in enumerate(groups)
        for system, value in LEVELS.items()
    ]
    return pd.DataFrame(rows, columns=["by", "group", "system", "accuracy", "ci_low", "ci_high", "phrases"])


def curves() -> pd.DataFrame:
    rows = []
    for system, (c, curve), (o, order), share in product(HEATMAPS, enumerate(CURVES), enumerate(ORDERS), SHARES):
        value = 0.35 * abs(c - (1 - share) ** (1 + 3 * o))
        rows.append((system, curve, order, share, value, value - 0.02, value + 0.02))
    columns = ["system", "curve", "order", "share", "probability", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def randomisation() -> pd.DataFrame:
    stages = ["match head", "fusion layer 5", "fusion layer 4", "fusion layer 3", "text layers", "image tower"]
    rows = []
    for s, system in enumerate(HEATMAPS):
        for n, stage in enumerate([TRAINED, *stages, OTHER_PHRASE, OTHER_PICTURE]):
            correlation = {TRAINED: None, OTHER_PHRASE: 0.4, OTHER_PICTURE: 0.0}.get(stage, 1 - 0.15 * n)
            pointing = None if stage in (OTHER_PHRASE, OTHER_PICTURE) else 70 + 2 * s - 10 * n
            row = {"system": system, "stage": stage, "order": n}
            for name, value, half in (("correlation", correlation, 0.02), ("pointing", pointing, 2)):
                ends = (value, value - half, value + half) if value is not None else (None,) * 3
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def claims() -> pd.DataFrame:
    rows = []
    for n, claim in enumerate(CLAIMS):
        verdict = (HOLDS, FAILS, UNDECIDED, NOT_TESTABLE)[n % 4]
        numbers = (None, None, None) if verdict == NOT_TESTABLE else (3.0 - n, 1.5 - n, 4.5 - n)
        rows.append((claim.text, claim.of, verdict, *numbers, 7.35 if n < 6 else None))
    columns = ["claim", "of", "verdict", "difference", "ci_low", "ci_high", "poster"]
    return pd.DataFrame(rows, columns=columns)
