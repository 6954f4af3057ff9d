"""After 08_benchmarks has run: its outputs into the notebook, its table into the README.

papermill notebooks/08_benchmarks.ipynb runs/08_benchmarks.ipynb
python -m amc_study.benchmarks runs/08_benchmarks.ipynb
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat

from amc_lib.files import ROOT, write_bytes
from amc_study.benchmarks.summary import renew_readme
from amc_study.order import NOTEBOOKS
from amc_study.report.publish import with_outputs

NOTEBOOK, README = NOTEBOOKS / "08_benchmarks.ipynb", ROOT / "README.md"


def main(arguments: list[str] | None = None, notebook: Path = NOTEBOOK, readme: Path = README) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("executed", nargs="?", type=Path, help="the executed notebook; without it only the README")
    executed = parser.parse_args(arguments).executed
    if executed is not None:
        filled = with_outputs(nbformat.read(notebook, as_version=4), nbformat.read(executed, as_version=4))
        write_bytes(notebook, f"{nbformat.writes(filled)}\n".encode())
    renew_readme(readme)


if __name__ == "__main__":
    main()
