"""`python -m amc_lib.datasets check [ROOT] [--decode]`: are the photographs of the photos and paper tiers whole?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from amc_lib.datasets.check import FAILED, PAPER, PHOTOS, check
from amc_lib.files import data_root, photos_root


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what `check` finds; 1 if anything that a tier needs is missing or broken, else 0.

    With a root, that is the paper tier's data below it; without one, the photos tier's data where they lie, and the
    paper tier's if their folder is there.
    """
    parser = argparse.ArgumentParser(prog="python -m amc_lib.datasets")
    parser.add_argument("command", choices=["check"])
    parser.add_argument("root", nargs="?", help="the folder of the paper tier, such as data/paper; else both tiers")
    parser.add_argument("--decode", action="store_true", help="open every picture too (takes long)")
    options = parser.parse_args(arguments)
    if options.root:
        tables = [_print("paper", Path(options.root), options.decode)]
    else:
        tables = [_print("photos", photos_root(), options.decode)]
        if data_root().is_dir():
            tables.append(_print("paper", data_root(), options.decode))
        else:
            print(f"paper tier: there is no {data_root()}")
    rows = pd.concat(tables)
    failed = int(rows["verdict"].isin(FAILED).sum())
    sentence = f"{failed} of {len(rows)} lines missing or broken; data/README.md says where everything comes from"
    print(sentence if failed else "nothing missing, nothing broken")
    return int(failed > 0)


def _print(tier: str, root: Path, decode: bool) -> pd.DataFrame:
    """What `check` finds of a tier below `root`, printed line by line."""
    print(f"{tier} tier: {root}")
    rows = check(root, decode, {"photos": PHOTOS, "paper": PAPER}[tier])
    for row in rows.itertuples():
        of_all = "" if pd.isna(row.expected) else f" of {row.expected:,}"
        print(f"{row.verdict:9}{row.set:20}{row.what}" + ("" if pd.isna(row.found) else f": {row.found:,}{of_all}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
