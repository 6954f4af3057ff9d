"""`python -m amc_lib.datasets check ROOT [--decode]`: is the data of the paper tier there and whole?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from amc_lib.datasets.check import FAILED, check


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what `check` found; 1 if anything that the study needs is missing or broken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m amc_lib.datasets")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="say what of the paper tier's data is there, missing or broken")
    checking.add_argument("root", help="the folder of the data, such as data/paper")
    checking.add_argument("--decode", action="store_true", help="open every picture too (takes long)")
    options = parser.parse_args(arguments)
    found = check(options.root, options.decode)
    for row in found.itertuples(index=False):
        print(f"{row.verdict:9}{row.set:22}{row.what}{_numbers(row.found, row.expected)}")
    failed = int(found["verdict"].isin(FAILED).sum())
    print(f"{failed} of {len(found)} lines missing or broken" if failed else "nothing missing, nothing broken")
    return int(failed > 0)


def _numbers(found: int, expected: int) -> str:
    if pd.isna(found):
        return ""
    return f": {found:,}" if pd.isna(expected) else f": {found:,} of {expected:,}"


if __name__ == "__main__":
    sys.exit(main())
