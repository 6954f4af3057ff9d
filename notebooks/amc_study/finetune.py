"""Finetuning from the command line, on one device or many; the options are the parameters of 03_train.ipynb.

accelerate launch -m amc_study.finetune --tier paper --output runs/amc
"""

from __future__ import annotations

import argparse
import ast
import sys
from typing import Any

from amc_lib.parameters import FINETUNING_PARAMETERS, resolve
from amc_lib.train import DivergedError
from amc_study.run_folder import RunError
from amc_study.runs import finetune


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.finetune", description=__doc__.split("\n")[0])
    for name in FINETUNING_PARAMETERS:
        kind = str if name in ("init", "output", "tier") else _value
        parser.add_argument(f"--{name}", type=kind, help="as in 03_train.ipynb")
    given = vars(parser.parse_args(arguments))
    init, output, tier = (given.pop(name) for name in ("init", "output", "tier"))
    try:
        run = finetune(resolve(tier or "scenes", "finetuning", given), init, output)
    except (DivergedError, RunError, ValueError) as error:
        sys.exit(str(error))
    print(f"The run is in {run.folder}")


def _value(text: str) -> Any:
    """A number or a truth value where the text is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return text


if __name__ == "__main__":
    main()
