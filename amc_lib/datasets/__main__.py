"""Data at the command line.

`python -m amc_lib.datasets check [ROOT] [--decode]`: are the photographs of the photos and paper tiers whole?
`python -m amc_lib.datasets import SOURCE TABLE.csv [--images FOLDER] [--phrase FIELD]`: what an annotation tool wrote
(COCO, Pascal VOC, YOLO, Label Studio, VIA, CSV) as the table that notebook 07 reads.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from amc_lib.datasets import own_table
from amc_lib.datasets.annotations import convert, picture_folder
from amc_lib.datasets.check import FAILED, PAPER, PHOTOS, check
from amc_lib.files import data_root, photos_root, write_csv


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all is well, else 1.

    `check` prints what it finds, and fails if anything that a tier needs is missing or broken. With a root, that is
    the paper tier's data below it; without one, the photos tier's data where they lie, and the paper tier's if their
    folder is there.
    """
    parser = argparse.ArgumentParser(prog="python -m amc_lib.datasets")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="what of the photographs of both tiers is there")
    checking.add_argument("root", nargs="?", help="the folder of the paper tier, such as data/paper; else both tiers")
    checking.add_argument("--decode", action="store_true", help="open every picture too (takes long)")
    importing = commands.add_parser("import", help="what an annotation tool wrote, as a table of one's own")
    importing.add_argument("source", help="its file or folder")
    importing.add_argument("table", type=Path, help="the CSV to write")
    importing.add_argument("--images", help="the folder of the pictures; by default that of the source")
    importing.add_argument("--phrase", help="a field of an annotation that is its phrase, not its label")
    options = parser.parse_args(arguments)
    if options.command == "import":
        return _import(Path(options.source), options.table, options.images, options.phrase)
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


def _import(source: Path, table: Path, images: str | None, phrase: str | None) -> int:
    """Write the table and say how many rows it has, what was left out, and whether it can be used as it is."""
    table = table.expanduser()
    try:
        if table.absolute() == source.expanduser().absolute():
            raise ValueError(f"{table}: is the source, which stays as it is: name another table")
        folder = Path(images).expanduser() if images else picture_folder(source)
        rows, skipped, clipped = convert(source, folder, phrase)
        write_csv(table, rows)
        print(*(f"left out: {sentence}" for sentence in skipped), sep="\n", end="\n" if skipped else "")
        left_out = f"{len(skipped)} left out, {clipped} clipped to their picture"
        print(f"{table}: {len(rows)} boxes of {rows['image'].nunique()} pictures, {left_out}")
        regions = own_table.read(table, folder)
    except (OSError, ValueError) as error:
        print(error)
        return 1
    splits, images = ({getattr(region, name) for region in regions} for name in ("split", "image_id"))
    if {"train", "test"} <= splits or (splits == {""} and len(images) > 1):
        command = f"-p csv {shlex.quote(f'{table}')} -p images {shlex.quote(f'{folder}')}"
        print(f"{len(regions)} phrases, ready for: papermill notebooks/07_your_data.ipynb out.ipynb {command}")
    else:
        print(f"{len(regions)} phrases; notebook 07 needs two pictures, and if there is a column split, train and test")
    return 0


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
