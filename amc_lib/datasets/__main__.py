"""`python -m amc_lib.datasets check ROOT [--decode]`: is the data of the paper tier there and whole?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from amc_lib.datasets.check import FAILED, check


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what `check` finds; 1 if anything that the study needs is missing or broken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m amc_lib.datasets")
    parser.add_argument("command", choices=["check"])
    parser.add_argument("root", help="the folder of the data, such as data/paper")
    parser.add_argument("--decode", action="store_true", help="open every picture too (takes long)")
    options = parser.parse_args(arguments)
    rows = check(options.root, options.decode)
    for row in rows.itertuples():
        of_all = "" if pd.isna(row.expected) else f" of {row.expected:,}"
        print(f"{row.verdict:9}{row.set:20}{row.what}" + ("" if pd.isna(row.found) else f": {row.found:,}{of_all}"))
    failed = int(rows["verdict"].isin(FAILED).sum())
    print(f"{failed} of {len(rows)} lines missing or broken" if failed else "nothing missing, nothing broken")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
